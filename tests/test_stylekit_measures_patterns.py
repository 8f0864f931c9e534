import math
from functools import partial

import pytest
import torch
from conftest import grating
from torch.nn import functional

from cyclegan.models import Generator
from cyclegan.options import GeneratorConfig
from stylekit.measures import patterns
from stylekit.measures.patterns import MEMORY, MeanWeave, added_pattern, halo, power_spectra, weave
from stylekit.pictures.color import local_mean
from stylekit.pictures.images import to_signed, to_unit

LEVEL = 1 / 255
blur = partial(local_mean, border="reflect")
FLAT = torch.full((1, 96, 96), 0.5)


@pytest.fixture(scope="module")
def roofs(china):
    """Dark roofs and trees before a pale sky."""
    return china[..., 60:220, 230:450]


@pytest.fixture(scope="module")
def crops(china):
    """Two textured crops, (2, 3, 128, 128)."""
    return torch.cat([china[..., 100:228, 250:378], china[..., 100:228, 400:528]])


def striped(period, amplitude):
    return FLAT + grating(FLAT, period, 255 * amplitude, angle=0)


# The analysis.


def test_a_grating_has_the_square_of_its_amplitude_as_power_and_its_own_detail():
    power = power_spectra(striped(6, 0.1), 12)
    assert power.shape == (25, 48, 25)
    torch.testing.assert_close(power[:, 0, 8], torch.full((25,), 0.01), rtol=0.01, atol=0)
    # 0.1 / 2^(1/2) is the root mean square of a cosine.
    torch.testing.assert_close(patterns.detail(power), torch.full((25,), 0.0707), rtol=0.03, atol=0)
    assert patterns.detail(power_spectra(striped(24, 0.1), 12)).max() < 0.005


def test_every_picture_of_a_batch_counts():
    both = power_spectra(torch.cat([striped(6, 0.1), striped(8, 0.2)]), 12)
    torch.testing.assert_close(both[:25], power_spectra(striped(6, 0.1), 12))
    torch.testing.assert_close(both[25:], power_spectra(striped(8, 0.2), 12))


def test_training_goes_on_after_an_evaluation():
    patterns._hann.cache_clear(), patterns._rings.cache_clear()
    picture = striped(6, 0.1).requires_grad_()
    with torch.inference_mode():
        patterns.detail(power_spectra(picture, 12))
    patterns.peaks(power_spectra(picture, 12).mean(0)).max().backward()
    assert picture.grad.abs().max() > 0


# The metrics.


def test_a_just_visible_grating_on_a_flat_surface_has_weave_1():
    flat = torch.full((1, 3, 128, 128), 0.5)
    assert weave(flat, flat) == pytest.approx(0, abs=1e-3)
    assert weave(flat + grating(flat, 6, 1, angle=0), flat) == pytest.approx(1, rel=0.02)


def test_weave_ranks_pictures_as_a_person_would(sky):
    patterns = {
        "copy": sky,
        "blur": blur(sky, 5),
        "faint cloth": sky + grating(sky, 6, 2) + grating(sky, 6, 2, -0.785),
        "strong cloth": sky + grating(sky, 6, 8) + grating(sky, 6, 8, -0.785),
        "grain": sky + 8 / 255 * torch.randn(1, 1, 128, 160),
        "broad strokes": sky + grating(sky, 24, 8),
    }
    found = {name: weave(picture, sky) for name, picture in patterns.items()}
    assert found["blur"] <= found["copy"] < 0.4
    assert found["strong cloth"] > 2 * found["faint cloth"] > 2
    assert max(found["grain"], found["broad strokes"]) < 0.6 * found["faint cloth"]


def test_weave_needs_smooth_areas(china, sky):
    trees = china[..., 300:400, :160]
    for picture in (trees, sky[..., :40, :]):
        assert math.isnan(weave(picture, picture))


def test_halo_ranks_pictures_as_a_person_would(roofs):
    dark = blur((roofs.mean(1, keepdim=True) < 0.5).float(), 3)
    rim = functional.max_pool2d(dark, 9, 1, 4) * (1 - dark)
    sharper = roofs + 0.8 * (roofs - blur(roofs, 13))
    found = {
        name: halo(picture.clamp(0, 1), roofs)
        for name, picture in {
            "copy": roofs,
            "brighter": roofs**0.6,
            "flatter": 0.3 + 0.4 * roofs,
            "blur": blur(roofs, 5),
            "sharper": sharper,
            "pale rim": roofs + 12 / 255 * rim,
            "paler rim": roofs + 24 / 255 * rim,
            "dark rim": roofs - 24 / 255 * rim,
        }.items()
    }
    assert found["copy"] == pytest.approx(0, abs=1e-3)
    assert abs(found["brighter"]) < 1.5 and abs(found["flatter"]) < 1.5 and found["blur"] < 0
    assert found["paler rim"] > 1.5 * found["pale rim"] > 3 and found["sharper"] > 2
    assert found["dark rim"] < -5


def test_halo_needs_strong_edges(sky):
    assert math.isnan(halo(sky[..., :60, :], sky[..., :60, :]))


# The training check.


def checkerboard(side, cell):
    """+1 and -1 in squares of `cell` pixels."""
    index = torch.arange(side) // cell
    return 1.0 - 2.0 * ((index[:, None] + index) % 2)


