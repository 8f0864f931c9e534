"""Options of CycleGAN: the defaults of the paper, presets, and contradictions."""

import dataclasses

import pytest
import torch

from cyclegan.discriminators import FeatureDiscriminator, PatchDiscriminator
from cyclegan.options import GeneratorConfig, PretrainConfig, TrainConfig, TranslateConfig


def train(preset="paper", **options):
    return TrainConfig.from_preset(preset, dataroot="data", **options)


def test_the_defaults_are_those_of_the_paper():
    config = train()
    # Zhu et al. 2017, section 4 and appendix 7.
    assert (config.generator.ngf, config.generator.n_blocks) == (64, 9)
    assert (config.discriminator.ndf, config.discriminator.n_layers_d) == (64, 3)
    assert (config.data.crop_size, config.data.batch_size, config.losses.pool_size) == (256, 1, 50)
    assert (config.schedule.lr, config.schedule.n_epochs, config.schedule.n_epochs_decay) == (2e-4, 100, 100)
    assert dataclasses.astuple(config.losses)[:4] == ("lsgan", 10, 10, 0.5)
    assert config == TrainConfig(data=config.data)


def test_the_networks_of_both_presets_named_paint_are_the_same():
    cycle, alone = train("paint"), PretrainConfig.from_preset("paint", dataroot="data")
    assert cycle.generator == alone.generator != GeneratorConfig()
    assert (cycle.discriminator.ndf, cycle.discriminator.discriminator) == (alone.ndf, "both")
    assert train("paint", ngf=16).generator == dataclasses.replace(cycle.generator, ngf=16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ngf": 0}, "--ngf must be at least 1, got 0"),
        ({"n_blocks": -1}, "--n-blocks must be 0 or more, got -1"),
        ({"upsample": "bilinear"}, "--upsample bilinear: expected resize or transposed"),
        ({"noise": -1.0}, "--noise must be 0 or more, got -1.0"),
        ({"noise_size": 65}, "noise_size must be in [1, 64], got 65"),
        ({"limit": -1.0}, "--limit must be 0 or more, got -1.0"),
        ({"keep_colors": 1.5}, "--keep-colors 1.5: expected a value from 0 to 1"),
        ({"n_layers_d": 0}, "--n-layers-d must be at least 1, got 0"),
        ({"pool_size": -1}, "--pool-size must be 0 or more, got -1"),
        ({"lambda_x": -0.5}, "--lambda-x must be 0 or more, got -0.5"),
        ({"lambda_y": float("nan")}, "--lambda-y must be 0 or more, got nan"),
        ({"lr": 0.0}, "--lr must be positive, got 0.0"),
        ({"eval_every": -1}, "--eval-every must be 0 or more, got -1"),
        ({"name": "a/b"}, "--name 'a/b': expected the name of a folder"),
        ({"load_size": 200}, "--load-size 200 is smaller than --crop-size 256; try --load-size 286"),
        ({"crop_size": 30}, "--crop-size 30: expected a multiple of 4, at least 32 with --n-layers-d 3"),
        ({"crop_size": 60, "n_layers_d": 4}, "expected a multiple of 4, at least 64 with --n-layers-d 4"),
        ({"crop_size": 12, "n_layers_d": 1}, "at least 16 with --n-layers-d 1"),
        ({"crop_size": 16, "n_layers_d": 1, "discriminator": "both"}, "at least 32 with --discriminator both"),
        ({"init": ("a", "b", "c")}, "--init: expected a run, or one or two networks (G, F), got 3"),
    ],
)
def test_invalid_options_of_a_training_are_refused(options, message):
    with pytest.raises(ValueError) as raised:
        train(**options)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ndf": 0}, "--ndf must be at least 1, got 0"),
        ({"lambda_style": -1.0}, "--lambda-style must be 0 or more, got -1.0"),
        ({"palette": 1.5}, "--palette 1.5: expected a value from 0 to 1"),
        ({"crop_size": 28}, "--crop-size 28: expected a multiple of 4, at least 32 with features of a VGG"),
    ],
)
def test_invalid_options_of_a_pretraining_are_refused(options, message):
    with pytest.raises(ValueError) as raised:
        PretrainConfig.from_preset("paint", dataroot="data", **options)
    assert message in str(raised.value)


def test_options_that_do_not_exist_are_refused():
    with pytest.raises(TypeError, match="TrainConfig has no option one_way"):
        train(one_way=True)


@pytest.mark.parametrize(("layers", "side"), [(1, 16), (2, 16), (3, 32), (4, 64)])
def test_the_smallest_crop_leaves_the_discriminator_something_to_score(layers, side):
    train(n_layers_d=layers, crop_size=side)
    assert min(PatchDiscriminator(4, layers)(torch.rand(1, 3, side, side)).shape[2:]) >= 1
    if side == 32:
        assert FeatureDiscriminator(4)(torch.rand(1, 3, side, side)).shape == (1, 5, 8, 8)


def test_losses_can_be_switched_off():
    losses = train(lambda_x=0, lambda_y=0, lambda_identity=0, pool_size=0, n_blocks=0).losses
    assert dataclasses.astuple(losses)[1:] == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": ()}, "no input: give a picture, a folder or a video, such as photo.jpg, before the options"),
        ({"size": 0}, "--size must be at least 1, got 0"),
        ({"tile": 63}, "--tile must be at least 64, got 63"),
        ({"threads": 0}, "--threads must be at least 1, got 0"),
    ],
)
def test_invalid_options_of_a_translation_are_refused(options, message):
    with pytest.raises(ValueError) as raised:
        TranslateConfig(**({"inputs": ("photo.jpg",)} | options))
    assert str(raised.value) == message
