import json
import os
import shutil
import signal
import subprocess

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, command, one_error, run, wait_for_lines
from PIL import Image

from cyclegan.cli import train as train_command
from cyclegan.data import build_pipelines
from cyclegan.models import Generator
from cyclegan.options import TrainConfig
from cyclegan.train import build_state, load_data, train, train_step
from stylekit import checkpoint, cli, distributed
from stylekit.training import check_finite, linear_decay


def config(dataset, **changes):
    tiny = dict(ngf=4, ndf=4, n_blocks=1, n_layers_d=2, crop_size=32, load_size=36, num_workers=0, n_samples=1)
    tiny |= dict(device="cpu", amp="off", checkpoints_dir=dataset.parent / "checkpoints", name="run", print_freq=1)
    return TrainConfig(str(dataset), **(tiny | changes))


def weights(folder):
    saved = checkpoint.load(folder / "last.pt")
    return {
        f"{part}.{key}": value
        for part in ("generators", "discriminators", "average")
        for key, value in saved[part].items()
    }


def assert_same(one, other):
    assert one.keys() == other.keys()
    different = [key for key in one if not torch.equal(one[key], other[key])]
    assert not different


def batch():
    torch.manual_seed(1)
    return torch.rand(2, 3, 32, 32) * 2 - 1, torch.rand(2, 3, 32, 32) * 2 - 1


def parameters(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("lambda_identity", [0.5, 0.0])
def test_a_step_moves_all_networks(dataset, lambda_identity):
    options = config(dataset, lambda_identity=lambda_identity)
    state = build_state(options, torch.device("cpu"))
    before = parameters(state.generators) | parameters(state.discriminators)
    train_step(state, *batch(), options)
    after = parameters(state.generators) | parameters(state.discriminators)
    # A bias before a normalisation is taken out again by it: only rounding moves it.
    still = [name for name in before if torch.equal(before[name], after[name]) and name.endswith("weight")]
    assert not still
    assert all(p.requires_grad for p in state.discriminators.parameters())


def test_the_generators_step_leaves_no_gradient_in_the_discriminators(dataset):
    options = config(dataset)
    state = build_state(options, torch.device("cpu"))
    seen = []
    state.discriminators.register_forward_pre_hook(
        lambda *_: seen.append([p.grad for p in state.discriminators.parameters()])
    )
    train_step(state, *batch(), options)
    assert len(seen) == 2  # Once as judge of the generators, once to learn.
    assert all(gradient is None for gradient in seen[1])


def test_the_logged_terms_are_what_is_minimised(dataset):
    options = config(dataset)
    terms = train_step(build_state(options, torch.device("cpu")), *batch(), options)
    assert list(terms) == [
        "adversarial_g", "adversarial_f", "cycle_x", "cycle_y", "identity_x", "identity_y", "d_x", "d_y",
    ]  # fmt: skip
    assert all(term.ndim == 0 and not term.requires_grad for term in terms.values())


def test_on_one_batch_the_cycle_loss_falls(dataset):
    options = config(dataset, lr=2e-3)
    state = build_state(options, torch.device("cpu"))
    x, y = batch()
    x, y = x * 0.1 + 0.5, y * 0.1 - 0.5
    losses = [train_step(state, x, y, options)["cycle_x"].item() for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]


def test_the_average_follows_the_generators(dataset):
    options = config(dataset, ema_decay=0.9)
    state = build_state(options, torch.device("cpu"))
    name = "G.model.1.weight"
    first = None
    for _ in range(2):
        train_step(state, *batch(), options)
        now = state.generators.state_dict()[name].clone()
        first, expected = now if first is None else first, now if first is None else 0.9 * first + 0.1 * now
    torch.testing.assert_close(state.average.module.state_dict()[name], expected)


def test_bfloat16_trains_as_float32_does_within_its_precision(dataset):
    options = config(dataset)
    terms = [train_step(build_state(options, torch.device("cpu")), *batch(), options, amp=amp) for amp in (False, True)]
    for name in terms[0]:
        assert terms[1][name].item() == pytest.approx(terms[0][name].item(), rel=0.05), name
        assert terms[1][name].dtype == torch.float32


def test_the_learning_rate_is_constant_then_falls_to_zero():
    assert [linear_decay(p, 0.5) for p in (0, 0.5, 0.75, 1)] == [1, 1, 0.5, 0]
    assert [linear_decay(p, 0) for p in (0, 1)] == [1, 1]


def test_a_run_leaves_what_the_readme_says(dataset):
    folder = train(config(dataset, n_epochs=1, n_epochs_decay=1, save_epoch_freq=1)).folder
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "last.pt", "metrics.jsonl", "losses.png", "samples", "G", "F", "epochs",
    }  # fmt: skip
    assert sorted(path.name for path in (folder / "samples").iterdir()) == ["epoch-0001.png", "epoch-0002.png"]
    assert sorted(path.name for path in (folder / "epochs").iterdir()) == ["0001", "0002"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert lines[5]["lr"] == 2e-4 and lines[-1]["lr"] == pytest.approx(2e-4 / 6, rel=1e-3)
    assert {"adversarial_g", "cycle_x", "d_y", "images_per_second", "epoch"} <= lines[0].keys()
    assert json.loads((folder / "config.json").read_text())["ngf"] == 4
    sheet = Image.open(folder / "samples" / "epoch-0001.png")
    assert sheet.width > 6 * 256 and np.asarray(sheet).std() > 10
    # What is kept for use is the average, and it is what last.pt holds.
    average = checkpoint.load(folder / "last.pt")["average"]
    painter = Generator.from_pretrained(folder / "G").state_dict()
    assert all(torch.equal(value, average[f"module.G.{key}"]) for key, value in painter.items())


def test_four_epochs_are_two_and_two_bit_for_bit(dataset):
    whole = train(config(dataset, name="whole", n_epochs=4, n_epochs_decay=0, pool_size=3)).folder
    train(config(dataset, name="parts", n_epochs=2, n_epochs_decay=0, pool_size=3))
    parts = train(config(dataset, name="parts", n_epochs=4, n_epochs_decay=0, pool_size=3, resume=True)).folder
    assert_same(weights(whole), weights(parts))
    lines = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (whole, parts)]
    losses = [[json.loads(line)["cycle_x"] for line in group] for group in lines]
    assert losses[0] == losses[1] and len(losses[0]) == 24


