"""Training without the cycle: a step, a run, and what is on disk."""

import pytest
import torch
from conftest import assert_same, exit_code, one_error, read_lines
from PIL import Image

from cyclegan import cli
from cyclegan.models import Generator
from cyclegan.options import PretrainConfig
from cyclegan.pretrain import build_state, pretrain, pretrain_step, sample_images
from cyclegan.translate import load_generator
from stylekit.networks import weights
from stylekit.training import checkpoint

CPU = torch.device("cpu")
TERMS = ["adversarial", "content", "tone", "color", "style"]


def config(folder, **changes):
    tiny = dict(ngf=4, ndf=4, n_blocks=1, crop_size=32, load_size=36, num_workers=0, device="cpu", amp="off")
    tiny |= dict(checkpoints_dir=folder.parent / "checkpoints", name="run", print_freq=1)
    return PretrainConfig.from_preset("paint", **(tiny | dict(dataroot=str(folder)) | changes))


def batch(size=32):
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.rand(1, 3, size, size, generator=generator) for _ in range(2))


def test_a_step_moves_the_generator_and_its_discriminators(tmp_path):
    options = config(tmp_path)
    state = build_state(options, CPU)
    modules = state.generator, state.discriminators, state.vgg
    before = [{name: value.clone() for name, value in module.state_dict().items()} for module in modules]
    terms = pretrain_step(state, *batch(), options)
    assert list(terms) == [*TERMS, "weave", "d_y"]
    assert all(term.ndim == 0 and not term.requires_grad for term in terms.values())
    for module, start in zip(modules[:2], before[:2], strict=True):
        trained = [name for name in start if name.endswith(("weight", "original"))]
        assert trained and not [name for name in trained if torch.equal(start[name], module.state_dict()[name])]
    assert_same(state.vgg.state_dict(), before[2])
    assert "weave" not in pretrain_step(state, *batch(), config(tmp_path, lambda_weave=0.0))


def test_on_one_batch_it_keeps_more_and_more_of_the_picture(tmp_path):
    options = config(tmp_path, lr=4e-3, lambda_style=0.0, lambda_weave=0.0, noise=0.0, keep_colors=0.0)
    state = build_state(options, CPU)
    x, y = batch()
    terms = [pretrain_step(state, x * 0.05 + 0.75, y * 0.05 + 0.25, options) for _ in range(10)]
    assert terms[-1]["tone"] < 0.5 * terms[0]["tone"]


def test_means_stay_exact_in_bfloat16(tmp_path):
    options = config(tmp_path, crop_size=64, load_size=64)
    states = [build_state(options, CPU) for _ in range(2)]
    x, y = batch(64)
    for state, amp in zip(states, (False, True), strict=True):
        torch.manual_seed(0)
        terms = pretrain_step(state, x, 0.5 * y, options, amp)  # Smooth areas would be flat.
        assert {term.dtype for term in terms.values()} == {torch.float32}
    exact, rounded = (state.style_y for state in states)
    assert torch.equal(exact.colors, rounded.colors)
    for layer, gram in exact.grams.items():
        assert rounded.grams[layer].dtype == torch.float32
        torch.testing.assert_close(rounded.grams[layer], gram, rtol=0.1, atol=0.02 * gram.abs().max().item())


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(dataset):
    # Three smooth pictures, large enough for the spectra of regular patterns.
    for i, path in enumerate(sorted(dataset.glob("train?/*.png"))):
        Image.new("RGB", (48, 48), (20 * i, 128, 200)).save(path) if path.stem in "012" else path.unlink()
    options = dict(crop_size=48, load_size=48, lr_policy="constant", dropout=True)
    whole = pretrain(config(dataset, name="whole", max_steps=4, **options)).folder
    parts = pretrain(config(dataset, max_steps=2, **options)).folder
    assert pretrain(config(dataset, max_steps=4, resume=True, **options)).step == 4
    first, second = (checkpoint.load(folder / "last.pt") for folder in (whole, parts))
    for saved in (first, second):
        del saved["config"], saved["seconds"], saved["pipelines"]
    torch.testing.assert_close(second, first, rtol=0, atol=0)
    lines = [[line | {"images_per_second": 0} for line in read_lines(run / "metrics.jsonl")] for run in (whole, parts)]
    assert lines[0] == lines[1] and all(line["weave"] > 0 for line in lines[0])


def test_a_run_has_one_generator_and_its_discriminators_and_can_be_gone_on_from(dataset):
    options = config(dataset, max_steps=1)
    folder = pretrain(options).folder
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"G", "D_Y", "D_Y_features", "samples"}
    saved = checkpoint.load(folder / "last.pt")
    assert saved.keys() == {
        "pipelines", "generator", "discriminators", "ema", "generator_optimizer", "discriminator_optimizer", "ranks",
        "config", "step", "epoch", "step_in_epoch", "seconds", "wandb_run_id",
    }  # fmt: skip
    assert saved["generator"].keys() == Generator(options.generator).state_dict().keys()
    assert [means.keys() for means in saved["ranks"]] == [{"pool", "style_x", "style_y", "weave"}]
    released = load_generator(folder).state_dict()
    assert all(torch.equal(value, saved["ema"][f"module.{name}"]) for name, value in released.items())
    # The discriminators learn at half the rate. A run that goes on from it begins slowly.
    assert [saved[f"{part}_optimizer"]["param_groups"][0]["lr"] for part in ("generator", "discriminator")] == [
        options.schedule.lr,
        options.schedule.lr / 2,
    ]
    again = pretrain(config(dataset, max_steps=1, init=str(folder), name="again")).folder
    assert read_lines(again / "metrics.jsonl")[0]["lr"] == pytest.approx(options.schedule.lr / 51)
    state = build_state(config(dataset, init=str(folder), seed=9), CPU)
    assert_same(state.generator.state_dict(), released)
    assert_same(state.discriminators.state_dict(), saved["discriminators"])


def test_samples_are_the_pictures_of_x_before_and_after(dataset):
    options = config(dataset)
    paths = sorted((dataset / "testA").iterdir())

    class Data:
        validation_x = paths

    columns = sample_images(build_state(options, CPU), Data, options)
    assert list(columns) == ["real x", "G(x)"]
    assert columns["real x"][0].tobytes() == Image.open(paths[0]).convert("RGB").tobytes()
    assert [picture.size for picture in columns["G(x)"]] == [(48, 48)] * 2


def test_a_run_cannot_change_its_direction(dataset, capsys):
    folder = pretrain(config(dataset, max_steps=1)).folder
    flags = ["--resume", "--name", "run", "--checkpoints-dir", folder.parent, "--direction", "BtoA", "--max-steps", 2]
    assert exit_code(cli.main, "pretrain", *flags) == 2
    assert "a run cannot change --direction BtoA (was AtoB)" in one_error(capsys, "cyclegan")


def test_a_network_of_another_architecture_is_named(dataset, tmp_path, capsys):
    weights.save(Generator(config(dataset).generator), tmp_path / "network")
    flags = ["--dataroot", dataset, "--device", "cpu", "--init", tmp_path / "network", "--name", "run"]
    assert exit_code(cli.main, "pretrain", *flags, "--checkpoints-dir", tmp_path / "runs") == 2
    assert "its architecture differs from the options; add --ngf 4 --n-blocks 1\n" in one_error(capsys, "cyclegan")
