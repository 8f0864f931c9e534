import dataclasses
import json
import os
import signal
import subprocess

import albumentations
import numpy as np
import pytest
import torch
from conftest import ROOT, command, one_error, run, wait_for_lines
from PIL import Image
from test_johnson_models import official

from gatys.styles import load_preset, make_preset, save_preset, style_network
from johnson.cli import train as train_command
from johnson.models import TransformerNet
from johnson.options import TrainConfig
from johnson.train import build_state, style_grams, train, train_step
from stylekit import checkpoint, cli, images
from stylekit.training import save_network

TINY = ("--width", "4", "--n-blocks", "1", "--crop-size", "32", "--load-size", "36", "--batch-size", "2")
TINY += ("--num-workers", "0", "--device", "cpu", "--amp", "off", "--n-samples", "1")


@pytest.fixture
def photographs(tmp_path, pictures):
    """Six photographs, two of them in a folder below."""
    for i, picture in enumerate(pictures[:6]):
        images.save(picture, tmp_path / "photographs" / ("more" if i > 3 else "") / f"{i}.png")
    return tmp_path / "photographs"


@pytest.fixture
def painting(tmp_path, pictures):
    images.save(pictures[8].resize((96, 96)), tmp_path / "painting.png")
    return tmp_path / "painting.png"


def config(photographs, painting, **changes):
    tiny = dict(width=4, n_blocks=1, crop_size=32, load_size=36, batch_size=2, num_workers=0, n_samples=1)
    tiny |= dict(device="cpu", amp="off", checkpoints_dir=photographs.parent / "runs", name="run", print_freq=1)
    return TrainConfig(str(photographs), **(tiny | dict(style=(str(painting),)) | changes))


def weights(folder):
    saved = checkpoint.load(folder / "last.pt")
    return {f"{part}.{key}": value for part in ("network", "average") for key, value in saved[part].items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert not [key for key in one if not torch.equal(one[key], other[key])]


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def command_line(photographs, painting, *flags):
    """The command, as a shell would call it; its exit code."""
    flags = [*TINY, "--dataroot", photographs, "--style", painting, "--checkpoints-dir", photographs.parent / "runs",
             "--name", "run", *flags]  # fmt: skip
    return cli.run(lambda: train_command([str(flag) for flag in flags]), "johnson train")


def batch():
    torch.manual_seed(1)
    return torch.rand(2, 3, 32, 32), torch.randn(2, 1, 32, 32)


def test_a_step_moves_the_network_and_not_its_judge(photographs, painting):
    options = config(photographs, painting)
    state = build_state(options, torch.device("cpu"))
    before, judge = ({n: v.clone() for n, v in m.state_dict().items()} for m in (state.network, state.judge))
    terms = train_step(state, *batch(), options)
    assert list(terms) == ["content", "relu1_1", "relu2_1", "relu3_1", "relu4_1", "pixel"]
    assert all(term.ndim == 0 and not term.requires_grad for term in terms.values())
    after = state.network.state_dict()
    assert not [name for name in before if name.endswith("weight") and torch.equal(before[name], after[name])]
    assert all(torch.equal(value, judge[name]) for name, value in state.judge.state_dict().items())


@pytest.mark.parametrize("optimizer", ["muon", "adam"])
def test_on_one_batch_the_loss_falls(photographs, painting, optimizer):
    options = config(photographs, painting, lr=5e-3, optimizer=optimizer)
    state = build_state(options, torch.device("cpu"))
    losses = [sum(train_step(state, *batch(), options).values()).item() for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]


def test_the_network_sees_noise_and_is_judged_by_the_photograph(photographs, painting):
    def taken(deviation):
        options = config(photographs, painting, noise=deviation, style_weight=0)
        seen = []
        state = build_state(options, torch.device("cpu"))
        state.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        train_step(state, clean, noise, options)
        return seen[0]

    clean, noise = batch()
    assert torch.equal(taken(0.0), clean)
    assert torch.equal(taken(2.0), torch.cat([clean, 2 * noise], dim=1))
    # A network that changes nothing is judged to be perfect.
    options = config(photographs, painting, style_weight=0)
    state = build_state(options, torch.device("cpu"))
    state.network.forward = lambda x: x[:, :3] + 0 * next(state.network.parameters()).sum()
    assert max(train_step(state, *batch(), options).values()) == 0


def test_bfloat16_trains_as_float32_does_within_its_precision(photographs, painting):
    options = config(photographs, painting)
    terms = [train_step(build_state(options, torch.device("cpu")), *batch(), options, amp=amp) for amp in (False, True)]
    for name in terms[0]:
        assert terms[1][name].item() == pytest.approx(terms[0][name].item(), rel=0.1), name
        assert terms[1][name].dtype == torch.float32


def test_a_run_leaves_what_the_help_says(photographs, painting):
    folder = train(config(photographs, painting, save_epoch_freq=1)).folder
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "last.pt", "metrics.jsonl", "losses.png", "samples", "model", "epochs",
    }  # fmt: skip
    assert sorted(path.name for path in (folder / "samples").iterdir()) == ["epoch-0001.png", "epoch-0002.png"]
    assert [line["step"] for line in lines(folder)] == [1, 2, 3, 4, 5, 6]
    assert lines(folder)[2]["lr"] == 1e-3 and lines(folder)[-1]["lr"] == pytest.approx(1e-3 / 3)
    sheet = Image.open(folder / "samples" / "epoch-0001.png")
    assert sheet.width > 2 * 256 and np.asarray(sheet).std() > 10
    # What is kept for use is the average, and it is what last.pt holds.
    average = checkpoint.load(folder / "last.pt")["average"]
    painter = TransformerNet.from_pretrained(folder / "model").state_dict()
    assert all(torch.equal(value, average[f"module.{key}"]) for key, value in painter.items())


