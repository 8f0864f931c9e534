"""`--init`: the networks from which training starts."""

import shutil

import pytest
import torch
from conftest import TINY, assert_same, exit_code, one_error

from cyclegan.cli import train_main
from cyclegan.discriminators import FeatureDiscriminator, PatchDiscriminator
from cyclegan.initial import warmup
from cyclegan.models import Generator
from cyclegan.options import GeneratorConfig, TrainConfig
from cyclegan.pretrain import PretrainConfig, pretrain
from cyclegan.train import build_state, train
from stylekit.networks import weights
from stylekit.training import checkpoint

TINY_NETWORKS = dict(ngf=4, n_blocks=1, ndf=4, n_layers_d=2)


def config(*init, preset="paper", **changes):
    options = TINY_NETWORKS | dict(crop_size=32, load_size=36, num_workers=0, device="cpu", amp="off")
    return TrainConfig.from_preset(preset, **(options | dict(dataroot="data", init=tuple(map(str, init))) | changes))


def state_of(*init, **changes):
    return build_state(config(*init, **changes), torch.device("cpu"))


def test_fine_tuning_reaches_the_full_rate_after_50_steps():
    assert [warmup(step) for step in (0, 24, 49, 50, 999)] == pytest.approx([1 / 51, 25 / 51, 50 / 51, 1, 1])


def save(folder, **architecture):
    """A network on disk; returns it."""
    weights.save(network := Generator(GeneratorConfig(4, 1, **architecture)), folder)
    return network


def test_a_run_starts_where_another_ended(dataset, tmp_path):
    options = dict(dataroot=str(dataset), checkpoints_dir=tmp_path, max_steps=1)
    folder = train(config(name="run", **options)).folder
    state, saved = state_of(folder, seed=9), checkpoint.load(folder / "last.pt")
    for name in ("G", "F"):
        expected = {
            key: saved["average"][f"module.{name}.{key}"] for key in getattr(state.generators, name).state_dict()
        }
        assert_same(getattr(state.generators, name).state_dict(), expected)
    assert_same(state.discriminators.state_dict(), saved["discriminators"])


def test_two_pretrainings_start_both_generators_and_the_discriminators_of_what_they_paint(dataset, tmp_path):
    def pretrained(direction):
        tiny = dict(ngf=4, n_blocks=1, ndf=4, crop_size=32, num_workers=0, device="cpu", amp="off", max_steps=1)
        options = dict(dataroot=str(dataset), checkpoints_dir=tmp_path, name=direction, direction=direction, seed=3)
        return pretrain(PretrainConfig.from_preset("paint", **options, **tiny)).folder

    there, back = pretrained("AtoB"), pretrained("BtoA")
    paint = dict(TINY_NETWORKS, n_layers_d=3)
    both = state_of(there, back, preset="paint", **paint)
    generators, discriminators = both.generators, both.discriminators
    for folder, generator, patch, heads in (
        (there, generators.G, discriminators.D_Y, discriminators.extra_y),
        (back, generators.F, discriminators.D_X, discriminators.extra_x),
    ):
        for network, name in ((generator, "G"), (patch, "D_Y"), (heads, "D_Y_features")):
            assert_same(network.state_dict(), type(network).from_pretrained(folder / name).state_dict())
    # Heads on features alone are called D_Y.
    alone = state_of(there, preset="paint", discriminator="feature", **paint).discriminators.D_Y
    assert_same(alone.state_dict(), discriminators.extra_y.state_dict())


def test_what_init_does_not_have_starts_new(tmp_path, capsys):
    start = save(tmp_path / "start")
    weights.save(FeatureDiscriminator(), tmp_path / "start" / "D_Y")  # Not of the kind that is trained.
    fresh, state = state_of(), state_of(tmp_path / "start")
    assert capsys.readouterr().out == f"--init {tmp_path / 'start'}: G; new: F, D_X, D_Y\n"
    assert_same(state.generators.G.state_dict(), start.state_dict())
    assert_same(state.generators.F.state_dict(), fresh.generators.F.state_dict())
    assert_same(state.discriminators.state_dict(), fresh.discriminators.state_dict())
    both = state_of(tmp_path / "start", tmp_path / "start")
    assert_same(both.generators.F.state_dict(), start.state_dict())


