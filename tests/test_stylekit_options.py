"""Options of every training: validation, and their plain form."""

import dataclasses
import json
import math
from contextlib import nullcontext
from pathlib import Path

import pytest

import johnson.options
from cyclegan.options import GeneratorConfig, PretrainConfig, TrainConfig
from stylekit.options import (
    RunConfig,
    RunName,
    Schedule,
    TrainingData,
    check_at_least,
    check_positive,
    check_weights,
    flatten,
    nest,
    parse_weights,
)


def config(**given):
    return RunConfig.from_preset("paper", **{"dataroot": "photographs"} | given)


@dataclasses.dataclass(frozen=True)
class Example:
    """Options to be checked."""

    count: float | None = None
    weights: tuple[float, ...] = ()
    long_name: float = 1


@pytest.mark.parametrize(
    ("check", "given", "says"),
    [
        *[((check_at_least, 1), {"count": value}, None) for value in (1, 1.5, 10**9, None)],
        *[
            ((check_at_least, 1), {"count": v}, f"--count must be at least 1, got {v}")
            for v in (0, 0.99, math.nan, math.inf)
        ],
        ((check_at_least, 0), {"count": 0}, None),
        ((check_at_least, 0), {"count": -1}, "--count must be 0 or more, got -1"),
        ((check_at_least, 1), {"count": 1, "long_name": 0}, "--long-name must be at least 1, got 0"),
        *[((check_positive,), {"count": value}, None) for value in (1e-9, 1, None)],
        *[
            ((check_positive,), {"count": v}, f"--count must be positive, got {v}")
            for v in (0, -0.0, -1, math.nan, math.inf)
        ],
    ],
)
def test_a_number_out_of_range_is_named_with_its_flag(check, given, says):
    function, *limit = check
    with nullcontext() if says is None else pytest.raises(ValueError, match=rf"^{says}$"):
        function(Example(**given), *limit, "count", "long_name")


@pytest.mark.parametrize("weights", [(), (1,), (3, 1, 0), (0,), (0, 0), (1, -1), (1, math.inf), (1, math.nan)])
def test_negative_infinite_and_only_zero_weights_are_refused(weights):
    shown = " ".join(map(str, weights))
    valid = weights in ((), (1,), (3, 1, 0))
    says = rf"^--weights must not be negative or all 0, got {shown}$"
    with nullcontext() if valid else pytest.raises(ValueError, match=says):
        check_weights("--weights", weights)


def test_weights_of_names_are_read_and_a_path_with_an_equals_sign_is_a_name(tmp_path):
    path = tmp_path / "lr=0.1"
    path.mkdir()
    given = ("mosaic", "starry-night=0.6", f"{path}", f"{path}=2")
    assert list(parse_weights("--style", given[:3]).items()) == [("mosaic", 1), ("starry-night", 0.6), (str(path), 1)]
    assert parse_weights("--style", given[3:]) == {str(path): 2}
    for wrong in ("mosaic=", "mosaic=x"):
        with pytest.raises(ValueError, match=f"^--style {wrong}: expected NAME or NAME=WEIGHT"):
            parse_weights("--style", [wrong])


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/abs", "a\\b", "nul\0"])
def test_the_name_of_a_run_must_be_the_name_of_a_folder(name):
    with pytest.raises(ValueError, match=r"^--name .*: expected the name of a folder$"):
        RunName(name=name)
    assert RunName(name="my run 1.5").name == "my run 1.5"


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("batch_size", 0, "--batch-size must be at least 1, got 0"),
        ("print_freq", 0, "--print-freq must be at least 1, got 0"),
        ("num_workers", -1, "--num-workers must be 0 or more, got -1"),
        ("save_epoch_freq", -1, "--save-epoch-freq must be 0 or more"),
        ("seed", -1, "--seed must be 0 or more"),
        ("lr", 0.0, "--lr must be positive, got 0.0"),
        ("lr", math.nan, "--lr must be positive, got nan"),
        ("max_steps", 0, "--max-steps must be positive"),
        ("max_minutes", -1.0, "--max-minutes must be positive"),
        ("threads", 0, "--threads must be at least 1, got 0"),
        ("ema_decay", 1.0, "--ema-decay must be in [0, 1), got 1.0"),
        ("ema_decay", -0.1, "--ema-decay must be in [0, 1), got -0.1"),
        ("load_size", 200, "--load-size 200 is smaller than --crop-size 256; try --load-size 286"),
        ("name", "../up", "--name '../up': expected the name of a folder"),
    ],
)
def test_invalid_values_are_refused_with_the_flag_and_the_value(option, value, message):
    with pytest.raises(ValueError) as raised:
        config(**{option: value})
    assert message in str(raised.value)