def test_four_epochs_are_two_and_two_bit_for_bit(photographs, painting):
    whole = train(config(photographs, painting, name="whole", n_epochs=4, n_epochs_decay=0)).folder
    train(config(photographs, painting, name="parts", n_epochs=2, n_epochs_decay=0))
    # The style is in the checkpoint: its painting may be gone.
    painting.unlink()
    parts = train(config(photographs, painting, name="parts", n_epochs=4, n_epochs_decay=0, resume=True)).folder
    assert_same(weights(whole), weights(parts))
    losses = [[line["relu3_1"] for line in lines(folder)] for folder in (whole, parts)]
    assert losses[0] == losses[1] and len(losses[0]) == 12


def test_a_run_stopped_inside_an_epoch_goes_on_bit_for_bit(photographs, painting, tmp_path, capsys):
    flags = ["--print-freq", 1, "--n-epochs", 1000, "--n-epochs-decay", 0]
    arguments = [*TINY, "--dataroot", photographs, "--style", painting, "--checkpoints-dir", tmp_path / "runs", *flags]
    process = subprocess.Popen(
        command(["-m", "johnson", "train", *arguments, "--name", "stopped", "--num-workers", 1]),
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for_lines(tmp_path / "runs" / "stopped" / "metrics.jsonl", 8, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, err
    again = f"johnson train --name stopped --checkpoints-dir {tmp_path / 'runs'} --resume"
    assert again in out and not err
    end = checkpoint.load(tmp_path / "runs" / "stopped" / "last.pt")["step"] + 4
    capsys.readouterr()
    assert train_command([*again.split()[2:], "--max-steps", str(end)]) == 0
    assert f"options that differ from the saved ones: --max-steps {end} (was None)\n" in capsys.readouterr().out
    assert command_line(photographs, painting, *flags, "--name", "whole", "--max-steps", end) == 0
    assert_same(weights(tmp_path / "runs" / "whole"), weights(tmp_path / "runs" / "stopped"))


def test_two_processes_equal_one_with_twice_the_batch(photographs, painting, tmp_path):
    flags = ["--checkpoints-dir", tmp_path / "runs", "--print-freq", 1, "--max-steps", 4, "--lr", 1e-4]
    arguments = [*TINY, "--dataroot", photographs, "--style", painting, *flags, "--name", "two", "--batch-size", 1]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", 2, "--standalone", "-m", "johnson"]
    two = run(*torchrun, "train", *arguments, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert two.returncode == 0, two.stderr
    assert command_line(photographs, painting, *flags, "--name", "one") == 0
    metrics = [lines(tmp_path / "runs" / name) for name in ("one", "two")]
    assert [line["step"] for line in metrics[1]] == [1, 2, 3, 4]  # One log, not two.
    assert two.stdout.count("step 4:") == 1
    for a, b in zip(*metrics, strict=True):
        for name in ("content", "relu1_1", "relu4_1"):
            assert a[name] == pytest.approx(b[name], rel=1e-3), (a["step"], name)
    first, second = weights(tmp_path / "runs" / "one"), weights(tmp_path / "runs" / "two")
    for key in (key for key in first if key.endswith("weight") and key.startswith("network")):
        assert (first[key] - second[key]).abs().mean() < 2e-5, key


def judge_of(options):
    return build_state(options, torch.device("cpu"), {}).judge


def test_a_style_is_a_painting_a_folder_of_them_a_name_or_a_file(photographs, painting, tmp_path):
    options = config(photographs, painting, style_size=64)
    judge = judge_of(options)
    one = style_grams(options, judge)
    assert list(one) == list(options.style_layers) and one["relu1_1"].shape == (1, 32, 32)

    images.save(images.load(painting), tmp_path / "twice" / "a.png")
    images.save(images.load(painting), tmp_path / "twice" / "b.png")
    folder = style_grams(dataclasses.replace(options, style=(str(tmp_path / "twice"),)), judge)
    shipped = style_grams(dataclasses.replace(options, style=("starry-night",), style_size=200), judge)
    preset = make_preset([images.load(painting)], style_network("compact", None, "max"))
    save_preset(preset, tmp_path / "mine.safetensors")
    file = style_grams(dataclasses.replace(options, style=(str(tmp_path / "mine.safetensors"),)), judge)
    for layer in one:
        torch.testing.assert_close(folder[layer], one[layer])
        torch.testing.assert_close(shipped[layer], load_preset("starry-night").at(200)[layer])
        # The smallest size of a preset is 128 px, to which the painting of 96 px counts.
        assert file[layer].shape == one[layer].shape and not torch.equal(file[layer], one[layer])


def test_of_several_styles_the_weighted_mean_is_learned(photographs, painting):
    options = config(photographs, painting)
    judge = judge_of(options)
    each = [style_grams(dataclasses.replace(options, style=(name,)), judge) for name in (str(painting), "sunflowers")]
    both = dataclasses.replace(options, style=(str(painting), "sunflowers"), style_weights=(3, 1))
    for layer, gram in style_grams(both, judge).items():
        torch.testing.assert_close(gram, 0.75 * each[0][layer] + 0.25 * each[1][layer])


def test_the_size_of_the_style_decides_what_is_learned(photographs, painting):
    options = config(photographs, painting)
    judge = judge_of(options)
    small, large = (style_grams(dataclasses.replace(options, style_size=size), judge) for size in (32, 96))
    assert (small["relu3_1"] - large["relu3_1"]).norm() > 0.02 * large["relu3_1"].norm()


def test_a_network_can_be_the_start_of_another(photographs, painting, tmp_path, capsys):
    torch.manual_seed(7)
    save_network(start := TransformerNet(4, 1), tmp_path / "start")
    options = config(photographs, painting, init=str(tmp_path / "start"))
    network = build_state(options, torch.device("cpu")).network
    assert_same(network.state_dict(), start.state_dict())
    assert build_state(dataclasses.replace(options, noise=2.0), torch.device("cpu")).network.noise == 2
    assert command_line(photographs, painting, "--init", tmp_path / "start", "--width", 8) == 2
    assert "another network than is to be trained; add --width 4" in one_error(capsys, "johnson train")
    torch.save(official(4), tmp_path / "mosaic.pth")
    assert command_line(photographs, painting, "--init", tmp_path / "mosaic.pth", "--n-blocks", 5) == 2
    assert "add --upsample nearest --no-bound --no-skip --noise 0" in one_error(capsys, "johnson train")


def test_validation_photographs_can_be_given(photographs, painting, pictures, tmp_path):
    images.save(pictures[11].resize((700, 350)), tmp_path / "val" / "a.png")
    folder = train(config(photographs, painting, max_steps=1, val_dataroot=str(tmp_path / "val"))).folder
    sheet = Image.open(next((folder / "samples").iterdir()))
    assert sheet.width > 2 * 2 * 256  # Twice as wide as it is high.


def test_a_pipeline_from_a_file_is_used_and_goes_into_the_checkpoint(photographs, painting, tmp_path):
    pipeline = albumentations.Compose([albumentations.Resize(32, 32)])
    albumentations.save(pipeline, tmp_path / "mine.json")
    folder = train(config(photographs, painting, max_steps=1, augment=str(tmp_path / "mine.json"))).folder
    assert "Resize" in str(checkpoint.load(folder / "last.pt")["pipeline"])


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--dataroot", "nowhere"], "no folder nowhere"),
        (["--style", "nothing"], "no style nothing; expected a file of `gatys make-style`, or one of olive-trees"),
        (["--style", "nothing.jpg"], "no picture nothing.jpg"),
        (["--style-weights", "1", "2"], "--style-weights: 2 for 1 styles"),
        (["--style-weights", "0"], "--style-weights must be 0 or more, and not all 0"),
        (["--style-size", "0"], "--style-size must be at least 1"),
        (["--style-layers", "relu1_1", "relu9_9"], "no compact layer 'relu9_9'; choose from conv1_1"),
        (["--style-layers", "relu1_1", "relu1_1"], "none twice"),
        (["--content-layer", "conv9"], "no compact layer 'conv9'"),
        (["--content-weight", "-1"], "--content-weight must be 0 or more"),
        (["--content-weight", "0", "--style-weight", "0", "--pixel-weight", "0"], "nothing to learn"),
        (["--layer-weights", "1", "2"], "--layer-weights: 2 for 4 style layers"),
        (["--vgg-weights", "x.pth"], "add --loss-network vgg19 or vgg16"),
        (["--loss-network", "vgg16", "--vgg-weights", "nowhere.pth"], "no file nowhere.pth"),
        (["--crop-size", "30"], "--crop-size 30: expected a multiple of 4"),
        (["--crop-size", "12"], "at least 16"),
        (["--init", "nothing"], "no weights nothing"),
        (["--val-dataroot", "nowhere"], "no folder nowhere"),
        (["--batchsize", "2"], "unknown option --batchsize; did you mean --batch-size?"),
        (["--augment", "strong"], "--augment strong: expected none, crop"),
        (["--batch-size", "100"], "6 pictures do not fill one batch of --batch-size 100; try --batch-size 6"),
        (["--resume", "--name", "new"], "nothing to resume"),
    ],
)
def test_wrong_flags_get_one_line_and_exit_code_2(photographs, painting, capsys, flags, says):
    assert command_line(photographs, painting, *flags) == 2
    assert says in one_error(capsys, "johnson train")
    assert not list((photographs.parent / "runs").glob("*/*"))


def test_a_run_without_a_style_says_where_to_find_one(photographs, capsys):
    arguments = ["--dataroot", str(photographs)]
    assert cli.run(lambda: train_command(arguments), "johnson train") == 2
    assert "add --style with a painting, or with a name" in one_error(capsys, "johnson train")


def test_a_preset_for_another_network_is_refused(photographs, painting, tmp_path, capsys):
    preset = make_preset([images.load(painting)], style_network("compact", None, "average"))
    save_preset(preset, tmp_path / "average.safetensors")
    assert command_line(photographs, painting, "--style", tmp_path / "average.safetensors") == 2
    assert "made with another VGG network" in one_error(capsys, "johnson train")


@pytest.fixture
def finished(photographs, painting):
    assert command_line(photographs, painting, "--max-steps", 2) == 0
    return photographs.parent / "runs" / "run"


def test_a_run_is_never_overwritten_and_cannot_change_its_network(finished, photographs, painting, capsys):
    before = (finished / "last.pt").read_bytes()
    capsys.readouterr()
    assert command_line(photographs, painting) == 2
    assert "--resume" in (line := one_error(capsys, "johnson train")) and "--name" in line
    assert command_line(photographs, painting, "--resume", "--max-steps", 4, "--width", 5) == 2
    assert "--width 5 (was 4)" in one_error(capsys, "johnson train")
    assert command_line(photographs, painting, "--resume", "--max-steps", 4, "--optimizer", "adam") == 2
    assert "cannot change --optimizer adam (was muon)" in one_error(capsys, "johnson train")
    assert (finished / "last.pt").read_bytes() == before


@pytest.mark.parametrize("entries", [{"network": "none"}, {"grams": None}, {"optimizer": {}}, {"pipeline": [1]}])
def test_a_checkpoint_of_another_layout_is_named(finished, photographs, painting, capsys, entries):
    checkpoint.save(finished / "last.pt", **(checkpoint.load(finished / "last.pt") | entries))
    capsys.readouterr()
    assert command_line(photographs, painting, "--resume", "--max-steps", 4) == 2
    assert "last.pt: not a" in one_error(capsys, "johnson train")


def test_a_run_that_diverges_stops_and_keeps_its_checkpoint(finished, photographs, painting, capsys):
    flags = ["--resume", "--max-steps", 40, "--lr", "1e30", "--print-freq", 1]
    capsys.readouterr()
    assert command_line(photographs, painting, *flags) == 1
    assert "training has diverged" in (line := one_error(capsys, "johnson train")) and "is from before that" in line
    assert all(value.isfinite().all() for value in checkpoint.load(finished / "last.pt")["network"].values())


def test_weights_and_biases_sees_the_run(photographs, painting, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = train(config(photographs, painting, max_steps=2, wandb=True)).folder
    assert list((folder / "wandb").glob("offline-run-*/*.wandb"))
    assert checkpoint.load(folder / "last.pt")["wandb_run_id"]
