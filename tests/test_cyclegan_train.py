"""The cycle of the paper: a training step, a run, and what is said about wrong data."""

import json
import os
import shutil

import pytest
import torch
from conftest import ROOT, TINY, assert_descends, assert_same, exit_code, one_error, read_lines, run, write_dataset

from cyclegan.cli import train_main
from cyclegan.data import load_data
from cyclegan.models import Generator
from cyclegan.options import TrainConfig
from cyclegan.train import build_state, sample_images, train, train_step
from cyclegan.translate import load_generator
from stylekit.measures.features import Estimate
from stylekit.measures.table import Metric
from stylekit.options import flatten
from stylekit.training import checkpoint
from stylekit.training.run import Run

CPU = torch.device("cpu")
GENERATOR_TERMS = ["adversarial_g", "adversarial_f", "cycle_x", "cycle_y", "identity_x", "identity_y"]
DISCRIMINATOR_TERMS = ["d_x", "d_y"]


def config(dataset, **changes):
    tiny = dict(ngf=4, ndf=4, n_blocks=1, n_layers_d=2, crop_size=32, load_size=36, num_workers=0, device="cpu")
    tiny |= dict(amp="off", checkpoints_dir=dataset.parent / "checkpoints", name="run", print_freq=1)
    return TrainConfig.from_preset("paper", **(tiny | dict(dataroot=str(dataset)) | changes))


def command_line(dataset, *flags):
    """Run train.py in this process; returns its exit code."""
    usual = [*TINY, "--dataroot", dataset, "--checkpoints-dir", dataset.parent / "checkpoints", "--name", "run"]
    return exit_code(train_main, *usual, *flags)


def saved_in(folder):
    return checkpoint.load(folder / "last.pt")


def batch():
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1 for _ in range(2))


def parameters(state):
    return {
        name: value.clone()
        for module in (state.generators, state.discriminators)
        for name, value in module.state_dict().items()
    }


# A training step.


@pytest.mark.parametrize("changes", [{}, {"lambda_identity": 0.0}, {"discriminator": "feature", "diffaugment": True}])
def test_a_step_moves_all_networks(dataset, changes):
    options = config(dataset, **changes)
    state = build_state(options, CPU)
    before = parameters(state)
    terms = train_step(state, *batch(), options)
    after = parameters(state)
    # Normalization removes the biases before it: only rounding moves them.
    trained = [name for name in before if name.endswith(("weight", "original"))]
    assert len(trained) > 10 and not [name for name in trained if torch.equal(before[name], after[name])]
    assert all(p.requires_grad for p in state.discriminators.parameters())
    assert list(terms) == GENERATOR_TERMS[: 4 if "lambda_identity" in changes else 6] + DISCRIMINATOR_TERMS
    assert all(term.ndim == 0 and not term.requires_grad for term in terms.values())


@pytest.mark.parametrize("gan_mode", ["lsgan", "vanilla"])
@pytest.mark.parametrize(
    ("part", "optimizer", "names"),
    [
        ("generators", "generator_optimizer", GENERATOR_TERMS),
        ("discriminators", "discriminator_optimizer", DISCRIMINATOR_TERMS),
    ],
)
def test_a_step_descends_the_gradient_of_the_sum_of_the_logged_terms(dataset, part, optimizer, names, gan_mode):
    options = config(dataset, pool_size=0, gan_mode=gan_mode)
    state = build_state(options, CPU)
    for module in (state.generators, state.discriminators, state.ema):
        module.double()
    x, y = (pictures.double() for pictures in batch())

    def loss(state):
        terms = train_step(state, x, y, options)
        return sum(terms[name].item() for name in names)

    assert_descends(state, part, optimizer, loss, epsilon=1e-8, rel=1e-5)


def test_the_step_of_the_generators_leaves_no_gradient_in_the_discriminators(dataset):
    options = config(dataset)
    state = build_state(options, CPU)
    gradients = []
    state.discriminators.register_forward_pre_hook(
        lambda *_: gradients.append([p.grad for p in state.discriminators.parameters()])
    )
    train_step(state, *batch(), options)
    assert len(gradients) == 2  # Once to score the generators, once to be trained.
    assert all(gradient is None for gradient in gradients[1])