@pytest.mark.parametrize("cell", [1, 2])
def test_a_checkerboard_is_found_with_its_period_and_grows(crops, cell):
    heights = []
    for level in (1, 3, 9):
        height, period = added_pattern(crops[:1], crops[:1] + level * LEVEL * checkerboard(128, cell))
        heights.append(height)
        assert period == pytest.approx(2 * cell)
    assert heights[0] < 1.5 and 1 < heights[1] < heights[2] / 2.5


def test_the_checkerboard_of_transposed_convolutions_is_found_and_resizing_has_none(crops):
    found = {}
    for upsample in ("transposed", "resize"):
        torch.manual_seed(0)
        generator = Generator(GeneratorConfig(ngf=4, n_blocks=0, upsample=upsample)).eval()
        with torch.no_grad():
            found[upsample] = added_pattern(crops, to_unit(generator(to_signed(crops))))
    # Each of the two layers doubles the size, and leaves a pattern of 2 px in its own output.
    assert found["transposed"][0] > 5 and round(found["transposed"][1]) in (2, 4)
    assert found["resize"][0] < 0.6


def test_strokes_blur_and_noise_are_no_pattern(crops):
    noisy = crops + 0.05 * torch.randn_like(crops)
    strokes = -functional.max_pool2d(-functional.max_pool2d(crops, 7, 1, 3), 7, 1, 3)
    for after in (crops, noisy, blur(crops, 5), strokes, crops.flip(1)):
        assert added_pattern(crops, after)[0] < 0.4


def test_a_pattern_of_the_input_or_of_the_target_domain_does_not_count(crops):
    canvas = crops + 4 * LEVEL * checkerboard(128, 2)
    assert added_pattern(crops, canvas, target=crops.flip(0))[0] > 2
    assert added_pattern(crops, canvas, target=canvas.flip(0))[0] < 0.1
    assert added_pattern(canvas, canvas)[0] < 0.1


# The loss.


def test_cloth_costs_more_than_grain_and_trees_nothing(china, sky):
    grain = sky + 8 / 255 * torch.randn(1, 1, 128, 160, generator=torch.Generator().manual_seed(0))
    loss = {
        "copy": MeanWeave().loss(sky, sky),
        "grain": MeanWeave().loss(sky, grain),
        "faint cloth": MeanWeave().loss(sky, sky + grating(sky, 6, 2, 0.7)),
        "cloth": MeanWeave().loss(sky, sky + grating(sky, 6, 8, 0.7)),
    }
    assert max(loss["copy"], loss["grain"]) < loss["faint cloth"] < loss["cloth"] / 2
    trees = china[..., 300:400, :160]
    assert MeanWeave().loss(trees, trees + grating(trees, 6, 8, 0.7)) == 0


def test_parallel_strokes_of_one_sky_cost_less_among_others(sky):
    alike, varied = MeanWeave(), MeanWeave()
    for i in range(24):
        alike.loss(sky, sky + grating(sky, 6, 8, 0.7))
        last = varied.loss(sky, sky + grating(sky, 6, 8, i * math.pi / 12))
    assert last < 0.5 * alike.loss(sky, sky + grating(sky, 6, 8, 0.7))


def test_minimizing_the_loss_removes_the_pattern_and_its_metric(sky):
    cloth = (sky + grating(sky, 5, 6, 0.3)).requires_grad_()
    start = weave(cloth, sky)
    optimizer = torch.optim.Adam([cloth], 1e-3)
    for _ in range(60):
        optimizer.zero_grad()
        MeanWeave().loss(sky, cloth).backward()
        optimizer.step()
    assert start > 3 and weave(cloth, sky) < 0.4 * start


def test_stripes_of_colors_with_the_same_luminance_cost_as_much(sky):
    red = torch.tensor([1.0, -0.299 / 0.587, 0.0])[:, None, None]  # Or less green: the same luminance.
    rainbow = sky + red * grating(sky, 6, 8, 0.7)
    assert weave(rainbow, sky) < 0.5
    assert MeanWeave().loss(sky, rainbow) > 0.5 * MeanWeave().loss(sky, sky + grating(sky, 6, 8, 0.7))


def test_flat_and_small_pictures_cost_nothing_and_have_a_finite_gradient():
    gray = torch.full((2, 3, 64, 64), 0.5, requires_grad=True)
    loss = MeanWeave().loss(gray.detach(), gray)
    loss.backward()
    assert loss == 0 and gray.grad.isfinite().all()
    small = torch.rand(2, 3, 40, 64)
    assert MeanWeave().loss(small, small) == 0


def test_the_mean_moves_by_the_share_of_new_windows(sky):
    weave, flat = MeanWeave(), torch.full((1, 3, 48, 64), 0.5)  # Two windows, which are both smooth.
    weave.loss(flat, flat + grating(flat, 6, 8, 0))
    before = weave.power
    weave.loss(flat, flat)
    torch.testing.assert_close(weave.power, before * MEMORY / (2 + MEMORY))


def test_the_mean_is_saved(sky):
    weave, other = MeanWeave(), MeanWeave()
    other.load_state_dict(weave.state_dict(), torch.device("cpu"))
    assert other.power is None
    weave.loss(sky, sky)
    other.load_state_dict(weave.state_dict(), torch.device("cpu"))
    assert torch.equal(other.power, weave.power)
    assert other.power.shape == (3, 48, 25)


def test_autocast_does_not_round(sky):
    exact = MeanWeave().loss(sky, sky + grating(sky, 6, 2, 0.7))
    with torch.autocast("cpu", torch.bfloat16):
        assert MeanWeave().loss(sky, sky + grating(sky, 6, 2, 0.7)) == exact
