import json

import numpy as np
import pytest
import torch
from conftest import assert_descends, assert_same, exit_code, one_error, read_lines
from PIL import Image

from gatys.styles import load_preset, make_preset, save_preset, style_network
from johnson.cli import main
from johnson.models import TransformerNet
from johnson.options import LossConfig, NetworkConfig, TrainConfig
from johnson.train import build_state, load_data, style_grams, train, train_step
from stylekit.networks import weights
from stylekit.options import flatten
from stylekit.pictures import images
from stylekit.training import checkpoint

CPU = torch.device("cpu")
TINY = ("--width", "4", "--n-blocks", "1", "--crop-size", "32", "--load-size", "36", "--batch-size", "2")
TINY += ("--num-workers", "0", "--device", "cpu", "--amp", "off")
LAYERS = LossConfig().style_layers
TERMS = ["content", "relu1_1", "relu2_1", "relu3_1", "relu4_1", "pixel"]


@pytest.fixture
def photographs(tmp_path, pictures):
    """Six photographs, two of them in a subfolder."""
    for i, picture in enumerate(pictures[:6]):
        images.save(picture, tmp_path / "photographs" / ("more" if i > 3 else "") / f"{i}.png")
    return tmp_path / "photographs"


@pytest.fixture
def painting(tmp_path, pictures):
    images.save(pictures[8].resize((96, 96)), tmp_path / "painting.png")
    return tmp_path / "painting.png"


def config(photographs, painting, **changes):
    tiny = dict(width=4, n_blocks=1, crop_size=32, load_size=36, batch_size=2, num_workers=0)
    tiny |= dict(device="cpu", amp="off", checkpoints_dir=photographs.parent / "runs", name="run", print_freq=1)
    tiny |= dict(dataroot=str(photographs), style=(str(painting),))
    return TrainConfig.from_preset("paper", **(tiny | changes))


def command_line(photographs, painting, *flags):
    """Run `johnson train` in this process; returns its exit code."""
    usual = [*TINY, "--dataroot", photographs, "--style", painting, "--checkpoints-dir", photographs.parent / "runs"]
    return exit_code(main, "train", *usual, "--name", "run", *flags)


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, 32, 32, generator=generator), torch.randn(2, 1, 32, 32, generator=generator)


# A training step.


def test_a_step_moves_the_network_and_not_the_loss_network(photographs, painting):
    options = config(photographs, painting)
    state = build_state(options, CPU)
    before, fixed = ({n: v.clone() for n, v in m.state_dict().items()} for m in (state.network, state.loss_network))
    terms = train_step(state, *batch(), options)
    assert list(terms) == TERMS
    assert all(term.ndim == 0 and not term.requires_grad for term in terms.values())
    after = state.network.state_dict()
    assert not [name for name in before if name.endswith("weight") and torch.equal(before[name], after[name])]
    assert_same(fixed, state.loss_network.state_dict())


# The gradient of each term in turn must be seen beside those of the others.
@pytest.mark.parametrize("heavy", [{"style_weight": 3.0}, {"content_weight": 1e3}, {"pixel_weight": 1e5}])
def test_a_step_descends_the_gradient_of_the_sum_of_the_logged_terms(photographs, painting, heavy):
    options = config(photographs, painting, **heavy)

    def loss(state):
        return sum(term.double().item() for term in train_step(state, *batch(), options).values())

    # Losses are computed in float32: the step must be long enough to be seen, and short enough to be straight.
    assert_descends(build_state(options, CPU), "network", "optimizer", loss, epsilon=1e-4, rel=0.005)


@pytest.mark.parametrize("optimizer", ["muon", "adam"])
def test_on_one_batch_the_loss_falls(photographs, painting, optimizer):
    options = config(photographs, painting, lr=5e-3, optimizer=optimizer)
    state = build_state(options, CPU)
    losses = [sum(train_step(state, *batch(), options).values()).item() for _ in range(15)]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("deviation", [0.0, 2.0])
def test_the_network_gets_noise_of_the_requested_strength(photographs, painting, deviation):
    options = config(photographs, painting, noise=deviation, style_weight=0)
    state = build_state(options, CPU)
    inputs = []
    state.network.model.register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0]))
    photograph, noise = batch()
    train_step(state, photograph, noise, options)
    assert torch.equal(inputs[0], torch.cat([photograph, 2 * noise], dim=1) if deviation else photograph)


def test_a_network_that_changes_nothing_has_no_content_loss(photographs, painting):
    # The output is compared with the photograph, not with the noisy input.
    options = config(photographs, painting, style_weight=0)
    state = build_state(options, CPU)
    state.network.forward = lambda x, noise: x + 0 * next(state.network.parameters()).sum()
    assert max(train_step(state, *batch(), options).values()) == 0