def test_the_bundled_networks_have_the_architecture_of_the_preset_and_their_discriminators():
    given = ("landscape2vangogh", "vangogh2landscape")
    # The second one was trained without a limit, which may be added.
    state = build_state(TrainConfig.from_preset("paint", dataroot="data", init=given), torch.device("cpu"))
    discriminators = state.discriminators
    for name, patch, heads in (
        (given[0], discriminators.D_Y, discriminators.extra_y),
        (given[1], discriminators.D_X, discriminators.extra_x),
    ):
        folder = weights.bundled()[name]
        for found, kind, part in ((patch, PatchDiscriminator, "D_Y"), (heads, FeatureDiscriminator, "D_Y_features")):
            assert_same(found.state_dict(), kind.from_pretrained(folder / part).state_dict())


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (
            ["--init", "landscape2vangogh"],
            "its architecture differs from the options; add --ngf 32 --n-blocks 6 --antialias --noise 0.1 --ndf 32; "
            "limit=4.0 has no flag: try --preset paint",
        ),
        (["--init", "nothing"], "no network nothing"),
        (["--init", "RUN", "RUN"], "a training run has both generators; give it alone"),
        (["--init", "RUN", "RUN", "RUN"], "--init: expected a run, or one or two networks (G, F), got 3"),
    ],
)
def test_networks_that_cannot_be_the_start_are_one_line(dataset, tmp_path, capsys, flags, says):
    for name in ("G", "F"):
        save(tmp_path / "old" / name)
    flags = [str(tmp_path / "old") if flag == "RUN" else flag for flag in flags]
    where = ["--dataroot", str(dataset), "--checkpoints-dir", str(tmp_path / "runs")]
    assert exit_code(train_main, *TINY, "--n-layers-d", "3", *where, *flags) == 2
    assert says in one_error(capsys, "train.py")


@pytest.mark.parametrize(
    ("before", "after", "needed"),
    [
        ({}, {"limit": 3.0}, None),
        ({"limit": 4.0}, {}, "limit=4.0 has no flag"),
        ({"noise": 0.2}, {"noise": 0.02}, None),
        ({"noise": 0.2}, {}, "add --noise 0.2$"),
        ({"noise": 0.2, "noise_size": 4}, {"noise": 0.2}, None),
        ({"keep_colors": 0.6}, {}, None),
        ({}, {"keep_colors": 0.3, "keep_black": False}, None),
        ({}, {"dropout": True}, "dropout=False has no flag"),
        ({"antialias": True}, {}, "add --antialias$"),
    ],
)
def test_options_without_weights_may_change_but_none_that_would_be_lost(tmp_path, before, after, needed):
    start = save(tmp_path, **before)
    if needed is not None:
        with pytest.raises(ValueError, match=f"its architecture differs from the options; {needed}"):
            state_of(tmp_path, **after)
        return
    network = state_of(tmp_path, **after).generators.G
    assert_same(network.state_dict(), start.state_dict())
    expected = GeneratorConfig(4, 1, **after)
    assert (network.noise, network.model[2].limit) == (expected.noise, expected.limit)
    assert (network.keep_colors.amount if network.keep_colors else 0.0) == expected.keep_colors


def test_a_resumed_run_does_not_need_the_networks_it_started_from(dataset, tmp_path):
    save(tmp_path / "start")
    options = dict(dataroot=str(dataset), checkpoints_dir=tmp_path / "runs")
    train(config(tmp_path / "start", max_steps=1, **options))
    shutil.rmtree(tmp_path / "start")
    assert train(config(tmp_path / "start", max_steps=2, resume=True, **options)).step == 2