def test_on_one_batch_the_cycle_loss_falls(dataset):
    options = config(dataset, lr=4e-3)
    state = build_state(options, CPU)
    x, y = batch()
    losses = [train_step(state, x * 0.1 + 0.5, y * 0.1 - 0.5, options)["cycle_x"].item() for _ in range(15)]
    assert losses[-1] < 0.5 * losses[0]


def test_the_discriminators_are_trained_on_the_fakes_that_the_pools_return(dataset):
    options = config(dataset, pool_size=4)
    state = build_state(options, CPU)
    past = torch.full((1, 3, 32, 32), 0.25)
    state.pool_x, state.pool_y = (lambda fakes: past.expand_as(fakes)), (lambda fakes: 2 * past.expand_as(fakes))
    inputs = []
    state.discriminators.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments))
    x, y = batch()
    train_step(state, x, y, options)
    for shown, real, fake in zip(inputs[1], (x, y), (past, 2 * past), strict=True):
        assert torch.equal(shown, torch.cat([real, fake.expand_as(real)]))


def test_the_moving_average_follows_the_generators(dataset):
    options = config(dataset, ema_decay=0.9)
    state = build_state(options, CPU)
    name, values = "G.model.1.weight", []
    for _ in range(2):
        train_step(state, *batch(), options)
        values.append(state.generators.state_dict()[name].clone())
    torch.testing.assert_close(state.ema_generators.state_dict()[name], 0.9 * values[0] + 0.1 * values[1])


def test_bfloat16_trains_as_float32_does_within_its_precision(dataset):
    options = config(dataset)
    terms = [train_step(build_state(options, CPU), *batch(), options, amp=amp) for amp in (False, True)]
    for name in terms[0]:
        assert terms[1][name].item() == pytest.approx(terms[0][name].item(), rel=0.05), name
        assert terms[1][name].dtype == torch.float32


# A run.


def test_a_run_releases_its_networks_and_saves_the_documented_entries(dataset):
    folder = train(config(dataset, discriminator="both", crop_size=32, max_steps=1)).folder
    networks = {"G", "F", "D_X", "D_Y", "D_X_features", "D_Y_features"}
    assert {path.name for path in folder.iterdir() if path.is_dir()} == networks | {"samples"}
    saved = saved_in(folder)
    # The names on disk are older than some names in the code, and stay, so that old runs can be resumed.
    assert saved.keys() == {
        "pipelines", "generators", "discriminators", "average", "generator_optimizer", "discriminator_optimizer",
        "pools", "config", "step", "epoch", "step_in_epoch", "seconds", "wandb_run_id",
    }  # fmt: skip
    assert saved["pipelines"].keys() == {"x", "y"} and [pools.keys() for pools in saved["pools"]] == [{"x", "y"}]
    for name in ("G", "F"):
        network = Generator.from_pretrained(folder / name).state_dict()
        assert all(torch.equal(value, saved["average"][f"module.{name}.{key}"]) for key, value in network.items())


class Evaluation:
    """Stands for the evaluation of a network: each is worse than the one before."""

    def __init__(self, *_):
        torch.rand(7)  # Whatever it draws must not change the training.

    def measure(self, generators):
        assert len(generators) == 2
        torch.rand(7)
        self.count = getattr(self, "count", 0) + 1
        return {"x2y": {"kid": Metric(Estimate(*[float(self.count)] * 3))}}


