import re

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch.nn import functional

from cyclegan.models import Generator
from cyclegan.options import GeneratorConfig
from stylekit.pictures import images
from stylekit.training.diagnostics import (
    Doctor,
    Finding,
    add_noise,
    check_collapse,
    check_copy,
    check_discriminator,
    check_hidden_information,
    check_inversion,
    check_learning_rate,
    check_length,
    check_pattern,
    luminance_correlation,
)

LEVEL = 1 / 255


@pytest.fixture(scope="module")
def photographs():
    """Two crops of 128 px, one of each photograph that scikit-learn ships, (2, 3, 128, 128)."""
    crops = [load_sample_image(name)[100:228, 250:378] for name in ("china.jpg", "flower.jpg")]
    return torch.cat([images.to_tensor(Image.fromarray(crop)) for crop in crops])


def checkerboard(side, cell):
    """+1 and -1 in squares of `cell` pixels."""
    index = torch.arange(side) // cell
    return 1.0 - 2.0 * ((index[:, None] + index) % 2)


# Checks on pictures.


def test_inverted_colors_are_found_and_other_changes_of_tone_are_not(photographs):
    assert luminance_correlation(photographs, 1 - photographs) == pytest.approx(-1, abs=1e-4)
    finding = check_inversion(photographs, 1 - photographs)
    assert finding.disease == "color inversion" and "correlation -1.00" in finding.evidence
    for harmless in (photographs, photographs**2, photographs.flip(1), 0.3 * photographs + 0.5):
        assert check_inversion(photographs, harmless) is None


def test_flat_pictures_have_no_luminance_correlation(photographs):
    assert luminance_correlation(photographs, torch.full_like(photographs, 0.5)) is None
    # A flat picture beside one with contrast does not count.
    one_flat = torch.stack([1 - photographs[0], torch.zeros_like(photographs[1])])
    assert luminance_correlation(photographs, one_flat) == pytest.approx(-1, abs=1e-4)


def test_a_copy_is_found_until_the_difference_can_be_seen(photographs):
    finding = check_copy(photographs, photographs + 2 * LEVEL)
    assert finding.disease == "no translation" and "by 2.0 gray levels" in finding.evidence
    assert check_copy(photographs, photographs + 5 * LEVEL) is None


def test_outputs_that_hardly_depend_on_the_input_are_mode_collapse(photographs):
    always = photographs[:1].flip(3)
    finding = check_collapse(photographs, always + 0.05 * photographs)
    assert finding.disease == "mode collapse" and "(5 % of their spread)" in finding.evidence
    assert check_collapse(photographs, always + 0.2 * photographs) is None
    # Inputs that are alike give outputs that are alike.
    alike = photographs[:1] + torch.tensor([0.0, 4 * LEVEL]).view(2, 1, 1, 1)
    assert check_collapse(alike, always.expand(2, -1, -1, -1)) is None


def test_information_in_the_lowest_bits_is_found(photographs):
    before = photographs[:1]
    hidden = lambda fake: (255 * fake).round() % 4 / 3  # noqa: E731
    # A gray picture with the photograph, in four levels, in its two lowest bits.
    fake = (128 + (3 * before).round()) * LEVEL
    finding = check_hidden_information(before, hidden(fake), hidden(add_noise(fake)))
    assert finding.disease == "hidden information" and "gray levels" in finding.evidence
    # A network that reads what is visible loses no more than the noise, whether it reconstructs well or badly.
    assert check_hidden_information(before, before, add_noise(before)) is None
    blurred = functional.avg_pool2d(before, 9, stride=1, padding=4)
    assert check_hidden_information(before, blurred, add_noise(blurred)) is None


def test_the_noise_is_one_gray_level_up_or_down_and_always_the_same(photographs):
    state = torch.get_rng_state()
    noise = add_noise(photographs) - photographs
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(noise.abs(), torch.full_like(noise, LEVEL))
    assert abs(noise.sign().mean().item()) < 0.02
    assert torch.equal(add_noise(photographs), add_noise(photographs))


@pytest.mark.parametrize("cell", [1, 2])
def test_a_checkerboard_of_two_gray_levels_is_found_with_its_period(photographs, cell):
    before = photographs[:1]
    finding = check_pattern(before, before + 2 * LEVEL * checkerboard(128, cell))
    assert finding.disease == "checkerboard or weave"
    assert f"repeats every {2 * cell}.0 px" in finding.evidence


