"""Contact sheets."""

import numpy as np
import pytest
import torch
from PIL import Image

from stylekit.pictures import images
from stylekit.pictures.sheet import contact_sheet

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def test_a_contact_sheet_has_a_place_for_every_picture():
    red, green, blue = (Image.new("RGB", (10, 10), value) for value in (RED, GREEN, BLUE))
    page = contact_sheet([[red, green], [blue]], height=64)
    # Gaps of 4 px around pictures of 64 x 64 px.
    assert page.size == (4 + 64 + 4 + 64 + 4, 4 + 64 + 4 + 64 + 4)
    expected = Image.new("RGB", page.size, WHITE)
    for value, corner in ((RED, (4, 4)), (GREEN, (72, 4)), (BLUE, (4, 72))):
        expected.paste(value, (*corner, corner[0] + 64, corner[1] + 64))
    assert page.tobytes() == expected.tobytes()


def test_a_contact_sheet_centers_the_pictures_of_a_column_and_keeps_their_aspect_ratio():
    wide, narrow = Image.new("RGB", (20, 10), RED), Image.new("RGB", (10, 20), BLUE)
    page = contact_sheet([[wide], [narrow]], height=64)
    assert page.size == (4 + 128 + 4, 4 + 64 + 4 + 64 + 4)
    columns = np.flatnonzero((np.asarray(page)[100] == BLUE).all(axis=1))
    # 32 px wide, in the middle of 128.
    assert (columns.min(), columns.max()) == (4 + 48, 4 + 48 + 31)


def test_a_title_is_above_its_column_and_does_not_move_the_pictures():
    red, green = Image.new("RGB", (64, 64), RED), Image.new("RGB", (64, 64), GREEN)
    page = np.asarray(contact_sheet([[red, green]], ["real x", ""], height=64))
    band = page[: page.shape[0] - 64 - 4]
    assert band[:, 4:68].min() < 100, "the title is dark"
    assert (band[:, 70:] == 255).all(), "the second column has none"
    assert (page[-6, 5:67] == RED).all() and (page[-6, 73:135] == GREEN).all()


def test_a_long_title_does_not_overlap_the_next():
    narrow, square = Image.new("RGB", (20, 3000), RED), Image.new("RGB", (64, 64), GREEN)
    page = np.asarray(contact_sheet([[narrow, square]], ["a title far wider than it", "G(x)"], height=64))
    red = np.flatnonzero((page[-8] == RED).all(axis=1))
    green = np.flatnonzero((page[-8] == GREEN).all(axis=1))
    assert len(red) == 1 and len(green) == 64
    band = page[: page.shape[0] - 64 - 4].min(axis=(0, 2))
    assert band[: red[0]].min() < 100 and band[green[0] :].min() < 100
    assert (band[green[0] - 4 : green[0]] == 255).all(), "a gap separates the titles"


@pytest.mark.parametrize("rows", [[], [[]], [[Image.new("RGB", (4, 4))], []]])
def test_an_empty_contact_sheet_is_refused(rows):
    with pytest.raises(ValueError, match="a contact sheet needs at least one picture in every row"):
        contact_sheet(rows)


def test_a_contact_sheet_may_have_a_single_pixel_as_its_picture():
    dot = images.to_image(torch.zeros(3, 1, 1))
    assert contact_sheet([[dot]], height=32).size == (40, 40)
