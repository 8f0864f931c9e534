import pytest
import torch
from gatys.colors import color_moments, match_colors


def colors(pictures):
    """Mean, and covariance with the number of pixels as divisor."""
    flat = pictures.transpose(0, 1).flatten(1).double()
    return flat.mean(1), torch.cov(flat, correction=0)


@pytest.fixture
def both():
    """Two pictures of different sizes, whose channels are correlated; the second in other colors."""
    generator = torch.Generator().manual_seed(2)
    noise = torch.rand(2, 3, 40, 30, generator=generator)
    mixed = torch.einsum("ij,bjhw->bihw", torch.tensor([[0.2, 0.1, 0.0], [0.0, 0.3, 0.1], [0.1, 0.1, 0.1]]), noise)
    return 0.3 + mixed[:1], 0.2 + 0.8 * mixed[1:, [2, 0, 1], :20]


def test_matched_colors_have_the_mean_and_covariance_of_the_photograph(both):
    painting, photograph = both
    matched = match_colors(painting, color_moments(photograph))
    assert matched.shape == painting.shape
    for found, expected in zip(colors(matched), colors(photograph), strict=True):
        torch.testing.assert_close(found, expected, atol=4e-4, rtol=0)


def test_the_map_moves_colors_least(both):
    # After any rotation of the uncorrelated colors, mean and covariance are the same.
    painting, photograph = both
    moved = (match_colors(painting, color_moments(photograph)) - painting).square().mean()
    (center, before), (target, after) = colors(painting), colors(photograph)
    values, vectors = torch.linalg.eigh(before)
    whitened = (vectors @ values.rsqrt().diag() @ vectors.mT) @ (painting[0].flatten(1).double() - center[:, None])
    values, vectors = torch.linalg.eigh(after)
    for turn in (torch.eye(3), torch.eye(3)[[1, 2, 0]]):
        other = vectors @ values.sqrt().diag() @ vectors.mT @ turn.double() @ whitened + target[:, None]
        torch.testing.assert_close(torch.cov(other, correction=0), after)
        assert (other - painting[0].flatten(1)).square().mean() >= moved - 1e-5


def test_the_same_colors_stay_and_grays_are_not_stretched(both):
    torch.testing.assert_close(match_colors(both[0], color_moments(both[0])), both[0], atol=1e-5, rtol=0)
    gray = torch.full((1, 3, 8, 8), 0.5) + 0.002 * torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert colors(match_colors(gray, color_moments(both[0])))[1].max() < 0.002


def test_moments_can_be_averaged(both):
    halves = both[0].chunk(2, dim=2)
    torch.testing.assert_close(torch.stack([color_moments(half) for half in halves]).mean(0), color_moments(both[0]))


def test_colors_outside_of_the_range_are_clipped():
    picture = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    matched = match_colors(picture, color_moments((10 * picture - 5).clamp(0, 1)))
    assert matched.min() == 0 and matched.max() == 1