def test_the_checkerboard_of_transposed_convolutions_is_found_and_resizing_has_none(photographs):
    found = {}
    for upsample in ("transposed", "resize"):
        torch.manual_seed(0)
        generator = Generator(GeneratorConfig(ngf=4, n_blocks=0, upsample=upsample)).eval()
        with torch.no_grad():
            found[upsample] = check_pattern(photographs, images.to_unit(generator(images.to_signed(photographs))))
    # Each of the two layers doubles the size, and leaves a pattern of 2 px in its own output.
    assert re.search(r"repeats every [24]\.0 px", found["transposed"].evidence)
    assert found["resize"] is None


def test_strokes_blur_and_noise_are_no_pattern(photographs):
    noisy = photographs + 0.05 * torch.randn_like(photographs)
    blurred = functional.avg_pool2d(photographs, 5, stride=1, padding=2)
    strokes = -functional.max_pool2d(-functional.max_pool2d(photographs, 7, 1, 3), 7, 1, 3)
    for after in (photographs, noisy, blurred, strokes, photographs.flip(1)):
        assert check_pattern(photographs, after) is None


def test_a_pattern_of_the_input_or_of_the_target_domain_is_no_disease(photographs):
    canvas = photographs + 4 * LEVEL * checkerboard(128, 2)
    assert check_pattern(photographs, canvas, target=photographs.flip(0)) is not None
    assert check_pattern(photographs, canvas, target=canvas.flip(0)) is None
    assert check_pattern(canvas, canvas) is None


def test_pictures_too_small_for_a_spectrum_are_not_examined_for_patterns(photographs):
    pattern = 8 * LEVEL * checkerboard(128, 1)
    large, small = photographs[..., :64, :64], photographs[..., :60, :60]
    assert check_pattern(large, large + pattern[:64, :64]) is not None
    assert check_pattern(small, small + pattern[:60, :60]) is None


@pytest.mark.parametrize("check", [check_inversion, check_copy, check_collapse, check_pattern])
def test_nan_is_none_of_these_diseases(photographs, check):
    """The run stops on NaN with an error of its own."""
    assert check(photographs, photographs * float("nan")) is None


# Checks on numbers.


@pytest.mark.parametrize(
    ("loss", "disease"),
    [(0.0, "all-powerful"), (0.012, "all-powerful"), (0.013, None), (0.16, None), (0.24, None), (0.25, "dead")],
)
def test_the_loss_of_a_discriminator_is_neither_zero_nor_that_of_chance(loss, disease):
    finding = check_discriminator(loss, chance=0.25)
    assert (finding and finding.disease) == (disease and f"{disease} discriminator")


def test_a_learning_rate_of_zero_is_found_unless_the_run_ends():
    assert "0 with 60 % of the run left" in check_learning_rate(0.0, progress=0.4).evidence
    assert check_learning_rate(0.0, progress=1.0) is None
    assert check_learning_rate(1e-9, progress=0.4) is None


def test_a_run_of_less_than_a_fifth_of_what_is_needed_is_short():
    evidence = check_length(12, enough=10_000).evidence
    assert evidence == "finished after 12 steps, which is not enough for a usable network; expect to need about 10,000"
    assert "after 1 step, " in check_length(1, enough=10_000).evidence
    assert check_length(1999, enough=10_000) is not None
    assert check_length(2000, enough=10_000) is None


# The doctor.

INVERSION = Finding("color inversion", "correlation -0.9", "G", "try --seed 1")
COPY = Finding("no translation", "differs by 1 gray level", "G", "try --seed 2")


def test_a_finding_names_the_disease_the_network_and_the_cure_in_one_line():
    assert str(INVERSION) == "color inversion in G: correlation -0.9; try --seed 1"
    assert Finding("a", "b").with_cure("d", "F") == Finding("a", "b", "F", "d")
    assert Finding("short run", "1 step").title == "short run"


def test_a_finding_is_reported_once_it_is_confirmed():
    doctor = Doctor()
    examinations = [[COPY], [], [COPY], [COPY]]
    assert [doctor.examine(found, i) for i, found in enumerate(examinations)] == [None, None, None, COPY]


def test_another_network_does_not_confirm_a_finding():
    doctor = Doctor()
    assert doctor.examine([COPY], 0) is None
    assert doctor.examine([COPY.with_cure("", "F")], 1) is None


def test_there_is_at_most_one_report_in_ten_minutes_and_the_most_severe_comes_first():
    doctor = Doctor()
    times = range(0, 1500, 100)
    reports = {second: found for second in times if (found := doctor.examine([INVERSION, COPY], second))}
    assert reports == {100: INVERSION, 700: COPY}


def test_the_same_finding_is_reported_again_only_after_an_hour():
    doctor = Doctor()
    reports = [second for second in range(0, 9000, 200) if doctor.examine([COPY], second)]
    assert reports == [200, 3800, 7400]
