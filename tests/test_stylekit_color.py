import pytest
import torch

from stylekit.pictures.color import color_moments, local_mean, luma, luma_and_chroma, match_colors, with_luma_of


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


def test_autocast_does_not_round_colors(both):
    exact = match_colors(both[0], color_moments(both[1]))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(match_colors(both[0], color_moments(both[1])), exact)
        assert match_colors(both[0].bfloat16(), color_moments(both[1])).dtype == torch.float32


def test_luma_and_chroma_are_those_of_bt_601():
    picture = torch.tensor([1.0, 0.5, 0.25]).view(1, 3, 1, 1)
    assert luma(picture).item() == pytest.approx(0.299 + 0.587 / 2 + 0.114 / 4)
    y, blue, red = luma_and_chroma(picture).flatten()
    assert y == luma(picture)
    assert blue.item() == pytest.approx(0.564 * (0.25 - y.item()), rel=0.01)
    assert red.item() == pytest.approx(0.713 * (1 - y.item()), rel=0.01)


def test_luma_comes_from_one_picture_and_chroma_from_the_other():
    painting, photograph = (0.3 + 0.4 * torch.rand(2, 3, 4, 5) for _ in range(2))
    photograph = 0.5 + 0.2 * (photograph - 0.5)
    mixed = with_luma_of(painting, photograph)
    torch.testing.assert_close(luma(mixed), luma(painting))
    torch.testing.assert_close(mixed[:, 0] - mixed[:, 2], photograph[:, 0] - photograph[:, 2])


def test_the_local_mean_is_that_of_a_square_which_the_border_continues_or_cuts():
    picture = torch.tensor([[[[1.0, 2.0, 6.0]]]]).expand(1, 1, 3, 3)
    assert local_mean(picture, 3)[0, 0, 1].tolist() == pytest.approx([1.5, 3, 4])
    assert local_mean(picture, 3, "reflect")[0, 0, 1].tolist() == pytest.approx([5 / 3, 3, 10 / 3])
    assert local_mean(picture, 3, "replicate")[0, 0, 1].tolist() == pytest.approx([4 / 3, 3, 14 / 3])