def test_a_resumed_and_evaluated_run_equals_an_uninterrupted_one_bit_for_bit(dataset, monkeypatch):
    monkeypatch.setattr("cyclegan.train.Monitor", Evaluation)
    monkeypatch.setattr("cyclegan.train.score", lambda measured: measured["x2y"]["kid"].output.value)
    # Everything that draws random numbers, or has a state.
    options = dict(noise=0.2, antialias=True, dropout=True, discriminator="both", diffaugment=True, pool_size=2)
    options |= dict(lr_policy="constant", batch_size=2)
    whole = train(config(dataset, max_steps=4, **options)).folder
    options |= dict(name="parts", eval_every=1)
    parts = train(config(dataset, max_steps=2, **options)).folder
    best = saved_in(parts)["average"]
    assert train(config(dataset, max_steps=4, resume=True, **options)).step == 4

    first, second = saved_in(whole), saved_in(parts)
    for saved in (first, second):
        del saved["config"], saved["seconds"], saved["pipelines"]
    torch.testing.assert_close(second, first, rtol=0, atol=0)
    lines = [[line | {"images_per_second": 0} for line in read_lines(run / "metrics.jsonl")] for run in (whole, parts)]
    assert lines[0] == lines[1] and [line["step"] for line in lines[0]] == [1, 2, 3, 4]
    evaluations = read_lines(parts / "evaluations.jsonl")
    assert [(line["step"], line["score"]) for line in evaluations] == [(2, 1), (3, 1), (4, 2)]
    # The first one stays the best, with its networks.
    assert json.loads((parts / "best" / "evaluation.json").read_text()) == evaluations[0]
    F = load_generator(parts / "best", "y2x").state_dict()
    assert all(torch.equal(value, best[f"module.F.{key}"]) for key, value in F.items())


def test_a_run_of_an_earlier_version_goes_on(dataset, capsys):
    folder = train(config(dataset, max_steps=1, gan_mode="vanilla")).folder
    old = flatten(json.loads((folder / "config.json").read_text()))
    old |= {"gan_loss": old.pop("gan_mode"), "one_way": False, "lr_d": None, "keep_epochs": "all", "n_samples": 1}
    del old["preset"], old["threads"]
    (folder / "config.json").write_text(json.dumps(old))
    rest = {"random": torch.get_rng_state(), "random_cuda": None, "pending": [], "styles": [{}], "weaves": [{}]}
    checkpoint.save(folder / "last.pt", **(saved_in(folder) | {"config": old} | rest))
    capsys.readouterr()
    resume = ["--resume", "--name", "run", "--checkpoints-dir", dataset.parent / "checkpoints", "--max-steps", 2]
    assert exit_code(train_main, *resume) == 0
    assert "differ from the saved ones: --max-steps 2 (was 1)\n" in capsys.readouterr().out
    assert saved_in(folder)["step"] == 2 and saved_in(folder)["config"]["losses"]["gan_mode"] == "vanilla"


def test_a_one_way_run_of_an_earlier_version_is_told_to_pretrain(dataset, capsys):
    folder = train(config(dataset, max_steps=1)).folder
    saved = saved_in(folder)
    checkpoint.save(folder / "last.pt", **(saved | {"config": flatten(saved["config"]) | {"one_way": True}}))
    assert command_line(dataset, "--resume", "--max-steps", 2) == 2
    assert f"go on with `cyclegan pretrain --init {folder} --name run-2`" in one_error(capsys, "train.py")


def test_a_run_cannot_change_its_networks_or_its_direction(dataset, capsys):
    assert command_line(dataset, "--max-steps", 1) == 0
    before = (dataset.parent / "checkpoints" / "run" / "last.pt").read_bytes()
    for flags, says in (
        (["--ngf", 8], "--ngf 8 (was 4)"),
        (["--direction", "BtoA"], "--direction BtoA (was AtoB)"),
    ):
        assert command_line(dataset, "--resume", "--max-steps", 2, *flags) == 2
        assert f"a run cannot change {says}; choose another --name" in one_error(capsys, "train.py")
    assert (dataset.parent / "checkpoints" / "run" / "last.pt").read_bytes() == before


