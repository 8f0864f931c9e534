import math

import torch
from conftest import grating
from stylekit.networks.weave import MEMORY, MeanWeave

from stylekit.networks import metrics


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


def test_stripes_of_colors_with_the_same_luminance_cost_as_much(sky):
    red = torch.tensor([1.0, -0.299 / 0.587, 0.0])[:, None, None]  # Or less green: the same luminance.
    rainbow = sky + red * grating(sky, 6, 8, 0.7)
    assert metrics.weave(rainbow, sky) < 0.5
    assert MeanWeave().loss(sky, rainbow) > 0.5 * MeanWeave().loss(sky, sky + grating(sky, 6, 8, 0.7))


def test_small_pictures_cost_nothing():
    small = torch.rand(2, 3, 40, 64)
    assert MeanWeave().loss(small, small) == 0


def test_flat_pictures_cost_nothing_and_have_a_finite_gradient():
    gray = torch.full((2, 3, 64, 64), 0.5, requires_grad=True)
    loss = MeanWeave().loss(gray.detach(), gray)
    loss.backward()
    assert loss == 0 and gray.grad.isfinite().all()


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