def test_bfloat16_trains_as_float32_does_within_its_precision(photographs, painting):
    options = config(photographs, painting)
    terms = [train_step(build_state(options, CPU), *batch(), options, amp=amp) for amp in (False, True)]
    for name in terms[0]:
        assert terms[1][name].item() == pytest.approx(terms[0][name].item(), rel=0.1), name
        assert terms[1][name].dtype == torch.float32


# The style.


@pytest.fixture
def loss_network(photographs, painting):
    return build_state(config(photographs, painting), CPU).loss_network


def test_a_style_is_a_painting_a_folder_of_them_a_bundled_style_or_a_file(
    photographs, painting, tmp_path, loss_network
):
    def grams(style, size=64):
        return style_grams([str(style)], size, LAYERS, loss_network)

    one = grams(painting)
    assert list(one) == list(LAYERS) and one["relu1_1"].shape == (1, 32, 32)

    images.save(images.load(painting), tmp_path / "twice" / "a.png")
    images.save(images.load(painting), tmp_path / "twice" / "b.png")
    preset = make_preset([images.load(painting)], style_network("compact", None, "max"))
    save_preset(preset, tmp_path / "mine.safetensors")
    folder, bundled, file = grams(tmp_path / "twice"), grams("starry-night", 200), grams(tmp_path / "mine.safetensors")
    for layer in one:
        torch.testing.assert_close(folder[layer], one[layer])
        torch.testing.assert_close(bundled[layer], load_preset("starry-night").at(200)[layer])
        # Presets begin at 128 px, larger than this painting of 96 px.
        assert file[layer].shape == one[layer].shape and not torch.equal(file[layer], one[layer])


def test_several_styles_give_their_mean(painting, loss_network):
    names = [str(painting), "sunflowers"]
    each = [style_grams([name], 512, LAYERS, loss_network) for name in names]
    for layer, gram in style_grams(names, 512, LAYERS, loss_network).items():
        torch.testing.assert_close(gram, 0.5 * each[0][layer] + 0.5 * each[1][layer])


def test_the_size_of_the_painting_changes_the_style(painting, loss_network):
    small, large = (style_grams([str(painting)], size, LAYERS, loss_network)["relu3_1"] for size in (32, 96))
    assert (small - large).norm() > 0.02 * large.norm()


def test_a_preset_of_another_network_is_refused(photographs, painting, tmp_path, capsys):
    preset = make_preset([images.load(painting)], style_network("compact", None, "average"))
    save_preset(preset, tmp_path / "average.safetensors")
    assert command_line(photographs, painting, "--style", tmp_path / "average.safetensors") == 2
    assert "network" in one_error(capsys, "johnson")


# Initial weights.


def test_training_can_start_from_a_trained_network(photographs, painting, tmp_path, capsys):
    weights.save(start := TransformerNet(NetworkConfig(4, 1)), tmp_path / "start")
    options = config(photographs, painting, init=str(tmp_path / "start"))
    assert_same(build_state(options, CPU).network.state_dict(), start.state_dict())
    # The strength of the noise is no parameter, and may change.
    changed = config(photographs, painting, init=str(tmp_path / "start"), noise=2.0)
    assert build_state(changed, CPU).network.noise == 2
    assert command_line(photographs, painting, "--init", tmp_path / "start", "--width", 8) == 2
    assert "its architecture differs from the options; add --width 4" in one_error(capsys, "johnson")


def test_an_initial_network_of_another_architecture_names_the_flags_that_fit(photographs, painting, tmp_path, capsys):
    published = TransformerNet(NetworkConfig(4, 5, upsample="nearest", bound=False, skip=False, noise=0.0))
    weights.save(published, tmp_path / "mosaic")
    assert command_line(photographs, painting, "--init", tmp_path / "mosaic", "--n-blocks", 5) == 2
    assert "upsample='nearest', bound=False, skip=False, noise=0.0 has no flag: try --preset paint" in one_error(
        capsys, "johnson"
    )


# A run.


@pytest.mark.plots
def test_a_run_leaves_the_network_and_samples_beside_what_every_run_leaves(photographs, painting, pictures, tmp_path):
    images.save(pictures[11].resize((700, 350)), tmp_path / "val" / "a.png")
    folder = train(config(photographs, painting, save_epoch_freq=1, val_dataroot=str(tmp_path / "val"))).folder
    assert {path.name for path in folder.iterdir()} == {
        ".lock", "config.json", "last.pt", "metrics.jsonl", "losses.png", "samples", "model", "epochs",
    }  # fmt: skip
    sheet = Image.open(folder / "samples" / "epoch-0001.png")
    assert sheet.width > 2 * 2 * 256 and np.asarray(sheet).std() > 10  # Twice as wide as it is high.
    saved = checkpoint.load(folder / "last.pt")
    # The names on disk are older than some names in the code, and stay, so that old runs can be resumed.
    assert saved.keys() == {
        "grams", "network", "average", "optimizer", "weaves",
        "config", "step", "epoch", "step_in_epoch", "seconds", "wandb_run_id",
    }  # fmt: skip
    assert list(saved["grams"]) == list(LAYERS)
    network = TransformerNet.from_pretrained(folder / "model").state_dict()
    assert all(torch.equal(value, saved["average"][f"module.{key}"]) for key, value in network.items())