def test_a_resumed_run_keeps_its_augmentation_unless_it_is_told_another(dataset, tmp_path):
    import albumentations

    albumentations.save(albumentations.Compose([albumentations.Resize(32, 32)]), tmp_path / "mine.json")
    options = dict(augment=str(tmp_path / "mine.json"))
    folder = train(config(dataset, max_steps=1, **options)).folder
    (tmp_path / "mine.json").unlink()
    train(config(dataset, max_steps=2, resume=True, **options))
    assert "Resize" in str(saved_in(folder)["pipelines"])
    train(config(dataset, max_steps=3, augment="paper", resume=True))
    assert "RandomCrop" in str(saved_in(folder)["pipelines"])


def test_a_checkpoint_of_another_layout_is_named(dataset):
    folder = train(config(dataset, max_steps=1)).folder
    good = saved_in(folder)
    for entries in ({"generators": "none"}, {"pools": [None]}, {"pipelines": [1]}, {"average": {}}):
        checkpoint.save(folder / "last.pt", **(good | entries))
        with pytest.raises(ValueError, match=r"last\.pt: not a"):
            train(config(dataset, max_steps=4, resume=True))


def test_samples_are_the_test_pictures_translated_there_and_back(dataset):
    options = config(dataset, dropout=True)
    state, data = build_state(options, CPU), load_data(options, Run(options, ()))
    columns = sample_images(state, data, options)
    assert list(columns) == ["real x", "G(x)", "F(G(x))", "real y", "F(y)", "G(F(y))"]
    assert all(len(pictures) == 2 and pictures[0].size == (48, 48) for pictures in columns.values())
    assert [path.parent.name for path in data.validation_x + data.validation_y] == ["testA"] * 2 + ["testB"] * 2
    # Sampling shows the networks as they will be used: without dropout, and the same every time.
    before = torch.get_rng_state()
    again = sample_images(state, data, options)
    assert torch.equal(torch.get_rng_state(), before)
    assert [p.tobytes() for p in again["G(x)"]] == [p.tobytes() for p in columns["G(x)"]]


def torchrun(script, dataset, folder, name, *flags):
    """Train in two processes, two epochs of two steps. torchrun looks every second whether a process has ended."""
    usual = ["-m", "torch.distributed.run", "--nproc-per-node", 2, "--standalone", "--monitor-interval", 1]
    usual += [script, *TINY, *FOUR_STEPS, "--dataroot", dataset, "--checkpoints-dir", folder, "--name", name]
    return run(*usual, *flags, timeout=500, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})


FOUR_STEPS = ["--print-freq", 1, "--max-steps", 4, "--lr", 1e-4]


@pytest.fixture(scope="module")
def two(pictures, tmp_path_factory):
    """A data set of four pictures a folder, and the folder and the output of a run of two processes on it."""
    root = tmp_path_factory.mktemp("two")
    dataset = write_dataset(root / "dataset", pictures)
    for i in (4, 5):
        (dataset / "trainA" / f"{i}.png").unlink()
    result = torchrun("train.py", dataset, root / "runs", "two")
    assert result.returncode == 0, result.stderr
    return dataset, root / "runs", result


def test_two_processes_equal_one_with_twice_the_batch(two):
    dataset, folder, two = two
    flags = ["--dataroot", dataset, "--checkpoints-dir", folder, "--name", "one", "--batch-size", 2]
    assert exit_code(train_main, *TINY, *FOUR_STEPS, *flags) == 0
    metrics = [read_lines(folder / name / "metrics.jsonl") for name in ("one", "two")]
    assert [line["step"] for line in metrics[1]] == [1, 2, 3, 4]  # One log, not two.
    assert two.stdout.count("step 4:") == 1
    for a, b in zip(*metrics, strict=True):
        for name in ("cycle_x", "cycle_y", "d_x", "d_y", "adversarial_g"):
            assert a[name] == pytest.approx(b[name], rel=1e-3), (a["step"], name)
    first, second = (saved_in(folder / name) for name in ("one", "two"))
    for key in (key for key in first["generators"] if key.endswith("weight")):
        # Adam's first steps have the size of the learning rate, however small the gradient is, which shows rounding: up
        # to 7e-6 on average, on some CPUs. Training on half of the batch alone gives 7e-5 and more.
        difference = (first["generators"][key] - second["generators"][key]).abs()
        assert difference.max() < 2e-4 and difference.mean() < 2e-5, key
    # Each process has its own pools.
    assert len(second["pools"]) == 2
    assert "stylekit/" not in two.stderr  # No warnings of ours.


