import math

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from cyclegan.weave import MEMORY, MeanWeave
from stylekit.networks import metrics, spectra
from stylekit.pictures.images import to_tensor


@pytest.fixture(scope="module")
def china():
    return to_tensor(Image.fromarray(load_sample_image("china.jpg")))


@pytest.fixture(scope="module")
def sky(china):
    return china[..., :128, :160]


def grating(like, period, amplitude, angle):
    """Stripes of some grey levels, (1, 1, H, W)."""
    rows, columns = torch.arange(like.shape[2])[:, None], torch.arange(like.shape[3])
    phase = 2 * math.pi / period * (rows * math.sin(angle) + columns * math.cos(angle))
    return amplitude / 255 * phase.cos()[None, None]


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


def test_minimising_the_loss_removes_the_pattern_and_its_figure(sky):
    cloth = (sky + grating(sky, 5, 6, 0.3)).requires_grad_()
    start = metrics.weave(cloth, sky)
    optimizer = torch.optim.Adam([cloth], 1e-3)
    for _ in range(60):
        optimizer.zero_grad()
        MeanWeave().loss(sky, cloth).backward()
        optimizer.step()
    assert start > 3 and metrics.weave(cloth, sky) < 0.4 * start


def test_small_pictures_and_flat_ones_cost_nothing():
    for side in (40, 64):
        grey = torch.full((2, 3, side, side), 0.5, requires_grad=True)
        loss = MeanWeave().loss(grey.detach(), grey)
        assert loss == 0
        if loss.requires_grad:
            loss.backward()
            assert grey.grad.isfinite().all()


def test_the_mean_moves_by_the_share_of_new_windows(sky):
    weave, flat = MeanWeave(), torch.full((1, 3, 48, 64), 0.5)  # Two windows, which are both smooth.
    weave.loss(flat, flat + grating(flat, 6, 8, 0))
    before = weave.power
    weave.loss(flat, flat)
    after = spectra.power_spectra(flat, 16).mean(0)
    torch.testing.assert_close(weave.power, before.lerp(after, 2 / (2 + MEMORY)))


def test_the_mean_is_saved(sky):
    weave, other = MeanWeave(), MeanWeave()
    other.load_state_dict(weave.state_dict(), torch.device("cpu"))
    assert other.power is None
    weave.loss(sky, sky)
    other.load_state_dict(weave.state_dict(), torch.device("cpu"))
    assert torch.equal(other.power, weave.power)


def test_autocast_does_not_round(sky):
    exact = MeanWeave().loss(sky, sky + grating(sky, 6, 2, 0.7))
    with torch.autocast("cpu", torch.bfloat16):
        assert MeanWeave().loss(sky, sky + grating(sky, 6, 2, 0.7)) == exact
