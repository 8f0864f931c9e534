import pytest
import torch

from stylekit.pictures import images
from stylekit.pictures.brush import draft
from stylekit.pictures.strokes import render, with_draft, with_stroke_size


@pytest.fixture
def photograph(pictures):
    return images.to_tensor(pictures[0].resize((120, 90)))


def negative(picture):
    return 1 - picture


def test_strength_interpolates_between_the_photograph_and_the_painting(photograph):
    before, half, after = (render(photograph, negative, strength=strength) for strength in (0, 0.5, 1))
    assert torch.equal(before, photograph) and torch.equal(after, 1 - photograph)
    torch.testing.assert_close(half, torch.full_like(half, 0.5))


def test_preserve_color_combines_the_chroma_of_the_photograph_with_the_luminance_of_the_painting():
    photograph = 0.3 + 0.4 * torch.rand(1, 3, 32, 32)
    kept = render(photograph, negative, preserve_color=True)
    luminance = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    inside = ((kept > 0) & (kept < 1)).all(1)
    assert inside.sum() > 200
    torch.testing.assert_close((kept * luminance).sum(1)[inside], (negative(photograph) * luminance).sum(1)[inside])
    red_less_blue = [(picture[:, 0] - picture[:, 2])[inside] for picture in (kept, photograph)]
    torch.testing.assert_close(*red_less_blue)


@pytest.mark.parametrize(("stroke_size", "painted"), [(0.5, (180, 240)), (1, (90, 120)), (3, (30, 40)), (8, (11, 15))])
def test_broad_strokes_are_painted_on_a_smaller_picture(photograph, stroke_size, painted):
    sizes = []

    def network(picture):
        sizes.append(tuple(picture.shape[2:]))
        return picture

    assert render(photograph, network, stroke_size=stroke_size).shape == photograph.shape
    assert sizes == [painted]


def test_strokes_grow_with_large_pictures(photograph):
    sizes = []

    def network(picture):
        sizes.append(tuple(picture.shape[2:]))
        return picture

    for stroke_size, height, width in ((1, 960, 1280), (2, 960, 1280), (0.5, 960, 1280), (0.05, 96, 128)):
        render(resized(photograph, height, width), network, stroke_size=stroke_size)
    assert sizes == [(480, 640), (240, 320), (960, 1280), (384, 512)]


def test_a_network_paints_over_a_draft_whose_strokes_fit(photograph):
    sizes = []

    def network(picture):
        sizes.append(tuple(picture.shape[2:]))
        return picture

    drafts = torch.cat([images.to_tensor(draft(images.to_image(x))) for x in (photograph, photograph.flip(3))])
    painted = render(torch.cat([photograph, photograph.flip(3)]), network, draft=True)
    torch.testing.assert_close(painted, drafts)
    broad = images.to_tensor(draft(images.to_image(photograph), stroke_size=2))
    assert (render(photograph, network, stroke_size=2, draft=True) - broad).abs().mean() < 0.02
    with_draft(resized(photograph, 504, 672), network)
    assert sizes == [(90, 120), (45, 60), (480, 640)]


def test_colors_of_the_network_replace_those_of_the_draft_and_texture_by_a_third(photograph):
    photograph = resized(photograph, 360, 480)
    stripes = torch.tensor([0.1, -0.1]).repeat(240)
    drafted, lighter, striped = (with_draft(photograph, lambda x, y=y: x + y) for y in (0, 0.1, stripes))
    inside = (drafted > 0.1) & (drafted < 0.9)
    torch.testing.assert_close((lighter - drafted)[inside], torch.full([int(inside.sum())], 0.1))
    change = (striped - drafted)[inside] / stripes.expand_as(drafted)[inside]
    torch.testing.assert_close(change, torch.full_like(change, 1 / 3), atol=0.05, rtol=0)


def resized(picture, *size):
    return torch.nn.functional.interpolate(picture, size, mode="bicubic", antialias=True).clamp(0, 1)


def test_the_detail_of_the_photograph_returns_where_the_painting_follows_it(photograph):
    blurred = resized(resized(photograph, 30, 40), 90, 120)
    kept = with_stroke_size(photograph, lambda picture: picture, 3)
    assert (kept - photograph).abs().mean() < 0.4 * (blurred - photograph).abs().mean()


def test_no_detail_of_the_photograph_shows_through_a_painting_without_it(photograph):
    flat = with_stroke_size(photograph, lambda picture: torch.full_like(picture, 0.5), 3)
    torch.testing.assert_close(flat, torch.full_like(flat, 0.5))
    opposite = with_stroke_size(photograph, negative, 3)
    torch.testing.assert_close(opposite, resized(1 - resized(photograph, 30, 40), 90, 120))


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (7, 5)])
def test_tiny_pictures_have_broad_strokes_too(size):
    assert render(torch.rand(2, 3, *size), negative, stroke_size=4).shape == (2, 3, *size)


@pytest.mark.parametrize(
    ("look", "says"),
    [
        ({"strength": 1.1}, "strength must be in [0, 1], got 1.1"),
        ({"strength": float("nan")}, "got nan"),
        ({"stroke_size": 0.01}, "stroke size must be in [0.05, 8], got 0.01"),
        ({"stroke_size": 9}, "got 9"),
    ],
)
def test_looks_out_of_range_are_refused(photograph, look, says):
    with pytest.raises(ValueError, match="must be in") as error:
        render(photograph, negative, **look)
    assert says in str(error.value)
