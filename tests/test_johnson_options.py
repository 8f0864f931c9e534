"""Options of Johnson et al.'s method: validation and contradictions."""

import dataclasses

import pytest

from johnson.options import StylizeConfig, TrainConfig
from stylekit.options import flatten


def train(**options):
    return TrainConfig.from_preset("paper", **({"dataroot": "data", "style": ("painting.jpg",)} | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"style": ()}, "no style: add --style with a painting or a name listed by `gatys styles`"),
        ({"width": 0}, "--width must be at least 1, got 0"),
        ({"style_size": 0}, "--style-size must be at least 1, got 0"),
        ({"n_blocks": -1}, "--n-blocks must be 0 or more, got -1"),
        ({"noise": -0.1}, "--noise must be 0 or more, got -0.1"),
        ({"content_weight": -1.0}, "--content-weight must be 0 or more, got -1.0"),
        ({"style_weight": float("inf")}, "--style-weight must be 0 or more, got inf"),
        ({"pixel_weight": -1.0}, "--pixel-weight must be 0 or more, got -1.0"),
        ({"keep_colors": 2.0}, "--keep-colors 2: expected a value from 0 to 1"),
        ({"limit": -1.0}, "--limit must be 0 or more, got -1.0"),
        ({"upsample": "transposed"}, "upsample must be nearest or bilinear, got 'transposed'"),
        (
            {"content_weight": 0.0, "style_weight": 0.0, "pixel_weight": 0.0},
            "--content-weight, --style-weight and --pixel-weight are all 0: nothing to train",
        ),
        ({"style_layers": ("relu1_1", "relu1_1")}, "--style-layers: expected at least one layer and no duplicates"),
        ({"style_layers": ()}, "--style-layers: expected at least one layer and no duplicates"),
        ({"vgg_weights": "x.pth"}, "--vgg-weights: the compact network has its own weights"),
        ({"crop_size": 30}, "--crop-size 30: expected a multiple of 4, at least 16 with the loss network"),
        ({"crop_size": 12}, "--crop-size 12: expected a multiple of 4, at least 16 with the loss network"),
        ({"lr": 0.0}, "--lr must be positive, got 0.0"),
        ({"ema_decay": 1.0}, "--ema-decay must be in [0, 1), got 1.0"),
    ],
)
def test_invalid_options_of_a_training_are_refused(options, message):
    with pytest.raises(ValueError) as raised:
        train(**options)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    "options",
    [
        {"style": ("a.jpg", "b.jpg")},
        {"content_weight": 0.0, "style_weight": 0.0},
        {"style_layers": ("relu1_1",)},
        {"loss_network": "vgg16", "vgg_weights": "x.pth"},
        {"noise": 0.0, "n_blocks": 0, "crop_size": 16},
    ],
)
def test_unusual_options_of_a_training_are_accepted(options):
    assert options.items() <= flatten(dataclasses.asdict(train(**options))).items()


def test_the_preset_that_paints_differs_from_the_default_and_a_value_that_is_given_wins():
    config = TrainConfig.from_preset("paint", dataroot="data", style=("painting.jpg",), batch_size=2)
    assert (config.network.limit, config.losses.weave_weight, config.data.batch_size) == (3, 2, 2)
    assert train().network.limit == train().losses.weave_weight == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": ()}, "no input: give a picture, a folder or a video, such as photo.jpg, before the options"),
        ({"strength": 1.5}, "--strength must be in [0, 1], got 1.5"),
        ({"strength": float("nan")}, "--strength must be in [0, 1], got nan"),
        ({"smoothing": 1.0}, "--smoothing must be in [0, 1), got 1.0"),
        ({"smoothing": -0.1}, "--smoothing must be in [0, 1), got -0.1"),
        ({"tile": 63}, "--tile must be at least 64, got 63"),
        ({"size": 0}, "--size must be at least 1, got 0"),
        ({"threads": 0}, "--threads must be at least 1, got 0"),
    ],
)
def test_invalid_options_of_stylize_are_refused(options, message):
    with pytest.raises(ValueError) as raised:
        StylizeConfig(**({"inputs": ("photo.jpg",)} | options))
    assert str(raised.value) == message


def test_the_limits_of_strength_and_smoothing_are_accepted():
    for strength, smoothing in ((0.0, 0.0), (1.0, 0.99)):
        config = StylizeConfig(inputs=("photo.jpg",), strength=strength, smoothing=smoothing)
        assert (config.strength, config.smoothing) == (strength, smoothing)