def test_the_same_seed_gives_the_same_run_and_another_another(dataset):
    runs = [
        weights(train(config(dataset, name=f"run{i}", max_steps=2, seed=seed)).folder)
        for i, seed in enumerate((5, 5, 6))
    ]
    assert_same(runs[0], runs[1])
    assert not torch.equal(runs[0]["average.module.G.model.1.weight"], runs[2]["average.module.G.model.1.weight"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_stopped_inside_an_epoch_goes_on_bit_for_bit(dataset, tmp_path, capsys, number):
    flags = ["--print-freq", 1, "--n-epochs", 1000, "--n-epochs-decay", 0, "--pool-size", 3]
    flags += ["--checkpoints-dir", tmp_path / "runs"]
    process = subprocess.Popen(
        command(["train.py", *TINY, "--dataroot", dataset, *flags, "--name", "stopped", "--num-workers", 1]),
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for_lines(tmp_path / "runs" / "stopped" / "metrics.jsonl", 8, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert f"--name stopped --checkpoints-dir {tmp_path / 'runs'} --resume" in out and not err
    end = checkpoint.load(tmp_path / "runs" / "stopped" / "last.pt")["step"] + 7

    # --resume alone goes on; here with an end, so that the test has one.
    resume = ["--name", "stopped", "--checkpoints-dir", str(tmp_path / "runs"), "--resume", "--max-steps", str(end)]
    capsys.readouterr()
    assert train_command(resume, "train.py") == 0
    assert f"options that differ from the saved ones: --max-steps {end} (was None)" in capsys.readouterr().out
    assert train_in_process(dataset, *flags, "--name", "whole", "--max-steps", end) == 0
    assert_same(weights(tmp_path / "runs" / "whole"), weights(tmp_path / "runs" / "stopped"))


def test_a_killed_run_goes_on_from_its_last_checkpoint(dataset, tmp_path):
    flags = [*TINY, "--dataroot", dataset, "--checkpoints-dir", tmp_path / "runs", "--print-freq", 1]
    process = subprocess.Popen(
        command(["train.py", *flags, "--save-latest-freq", 4]),
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    folder = tmp_path / "runs" / "experiment_name"
    wait_for_lines(folder / "metrics.jsonl", 9, process)
    process.kill()
    process.communicate()
    step = checkpoint.load(folder / "last.pt")["step"]
    assert step >= 4
    resume = ["--checkpoints-dir", str(tmp_path / "runs"), "--resume", "--max-steps", str(step + 3)]
    assert train_command(resume, "train.py") == 0
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, step + 4))


def test_two_processes_equal_one_with_twice_the_batch(dataset, tmp_path):
    flags = ["--checkpoints-dir", tmp_path / "runs", "--print-freq", 1, "--max-steps", 5, "--save-latest-freq", 2]
    flags += ["--lr", 1e-4]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", 2, "--standalone"]
    two = run(
        *torchrun,
        "train.py",
        *TINY,
        "--dataroot",
        dataset,
        *flags,
        "--name",
        "two",
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert two.returncode == 0, two.stderr
    assert train_in_process(dataset, *flags, "--name", "one", "--batch-size", 2) == 0
    metrics = [
        [json.loads(line) for line in (tmp_path / "runs" / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert [line["step"] for line in metrics[1]] == [1, 2, 3, 4, 5]  # One log, not two.
    assert two.stdout.count("step 5:") == 1
    for a, b in zip(*metrics, strict=True):
        for name in ("cycle_x", "cycle_y", "d_x", "d_y", "adversarial_g"):
            assert a[name] == pytest.approx(b[name], rel=1e-3), (a["step"], name)
    first, second = weights(tmp_path / "runs" / "one"), weights(tmp_path / "runs" / "two")
    for key in (key for key in first if key.endswith("weight") and key.startswith("generators")):
        # Adam's first steps have the size of the learning rate, however small the gradient is, so that rounding shows:
        # up to 7e-6 on average, on some CPUs. Half of the batch, as one process alone sees it, gives 7e-5 and more.
        assert (first[key] - second[key]).abs().max() < 2e-4, key
        assert (first[key] - second[key]).abs().mean() < 2e-5, key


def train_in_process(dataset, *flags):
    """The command, as a shell would call it; its exit code."""
    flags = [*TINY, "--dataroot", dataset, "--checkpoints-dir", dataset.parent / "checkpoints", "--name", "run", *flags]
    return cli.run(lambda: train_command([str(flag) for flag in flags], "train.py"), "train.py")


@pytest.fixture
def finished(dataset):
    assert train_in_process(dataset, "--max-steps", 2) == 0
    return dataset.parent / "checkpoints" / "run"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--dataroot", "nowhere"], "no folder nowhere"),
        (["--load-size", "20"], "--load-size 20 is below --crop-size 32"),
        (["--crop-size", "30"], "--crop-size 30: expected a multiple of 4"),
        (["--batchsize", "2"], "unknown option --batchsize; did you mean --batch-size?"),
        (["--gan-loss", "wgan"], "'lsgan', 'vanilla'"),
        (["--ngf", "many"], "--ngf"),
        (["--lr", "0"], "--lr must be more than 0"),
        (["--lambda-identity", "-1"], "--lambda-identity must be 0 or more"),
        (["--name", "../up"], "expected the name of one folder"),
        (["--augment", "weak"], "--augment weak: expected none, paper, strong"),
        (["--device", "cuda:99"], "cuda"),
        (["--device", "toaster"], "expected auto, cpu"),
        (["--batch-size", "100"], "6 pictures do not fill one batch of --batch-size 100; try --batch-size 6"),
        (["--resume", "--name", "new"], "nothing to resume"),
    ],
)
def test_wrong_flags_get_one_line_and_exit_code_2(dataset, capsys, flags, says):
    assert train_in_process(dataset, *flags) == 2
    assert says in one_error(capsys, "train.py")
    assert not list(dataset.parent.glob("checkpoints/*/*"))


def test_an_empty_folder_is_named(dataset, capsys):
    shutil.rmtree(dataset / "trainB")
    (dataset / "trainB").mkdir()
    assert train_in_process(dataset) == 2
    assert "no pictures in" in (line := one_error(capsys, "train.py")) and "trainB" in line


def test_an_unwritable_folder_is_named(dataset, capsys):
    (dataset.parent / "checkpoints").write_text("a file, where the folder should be")
    assert train_in_process(dataset) == 2
    assert "choose another --checkpoints-dir" in one_error(capsys, "train.py")


def test_a_bad_picture_is_named_and_left_out(dataset, capsys):
    (dataset / "trainA" / "notes.jpg").write_text("this is no picture")
    assert train_in_process(dataset, "--max-steps", 1) == 0
    assert "notes.jpg: not a picture" in capsys.readouterr().out


def test_too_many_bad_pictures_stop_the_run(dataset, capsys):
    for i in range(2):
        (dataset / "trainA" / f"notes{i}.jpg").write_text("this is no picture")
    assert train_in_process(dataset) == 2
    assert "2 of 8 pictures of domain A cannot be read" in one_error(capsys, "train.py")


def test_a_run_is_never_overwritten(finished, dataset, capsys):
    before = (finished / "last.pt").read_bytes()
    assert train_in_process(dataset) == 2
    assert "--resume" in (line := one_error(capsys, "train.py")) and "--name" in line
    assert (finished / "last.pt").read_bytes() == before


def test_a_finished_run_says_how_to_go_on(finished, dataset, capsys):
    assert train_in_process(dataset, "--resume", "--max-steps", 2) == 2
    line = one_error(capsys, "train.py")
    assert "is finished: 2 steps" in line and "--n-epochs" in line


def test_a_run_cannot_change_its_networks(finished, dataset, capsys):
    assert train_in_process(dataset, "--resume", "--max-steps", 4, "--ngf", 5) == 2
    assert "--ngf 5 (was 4)" in one_error(capsys, "train.py")


def test_a_checkpoint_cut_in_half_is_named(finished, dataset, capsys):
    half = (finished / "last.pt").read_bytes()[: (finished / "last.pt").stat().st_size // 2]
    (finished / "last.pt").write_bytes(half)
    assert train_in_process(dataset, "--resume", "--max-steps", 4) == 2
    assert "last.pt: cut short or damaged" in one_error(capsys, "train.py")
    assert (finished / "last.pt").read_bytes() == half


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm was done",)


def test_a_checkpoint_with_a_pickled_object_is_refused(finished, dataset, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"step": Harmful()}, finished / "last.pt")
    assert train_in_process(dataset, "--resume", "--max-steps", 4) == 2
    assert "could run code" in one_error(capsys, "train.py")
    assert not (tmp_path / "harm was done").exists()


@pytest.mark.parametrize(
    "entries", [{"random": {"cpu": 1}}, {"generators": "none"}, {"pools": [None]}, {"step": "two"}, {"config": [1]}]
)
def test_a_checkpoint_of_another_layout_is_named(finished, dataset, capsys, entries):
    checkpoint.save(finished / "last.pt", **(checkpoint.load(finished / "last.pt") | entries))
    assert train_in_process(dataset, "--resume", "--max-steps", 4) == 2
    assert "last.pt: not a" in one_error(capsys, "train.py")


def test_a_run_that_diverges_stops_and_keeps_its_checkpoint(finished, dataset, capsys):
    before = checkpoint.load(finished / "last.pt")
    assert train_in_process(dataset, "--resume", "--max-steps", 40, "--lr", "1e30", "--print-freq", 1) == 1
    assert "training has diverged" in (line := one_error(capsys, "train.py")) and "last.pt is from before that" in line
    after = checkpoint.load(finished / "last.pt")
    assert after["step"] == before["step"]
    assert all(value.isfinite().all() for value in after["generators"].values())


def test_check_finite_names_what_is_not():
    layer = torch.nn.Linear(2, 2)
    check_finite({"cycle_x": 1.0}, layer)
    with pytest.raises(FloatingPointError, match="cycle_x is nan"):
        check_finite({"cycle_x": float("nan")}, layer)
    layer.weight.data[0, 0] = float("inf")
    with pytest.raises(FloatingPointError, match="a weight is not finite"):
        check_finite({}, layer)


def test_out_of_memory_says_which_flags_help(dataset, capsys, monkeypatch):
    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr("cyclegan.train.train", exhausted)
    assert train_in_process(dataset) == 1
    line = one_error(capsys, "train.py")
    assert all(hint in line for hint in ("out of memory", "--crop-size 16", "--ngf 2", "--n-blocks"))


def test_minutes_end_a_run_with_a_learning_rate_near_zero(dataset):
    folder = train(config(dataset, n_epochs=1000, n_epochs_decay=1000, max_minutes=0.04)).folder
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) > 3
    assert lines[0]["lr"] == 2e-4 and lines[-1]["lr"] < 5e-5


def test_there_are_no_more_workers_than_cores(dataset, recwarn):
    build = (build_pipelines("paper", 36, 32), torch.device("cpu"))
    assert load_data(config(dataset, num_workers=1000), *build).loader.num_workers == distributed.cores()
    assert load_data(config(dataset, num_workers=0), *build).loader.num_workers == 0
    assert not recwarn.list
