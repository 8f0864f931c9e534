import copy
import dataclasses
import re

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import nn
from torch.nn import functional

from cyclegan.diagnose import (
    Finding,
    FindingFilter,
    add_noise,
    check_collapse,
    check_copy,
    check_discriminator,
    check_inversion,
    check_length,
    check_pattern,
    cycle_remedies,
    diagnose,
    one_way_remedies,
)
from cyclegan.models import Generator
from cyclegan.options import TrainConfig
from cyclegan.train import build_state, train_step
from cyclegan.translate import load_generator
from stylekit.pictures import images

HEALTHY = {"cycle_x": 1.2, "cycle_y": 1.5, "d_x": 0.16, "d_y": 0.18}
OPTIONS = TrainConfig("photographs")
LEVEL = 2 / 255
"""One gray level in [-1, 1]."""
GRAY_LEVEL = 1 / 255
"""The same in [0, 1]."""
FLAT = torch.full((2, 3, 128, 128), 0.5)


class Planted(nn.Module):
    """A generator that computes a given function of pictures in [-1, 1]."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.scale = nn.Parameter(torch.ones(()))  # It has parameters, as all generators do.

    def forward(self, x):
        return self.scale * self.function(x)


def darker(x):
    """A healthy translation: photographs by night."""
    return 0.6 * x - 0.3


def brighter(x):
    """Its inverse."""
    return (x + 0.3) / 0.6


def crop(name, top, left, side=128):
    """A crop of a photograph that scikit-learn ships, (1, 3, side, side) in [0, 1]."""
    return images.to_tensor(Image.fromarray(load_sample_image(name)[top : top + side, left : left + side]))


@pytest.fixture(scope="module")
def x():
    return crop("china.jpg", 100, 250)


@pytest.fixture(scope="module")
def y():
    return crop("flower.jpg", 100, 250)


def findings(x, y, G=darker, F=brighter, terms=HEALTHY, lr=2e-4, progress=0.5, **options):
    """What the diagnosis says, by title."""
    generators = {name: f if isinstance(f, nn.Module) else Planted(f) for name, f in (("G", G), ("F", F))}
    config = dataclasses.replace(OPTIONS, **options)
    found = diagnose(generators, {"x": x, "y": y}, terms, lr, progress, config.gan_loss, cycle_remedies(config))
    return {finding.title: finding for finding in found}


# Planted failures.


def test_healthy_generators_are_left_in_peace(x, y):
    assert findings(x, y) == {}
    assert findings(torch.cat([x, y]), torch.cat([y, x])) == {}


@pytest.mark.parametrize("name", ["G", "F"])
def test_a_generator_that_inverts_colors(x, y, name):
    found = findings(x, y, **{name: lambda x: -0.8 * x}, lambda_identity=0.2)
    assert list(found) == [f"color inversion in {name}"]
    assert "new run with --lambda-identity 1 (now 0.2)" in found[f"color inversion in {name}"].remedy


def test_a_generator_that_returns_its_input(x, y):
    found = findings(x, y, G=lambda x: x + LEVEL)
    assert list(found) == ["no translation in G"]
    assert findings(x, y, G=lambda x: x + 5 * LEVEL) == {}
    assert "--resume --lambda-identity 0.1 (now 0.5)" in found["no translation in G"].remedy
    assert "--lambda-y 5 (now 10)" in findings(x, y, F=lambda y: y, lambda_identity=0)["no translation in F"].remedy


@pytest.mark.parametrize("cell", [1, 2])
def test_a_generator_with_a_checkerboard(x, y, cell):
    index = torch.arange(128) // cell
    board = 6 * LEVEL * (1.0 - 2.0 * ((index[:, None] + index) % 2))
    for options, advice in (
        ({"upsample": "transposed"}, "--upsample resize (now transposed)"),
        ({}, "--antialias"),
        ({"antialias": True}, "--noise 0.2"),
        ({"antialias": True, "noise": 0.2}, "--load-size 429 (now 286)"),
    ):
        found = findings(x, y, G=lambda x: darker(x) + board, **options)
        assert list(found) == ["checkerboard or weave in G"]
        assert f"repeats every {2 * cell}.0 px, " in found["checkerboard or weave in G"].evidence
        assert found["checkerboard or weave in G"].remedy.endswith(advice)


def test_a_generator_with_a_weave_as_it_grows(x, y):
    index = torch.arange(128.0)
    cloth = torch.sin((index[:, None] + index) / 1.3) + torch.sin((index[:, None] - index) / 1.3)
    found = [findings(x, y, G=lambda x, level=level: darker(x) + level * LEVEL * cloth) for level in (0.2, 4, 8, 16)]
    assert [list(names) for names in found] == [[], *[["checkerboard or weave in G"]] * 3]
    times = [float(re.search(r"([\d.]+) times", str(*names.values()))[1]) for names in found[1:]]
    assert times == sorted(set(times)) and "every 8.0 px" in str(*found[1].values())


def test_a_generator_that_hides_its_input_in_the_lowest_bits(x, y):
    def hide(x):
        visible = functional.interpolate(functional.avg_pool2d(darker(x), 16), scale_factor=16.0, mode="bilinear")
        return ((visible / LEVEL / 4).round() * 4 + (x * 1.5).round()) * LEVEL

    def reveal(fake):
        levels = (fake / LEVEL).round()
        return (levels - 4 * (levels / 4).round()) / 1.5

    found = findings(x, y, G=hide, F=reveal)
    assert [title for title in found if title.endswith("in G")] == ["hidden information in G"]
    assert "--resume --lambda-x 5 (now 10)" in found["hidden information in G"].remedy


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_generator_that_always_returns_the_same_picture(x, y, batch_size):
    always = images.to_signed(crop("flower.jpg", 200, 100))
    batch = torch.cat([x, x.flip(3)])[:batch_size]
    found = findings(batch, torch.cat([y, y.flip(3)])[:batch_size], G=lambda x: always + 0.02 * x)
    assert list(found) == ["mode collapse in G"]
    assert "--lambda-x 20 (now 10)" in found["mode collapse in G"].remedy


@pytest.mark.parametrize(
    ("terms", "options", "title", "advice"),
    [
        ({"d_x": 0.003}, {}, "all-powerful discriminator in D_X", "--ndf 32 (now 64)"),
        ({"d_y": 0.02}, {"gan_loss": "vanilla"}, "all-powerful discriminator in D_Y", "--gan-loss lsgan"),
        ({"d_y": 0.25}, {}, "dead discriminator in D_Y", "trainA and trainB differ; start a new run with --ndf 128"),
        ({"d_x": 0.69}, {"gan_loss": "vanilla"}, "dead discriminator in D_X", "--ndf 128"),
    ],
)
def test_a_discriminator_that_teaches_nothing(x, y, terms, options, title, advice):
    healthy = {"d_x": 0.45, "d_y": 0.5} if options else HEALTHY
    assert findings(x, y, terms=healthy, **options) == {}
    found = findings(x, y, terms=healthy | terms, **options)
    assert list(found) == [title] and advice in found[title].remedy


def test_a_learning_rate_of_zero_with_work_left(x, y):
    found = findings(x, y, lr=0.0, progress=0.75)
    assert list(found) == ["no learning rate"]
    assert "25 % of the run left" in found["no learning rate"].evidence
    assert "--lr-policy constant --lr 0.0002" in found["no learning rate"].remedy
    assert findings(x, y, lr=0.0, progress=1.0) == findings(x, y, lr=1e-9) == {}


# Lengths of runs.


@pytest.mark.parametrize(
    ("limits", "steps_per_epoch", "advice"),
    [
        ({"max_steps": 12}, 400, "--resume --max-steps 10000"),
        ({"max_minutes": 0.2}, 400, "--resume --max-minutes 167"),
        ({"n_epochs": 2, "n_epochs_decay": 1}, 4, "--resume --n-epochs 2499"),
        ({"n_epochs": 1, "n_epochs_decay": 0, "max_steps": 12}, 400, "--resume --n-epochs 25 --max-steps 10000"),
        # Five epochs of many pictures are more than 10,000 steps.
        ({"max_steps": 12}, 6000, "--resume --max-steps 30000"),
    ],
)
def test_a_run_of_twelve_steps_is_too_short_and_the_limit_that_ended_it_is_named(limits, steps_per_epoch, advice):
    config = dataclasses.replace(OPTIONS, **limits)
    finding = check_length(12, 12.0, steps_per_epoch, 1, config)
    assert "finished after 12 steps, which is not enough" in finding.evidence
    assert finding.remedy == f"continue with {advice}"


def test_a_long_run_large_batches_and_fine_tuning_are_left_in_peace():
    assert check_length(1999, 999.0, 400, 1, dataclasses.replace(OPTIONS, max_steps=1999)) is not None
    assert check_length(2000, 999.0, 400, 1, dataclasses.replace(OPTIONS, max_steps=2000)) is None
    assert check_length(250, 999.0, 50, 8, dataclasses.replace(OPTIONS, max_steps=250)) is None
    assert check_length(100, 99.0, 400, 1, dataclasses.replace(OPTIONS, max_steps=100, init=("run",))) is None


# Remedies.


@pytest.mark.parametrize("options", [{}, {"one_way": True}, {"discriminator": "feature"}])
@pytest.mark.parametrize(
    "changes", [{}, {"upsample": "transposed", "gan_loss": "vanilla", "lambda_identity": 0.0}, {"antialias": True}]
)
def test_remedies_name_options_that_the_run_has_with_values_that_they_accept(options, changes):
    kinds = {field.name: type(getattr(OPTIONS, field.name)) for field in dataclasses.fields(TrainConfig)}
    config = dataclasses.replace(OPTIONS, **changes, **options)
    unused = {"lambda_x", "lambda_y", "lambda_identity"} if config.one_way else {"lambda_content", "lambda_tone"}
    unused |= {"ndf"} if config.discriminator == "feature" else set()
    remedies = one_way_remedies(config) if config.one_way else cycle_remedies(config)
    assert len(remedies) >= 7
    for text in remedies.values():
        for flag, value in re.findall(r"--([a-z-]+)(?: ([\w.]+))?", text):
            name = flag.replace("-", "_")
            assert name == "resume" or (name in kinds and name not in unused), text
            if value[:1].isdigit():
                kind = float if name == "lr_d" else kinds[name]
                changed = dataclasses.replace(config, **{name: kind(value)})
                assert getattr(changed, name) != getattr(config, name) or name == "lr", text


# The bundled networks, and what a diagnosis leaves alone.


def test_of_the_bundled_networks_only_the_weave_of_landscape2vangogh_cycle_is_named():
    """Its model card says so: plain regions show a canvas-like texture."""
    G, F = load_generator("landscape2vangogh-cycle"), load_generator("vangogh2landscape-cycle")
    sky, plain = (
        findings(crop("china.jpg", *place), crop("flower.jpg", *place), G, F) for place in ((0, 0), (100, 100))
    )
    assert list(sky) == ["checkerboard or weave in G"] and plain == {}


def test_a_diagnosis_changes_neither_the_networks_nor_any_random_state():
    tiny = dict(ngf=4, ndf=4, n_blocks=1, n_layers_d=2, crop_size=64, load_size=64)
    config = dataclasses.replace(OPTIONS, **tiny, dropout=True, noise=0.2)
    x, y = crop("china.jpg", 0, 0, 64), crop("flower.jpg", 0, 0, 64)
    states = []
    for diagnosed in (False, True):
        torch.manual_seed(0)
        state = build_state(config, torch.device("cpu"))
        state.generators.G.model[0].eval()  # A module's own mode is kept as well.
        for _ in range(2):
            terms = train_step(state, images.to_signed(x), images.to_signed(y), config)
            if diagnosed:
                generators = {"G": state.generators.G, "F": state.generators.F}
                arguments = {k: v.item() for k, v in terms.items()}, 2e-4, 0.5, "lsgan", {}
                first, again = (diagnose(generators, {"x": x, "y": y}, *arguments) for _ in range(2))
                assert first == again
        modes = [module.training for module in state.generators.modules()]
        gradients = [parameter.grad for parameter in state.generators.parameters()]
        pools = [state.pool_x.state_dict(), state.pool_y.state_dict()]
        optimizers = [
            optimizer.state_dict() for optimizer in (state.generator_optimizer, state.discriminator_optimizer)
        ]
        networks = [state.generators.state_dict(), state.discriminators.state_dict(), state.ema.state_dict()]
        states.append(copy.deepcopy((torch.get_rng_state(), modes, networks, optimizers, pools, gradients)))
    assert states[0][1].count(False) == 1
    torch.testing.assert_close(states[1], states[0], rtol=0, atol=0)


def test_small_crops_and_generators_of_one_batch_can_be_checked():
    x = torch.rand(1, 3, 16, 16)
    assert isinstance(findings(x, x, Generator(4, 0), Generator(4, 0)), dict)


def test_without_the_cycle_the_way_back_is_not_checked():
    x, G = torch.rand(1, 3, 64, 64), Generator(4, 0)
    remedies = one_way_remedies(dataclasses.replace(OPTIONS, one_way=True))
    found = diagnose({"G": G}, {"x": x, "y": x}, {"d_y": 0.001}, 2e-4, 0.5, "lsgan", remedies)
    found = {finding.title: finding.remedy for finding in found}
    assert "--ndf 32" in found["all-powerful discriminator in D_Y"]


# Checks on pictures.


@pytest.fixture(scope="module")
def photographs(x, y):
    return torch.cat([x, y])


def test_inverted_colors_are_found_and_other_changes_of_tone_are_not(photographs):
    finding = check_inversion(photographs, 1 - photographs)
    assert finding.failure_mode == "color inversion" and "correlation -1.00" in finding.evidence
    for harmless in (photographs, photographs**2, photographs.flip(1), 0.3 * photographs + 0.5, FLAT):
        assert check_inversion(photographs, harmless) is None
    # A flat picture beside one with contrast does not count.
    one_flat = torch.stack([1 - photographs[0], torch.zeros_like(photographs[1])])
    assert "correlation -1.00" in check_inversion(photographs, one_flat).evidence


def test_outputs_that_hardly_depend_on_the_input_are_mode_collapse(photographs):
    always = photographs[:1].flip(3)
    finding = check_collapse(photographs, always + 0.05 * photographs)
    assert finding.failure_mode == "mode collapse" and "(5 % of their spread)" in finding.evidence
    assert check_collapse(photographs, always + 0.2 * photographs) is None
    # Inputs that are alike give outputs that are alike.
    alike = photographs[:1] + torch.tensor([0.0, 4 * GRAY_LEVEL]).view(2, 1, 1, 1)
    assert check_collapse(alike, always.expand(2, -1, -1, -1)) is None


def test_the_noise_is_one_gray_level_up_or_down_and_always_the_same(photographs):
    state = torch.get_rng_state()
    noise = add_noise(photographs) - photographs
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(noise.abs(), torch.full_like(noise, GRAY_LEVEL))
    assert abs(noise.sign().mean().item()) < 0.02
    assert torch.equal(add_noise(photographs), add_noise(photographs))


def test_blur_and_small_pictures_have_no_pattern(photographs):
    index = torch.arange(128)
    board = 8 * GRAY_LEVEL * (1.0 - 2.0 * ((index[:, None] + index) % 2))
    for side, found in ((96, True), (95, False)):
        before = photographs[..., :side, :side]
        assert (check_pattern(before, before + board[:side, :side]) is not None) == found
    assert check_pattern(photographs, functional.avg_pool2d(photographs, 5, stride=1, padding=2)) is None


@pytest.mark.parametrize("check", [check_inversion, check_copy, check_collapse, check_pattern])
def test_nan_is_none_of_these_failures(photographs, check):
    """The run stops on NaN with an error of its own."""
    assert check(photographs, photographs * float("nan")) is None


# Checks on numbers.


@pytest.mark.parametrize(
    ("loss", "failure_mode"),
    [(0.0, "all-powerful"), (0.012, "all-powerful"), (0.013, None), (0.16, None), (0.24, None), (0.25, "dead")],
)
def test_the_loss_of_a_discriminator_is_neither_zero_nor_that_of_chance(loss, failure_mode):
    finding = check_discriminator(loss, chance=0.25)
    assert (finding and finding.failure_mode) == (failure_mode and f"{failure_mode} discriminator")


# What is reported.

INVERSION = Finding("color inversion", "correlation -0.9", "G", "try --seed 1")
COPY = Finding("no translation", "differs by 1 gray level", "G", "try --seed 2")


def test_a_finding_names_the_failure_the_network_and_the_remedy_in_one_line():
    assert str(INVERSION) == "color inversion in G: correlation -0.9; try --seed 1"
    assert Finding("short run", "1 step").title == "short run"


def test_a_finding_is_reported_once_it_is_confirmed():
    filter_ = FindingFilter()
    checks = [[COPY], [], [COPY], [COPY]]
    assert [filter_.select(found, i) for i, found in enumerate(checks)] == [None, None, None, COPY]


def test_another_network_does_not_confirm_a_finding():
    filter_ = FindingFilter()
    assert filter_.select([COPY], 0) is None
    assert filter_.select([dataclasses.replace(COPY, network="F")], 1) is None


def test_there_is_at_most_one_report_in_ten_minutes_and_the_most_severe_comes_first():
    filter_ = FindingFilter()
    times = range(0, 1500, 100)
    reports = {second: found for second in times if (found := filter_.select([INVERSION, COPY], second))}
    assert reports == {100: INVERSION, 700: COPY}


def test_the_same_finding_is_reported_again_only_after_an_hour():
    filter_ = FindingFilter()
    reports = [second for second in range(0, 9000, 200) if filter_.select([COPY], second)]
    assert reports == [200, 3800, 7400]
