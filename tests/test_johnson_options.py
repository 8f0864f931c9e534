"""Options of Johnson et al.'s method: validation and contradictions."""

import pytest

from johnson.options import StylizeConfig, TrainConfig

STYLE = {"style": ("painting.jpg",)}


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
        ({"tv_weight": -1.0}, "--tv-weight must be 0 or more, got -1.0"),
        (
            {"content_weight": 0.0, "style_weight": 0.0, "pixel_weight": 0.0},
            "--content-weight, --style-weight and --pixel-weight are all 0: nothing to train",
        ),
        ({"style_weights": (1.0, 2.0)}, "--style-weights: got 2 weights for 1 styles"),
        ({"style_weights": (0.0,)}, "--style-weights must not be negative or all 0, got 0.0"),
        ({"style_layers": ("relu1_1", "relu1_1")}, "--style-layers: expected at least one layer and no duplicates"),
        ({"style_layers": ()}, "--style-layers: expected at least one layer and no duplicates"),
        ({"layer_weights": (1.0, 2.0)}, "--layer-weights: got 2 weights for 4 style layers"),
        (
            {"layer_weights": (1.0, -1.0, 1.0, 1.0)},
            "--layer-weights must not be negative or all 0, got 1.0 -1",
        ),
        ({"vgg_weights": "x.pth"}, "--vgg-weights does not apply to the compact network"),
        ({"crop_size": 30}, "--crop-size 30: expected a multiple of 4, at least 16 with the loss network"),
        ({"crop_size": 12}, "--crop-size 12: expected a multiple of 4, at least 16 with the loss network"),
        ({"lr": 0.0}, "--lr must be positive, got 0.0"),
        ({"ema_decay": 1.0}, "--ema-decay must be in [0, 1), got 1.0"),
    ],
)
def test_invalid_options_of_a_training_are_refused(options, message):
    with pytest.raises(ValueError) as raised:
        TrainConfig(dataroot="data", **(STYLE | options))
    assert message in str(raised.value)


@pytest.mark.parametrize(
    "options",
    [
        {"style": ("a.jpg", "b.jpg"), "style_weights": (0.0, 1.0)},
        {"layer_weights": (0.0, 0.0, 0.0, 1.0)},
        {"content_weight": 0.0, "style_weight": 0.0},
        {"style_layers": ("relu1_1",), "layer_weights": (2.0,)},
        {"loss_network": "vgg16", "vgg_weights": "x.pth"},
        {"noise": 0.0, "n_blocks": 0, "crop_size": 16},
    ],
)
def test_unusual_options_of_a_training_are_accepted(options):
    config = TrainConfig(dataroot="data", **(STYLE | options))
    assert {name: getattr(config, name) for name in options} == options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": ()}, "no input: give a picture, a folder or a video, such as photo.jpg"),
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