def test_a_run_without_epochs_is_refused():
    with pytest.raises(ValueError, match="--n-epochs and --n-epochs-decay are both 0: nothing to train"):
        Schedule(n_epochs=0, n_epochs_decay=0)
    assert Schedule(n_epochs=0, n_epochs_decay=1).n_epochs_decay == 1


@pytest.mark.parametrize("side", [4, 15, 30, 16, 20, 64])
def test_a_crop_must_be_a_multiple_of_4_and_large_enough(side):
    says = rf"--crop-size {side}: expected a multiple of 4, at least 16 with --layers 2"
    with nullcontext() if side in (16, 20, 64) else pytest.raises(ValueError, match=says):
        TrainingData("photographs", crop_size=side, load_size=64).check_crop_size(16, "--layers 2")


CONFIGS = {
    "run": config(),
    "train": TrainConfig.from_preset("paint", dataroot="photographs", init=("a", "b")),
    "pretrain": PretrainConfig.from_preset("paper", dataroot="photographs"),
    "johnson": johnson.options.TrainConfig.from_preset("paint", dataroot="photographs", style=("painting.jpg",)),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_plain_options_survive_json_and_do_not_say_that_a_run_was_resumed(name):
    options = dataclasses.replace(CONFIGS[name], checkpoints_dir=Path("runs"), resume=True)
    plain = options.plain()
    assert json.loads(json.dumps(plain)) == plain
    assert plain.keys() == {field.name for field in dataclasses.fields(options)} - {"resume"}
    assert plain["checkpoints_dir"] == "runs" and plain["data"]["dataroot"] == "photographs"
    # In groups, or without them as earlier versions saved them.
    assert nest(type(options), flatten(plain)) == nest(type(options), flatten(flatten(plain))) == plain
    assert options.differences(plain) == options.differences(flatten(plain)) == []


@pytest.mark.parametrize("options", [TrainConfig, PretrainConfig, johnson.options.TrainConfig])
def test_a_preset_changes_defaults_and_given_values_win(options):
    given = {"dataroot": "photographs", "keep_colors": 0.25}
    given |= {"style": ("painting.jpg",)} if options is johnson.options.TrainConfig else {}
    for preset, changes in options.PRESETS.items():
        found = flatten(options.from_preset(preset, **given).plain())
        assert found["preset"] == preset and found["keep_colors"] == 0.25
        # Pre-training always has both discriminators.
        assert changes.keys() - found.keys() <= {"discriminator", "diffaugment"}
        assert all(found[name] == value for name, value in changes.items() if name in found.keys() - {"keep_colors"})


def test_unknown_presets_and_options_are_named():
    with pytest.raises(ValueError, match=r"^--preset best: expected paper or paint$"):
        TrainConfig.from_preset("best", dataroot="photographs")
    with pytest.raises(TypeError, match=r"^TrainConfig has no option beta1, cache$"):
        TrainConfig.from_preset("paper", dataroot="photographs", cache="on", beta1=0.5)


def test_a_preset_reaches_groups_within_a_configuration():
    paint = TrainConfig.from_preset("paint", dataroot="photographs", ngf=8)
    assert paint.generator == GeneratorConfig(8, 6, antialias=True, noise=0.2, noise_size=4, limit=4.0, keep_colors=0.6)
    assert paint.discriminator.discriminator == "both" and paint.losses.lambda_identity == 0


def test_no_option_has_the_name_of_another_one():
    """Saved options and presets are found by their names without groups."""
    for options in CONFIGS.values():

        def count(values):
            return sum(count(value) if isinstance(value, dict) else 1 for value in values.values())

        assert len(flatten(options.plain())) == count(options.plain())


def test_differences_show_the_flag_with_both_values():
    old, new = config(dataroot="a"), config(dataroot="b", max_steps=7, resume=True)
    assert new.differences(old.plain()) == ["--dataroot b (was a)", "--max-steps 7 (was None)"]
    assert new.differences(old.plain(), "max_steps", "lr") == ["--max-steps 7 (was None)"]
    # An option that did not exist yet had its default.
    saved = {key: value for key, value in flatten(old.plain()).items() if key not in ("threads", "lr_policy")}
    assert old.differences(saved) == []
    assert config(dataroot="a", lr_policy="cosine").differences(saved) == ["--lr-policy cosine (was linear)"]
    options = CONFIGS["johnson"]
    changed = dataclasses.replace(options, losses=dataclasses.replace(options.losses, style_layers=("relu3_1",)))
    assert changed.differences(options.plain()) == ["--style-layers relu3_1 (was relu1_1 relu2_1 relu3_1 relu4_1)"]