KILLED = """
import os, signal
import cyclegan.cli, cyclegan.train

train_step, steps = cyclegan.train.train_step, iter(range(4))

def killed(*arguments):
    if next(steps) == 2 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return train_step(*arguments)

cyclegan.train.train_step = killed
try:
    cyclegan.cli.train_main()
except SystemExit as stop:
    print("exit code", stop.code, flush=True)  # torchrun may terminate it before Python has ended.
    raise
"""


def test_a_killed_process_ends_the_other_with_one_line_and_both_resume_bit_for_bit(two, tmp_path):
    dataset, folder, _ = two
    (tmp_path / "killed.py").write_text(KILLED)
    result = torchrun(tmp_path / "killed.py", dataset, folder, "killed")
    assert result.returncode == 1
    line = "train.py: error: another process was killed or has failed; continue with --resume"
    assert [said for said in result.stderr.splitlines() if said.startswith("train.py: ")] == [line]
    # The traceback is torchrun's own.
    assert "stylekit/" not in result.stderr and "cyclegan/" not in result.stderr
    assert result.stdout.endswith("exit code 1\n")
    assert saved_in(folder / "killed")["step"] == 2
    result = torchrun("train.py", dataset, folder, "killed", "--resume")
    assert result.returncode == 0, result.stderr
    for name in ("G", "F"):
        one, other = (folder / run / name / "model.safetensors" for run in ("two", "killed"))
        assert one.read_bytes() == other.read_bytes()
    for name in ("generators", "discriminators"):
        assert_same(saved_in(folder / "killed")[name], saved_in(folder / "two")[name])


# Wrong flags and wrong data.


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--dataroot", "nowhere"], "no folder nowhere; --dataroot needs a folder with trainA and trainB"),
        (["--augment", "weak"], "--augment weak: expected none, paper, strong, detail, or a file"),
        (["--device", "cuda:99"], "cuda"),
        (["--device", "toaster"], "--device toaster: expected auto, cpu, cuda, cuda:N or mps"),
        (["--batch-size", "100"], "6 pictures do not fill one batch of --batch-size 100; try --batch-size 6"),
    ],
)
def test_wrong_values_get_one_line_and_exit_code_2(dataset, capsys, flags, says):
    assert command_line(dataset, *flags) == 2
    assert says in one_error(capsys, "train.py")
    assert not list(dataset.parent.glob("checkpoints/*"))


def test_bad_pictures_are_named_and_skipped_unless_there_are_too_many(dataset, capsys):
    (dataset / "trainA" / "notes.jpg").write_text("this is no picture")
    assert command_line(dataset, "--max-steps", 1) == 0
    assert "notes.jpg: not a supported picture" in capsys.readouterr().out
    (dataset / "trainA" / "more.jpg").write_text("this is no picture")
    assert command_line(dataset, "--name", "other") == 2
    assert "2 of 8 pictures of domain A cannot be read" in one_error(capsys, "train.py")


@pytest.mark.parametrize(("direction", "x", "y"), [("AtoB", "A", "B"), ("BtoA", "B", "A")])
def test_the_other_direction_swaps_the_folders(dataset, direction, x, y):
    shutil.rmtree(dataset / "testA")
    options = config(dataset, direction=direction)
    data = load_data(options, Run(options, ()))
    samples = data.loader.dataset
    assert {path.parent.name for path in samples.paths_x} == {f"train{x}"}
    assert {path.parent.name for path in samples.paths_y} == {f"train{y}"}
    # Without a test folder, samples are training pictures.
    validation = {path.parent.name for path in data.validation_x}, {path.parent.name for path in data.validation_y}
    assert validation == (({"trainA"}, {"testB"}) if direction == "AtoB" else ({"testB"}, {"trainA"}))
