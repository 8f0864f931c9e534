"""Options of CycleGAN: the defaults of the paper, and contradictions."""

import pytest
import torch

from cyclegan.discriminators import PatchDiscriminator
from cyclegan.options import TrainConfig, TranslateConfig


def test_the_defaults_are_those_of_the_paper():
    config = TrainConfig(dataroot="data")
    # Zhu et al. 2017, section 4 and appendix 7.
    assert (config.n_blocks, config.crop_size, config.batch_size, config.pool_size) == (9, 256, 1, 50)
    assert (config.lr, config.beta1, config.n_epochs, config.n_epochs_decay) == (2e-4, 0.5, 100, 100)
    assert (config.gan_loss, config.lambda_x, config.lambda_y, config.lambda_identity) == ("lsgan", 10, 10, 0.5)
    assert (config.ngf, config.ndf, config.n_layers_d) == (64, 64, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ngf": 0}, "--ngf must be at least 1, got 0"),
        ({"ndf": 0}, "--ndf must be at least 1, got 0"),
        ({"n_layers_d": 0}, "--n-layers-d must be at least 1, got 0"),
        ({"n_blocks": -1}, "--n-blocks must be 0 or more, got -1"),
        ({"pool_size": -1}, "--pool-size must be 0 or more, got -1"),
        ({"lambda_x": -0.5}, "--lambda-x must be 0 or more, got -0.5"),
        ({"lambda_y": float("nan")}, "--lambda-y must be 0 or more, got nan"),
        ({"palette": 1.5}, "--palette 1.5: expected a value from 0 (the picture's colors) to 1"),
        ({"lambda_identity": -1.0}, "--lambda-identity must be 0 or more, got -1.0"),
        ({"beta1": 1.0}, "--beta1 must be in [0, 1), got 1.0"),
        ({"lr": 0.0}, "--lr must be positive, got 0.0"),
        ({"name": "a/b"}, "--name 'a/b': expected the name of a folder"),
        ({"crop_size": 30}, "--crop-size 30: expected a multiple of 4, at least 32 with --n-layers-d 3"),
        ({"crop_size": 28}, "--crop-size 28: expected a multiple of 4, at least 32 with --n-layers-d 3"),
        (
            {"crop_size": 60, "n_layers_d": 4},
            "expected a multiple of 4, at least 64 with --n-layers-d 4",
        ),
        ({"crop_size": 12, "n_layers_d": 1}, "at least 16 with --n-layers-d 1"),
    ],
)
def test_invalid_options_of_a_training_are_refused(options, message):
    with pytest.raises(ValueError) as raised:
        TrainConfig(dataroot="data", **options)
    assert message in str(raised.value)


@pytest.mark.parametrize(("layers", "side"), [(1, 16), (2, 16), (3, 32), (4, 64)])
def test_the_smallest_crop_leaves_the_discriminator_something_to_judge(layers, side):
    TrainConfig(dataroot="data", n_layers_d=layers, crop_size=side)
    assert min(PatchDiscriminator(4, layers)(torch.rand(1, 3, side, side)).shape[2:]) >= 1


def test_losses_can_be_switched_off():
    config = TrainConfig(dataroot="data", lambda_x=0, lambda_y=0, lambda_identity=0, pool_size=0, n_blocks=0)
    assert config.lambda_identity == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": ()}, "no input: give a picture, a folder or a video, such as photo.jpg"),
        ({"size": 0}, "--size must be at least 1, got 0"),
        ({"tile": 63}, "--tile must be at least 64, got 63"),
        ({"threads": 0}, "--threads must be at least 1, got 0"),
    ],
)
def test_invalid_options_of_a_translation_are_refused(options, message):
    with pytest.raises(ValueError) as raised:
        TranslateConfig(**({"inputs": ("photo.jpg",)} | options))
    assert str(raised.value) == message