@pytest.mark.parametrize("optimizer", ["muon", "adam"])
def test_a_resumed_run_equals_an_uninterrupted_one_and_needs_no_painting(photographs, painting, optimizer):
    for i, path in enumerate(sorted(photographs.rglob("*.png"))):  # Smooth, for the loss against regular patterns.
        images.save(Image.new("RGB", (64, 64), (40 * i, 128, 200)), path)
    options = dict(optimizer=optimizer, weave_weight=2.0, crop_size=56, load_size=64, lr_policy="constant")
    whole = train(config(photographs, painting, name="whole", max_steps=4, **options)).folder
    train(config(photographs, painting, name="parts", max_steps=2, **options))
    painting.unlink()
    parts = train(config(photographs, painting, name="parts", max_steps=4, resume=True, **options)).folder
    first, second = (checkpoint.load(folder / "last.pt") for folder in (whole, parts))
    for saved in (first, second):
        del saved["config"], saved["seconds"]
    torch.testing.assert_close(second, first, rtol=0, atol=0)
    assert all(line["weave"] > 0 for line in read_lines(parts / "metrics.jsonl"))


def test_a_run_of_an_earlier_version_goes_on(photographs, painting):
    assert command_line(photographs, painting, "--max-steps", 1) == 0
    folder = photographs.parent / "runs" / "run"
    old = flatten(json.loads((folder / "config.json").read_text()))
    old |= {"augment": "crop", "style_weights": [], "layer_weights": [], "tv_weight": 0.0, "keep_epochs": "all"}
    del old["preset"], old["threads"]
    (folder / "config.json").write_text(json.dumps(old))
    saved = checkpoint.load(folder / "last.pt") | {"config": old, "pipeline": {}, "pending": []}
    del saved["weaves"]
    checkpoint.save(folder / "last.pt", **saved)
    resume = ["--resume", "--name", "run", "--checkpoints-dir", photographs.parent / "runs"]
    assert exit_code(main, "train", *resume, "--max-steps", 2) == 0
    assert checkpoint.load(folder / "last.pt")["step"] == 2
    assert json.loads((folder / "config.json").read_text())["style"] == [str(painting)]


def test_a_run_cannot_change_its_network_or_its_optimizer(photographs, painting):
    before = (train(config(photographs, painting, max_steps=1)).folder / "last.pt").read_bytes()
    for changes, says in (
        ({"width": 5}, r"--width 5 \(was 4\)"),
        ({"optimizer": "adam"}, r"--optimizer adam \(was muon\)"),
    ):
        with pytest.raises(ValueError, match=f"a run cannot change {says}"):
            train(config(photographs, painting, max_steps=4, resume=True, **changes))
    assert (photographs.parent / "runs" / "run" / "last.pt").read_bytes() == before


def test_a_checkpoint_of_another_layout_is_named(photographs, painting):
    path = train(config(photographs, painting, max_steps=1)).folder / "last.pt"
    good = checkpoint.load(path)
    for entries in ({"network": "none"}, {"grams": None}, {"optimizer": {}}, {"step": -1}):
        checkpoint.save(path, **(good | entries))
        with pytest.raises(ValueError, match=r"last\.pt: not a"):
            train(config(photographs, painting, max_steps=4, resume=True))


def test_validation_photographs_are_a_picture_or_those_of_the_training(photographs, painting):
    assert load_data(config(photographs, painting, val_dataroot=str(painting)), CPU)[1] == [painting]
    assert len(load_data(config(photographs, painting), CPU)[1]) == 4


# Wrong flags and wrong data.


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--dataroot", "nowhere"], "no folder nowhere; --dataroot needs a folder with photographs"),
        (["--style", "nothing"], "no style nothing"),
        (["--style", "nothing.jpg"], "no picture nothing.jpg"),
        (["--style-layers", "relu1_1", "relu9_9"], "no compact layer 'relu9_9'; choose from conv1_1"),
        (["--content-layer", "conv9"], "no compact layer 'conv9'"),
        (["--loss-network", "vgg16", "--vgg-weights", "nowhere.pth"], "no file nowhere.pth"),
        (["--init", "nothing"], "no network nothing"),
        (["--val-dataroot", "nowhere"], "no folder nowhere"),
        (["--batch-size", "100"], "6 pictures do not fill one batch of --batch-size 100; try --batch-size 6"),
        (["--resume", "--name", "new"], "no run to resume at"),
    ],
)
def test_wrong_values_get_one_line_and_exit_code_2(photographs, painting, capsys, flags, says):
    assert command_line(photographs, painting, *flags) == 2
    assert says in one_error(capsys, "johnson")
    assert not list((photographs.parent / "runs").glob("*"))
