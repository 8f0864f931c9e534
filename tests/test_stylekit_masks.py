import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from stylekit.pictures import images
from stylekit.pictures.masks import find_faces, paint_weight
from stylekit.pictures.strokes import render


@pytest.fixture(scope="module")
def astronaut():
    return images.to_tensor(Image.fromarray(data.astronaut()))


@pytest.fixture
def right():
    """A mask that is white on the right."""
    mask = np.zeros((20, 40), bool)
    mask[:, 20:] = True
    return mask


def test_masks_of_every_kind_and_size_are_resized_and_blurred(right, tmp_path):
    picture = torch.rand(1, 3, 300, 600)
    expected = paint_weight(picture, right, None)
    assert expected.shape == (1, 1, 300, 600)
    row = expected[0, 0, 150]
    assert (row[:270] == 0).all() and (row[330:] == 1).all() and (row.diff() >= 0).all() and row.diff().max() < 0.1
    Image.fromarray(right).save(tmp_path / "mask.png")
    pixels = np.uint8(right) * 255
    kinds = (tmp_path / "mask.png", Image.fromarray(right), pixels, torch.tensor(right), np.stack([pixels] * 3, 2))
    for mask in kinds:
        torch.testing.assert_close(paint_weight(picture, mask, None), expected)


@pytest.mark.parametrize(
    "mask, message",
    [
        (np.ones((4, 5), np.uint8), "lighter than 2 of 255"),
        (torch.rand(3, 3, 4, 5), "one for each of 2 pictures, got 3"),
        (2 * torch.ones(4, 5), r"mask: expected values in \[0, 1\]"),
        (torch.ones(1, 4, 5), "mask: expected a tensor of shape"),
    ],
)
def test_masks_that_cannot_be_meant_are_refused(mask, message):
    with pytest.raises(ValueError, match=message):
        paint_weight(torch.rand(2, 3, 20, 20), mask, None)


@pytest.mark.parametrize("draft", [False, True])
def test_the_photograph_remains_where_the_mask_is_black(right, draft, astronaut):
    painted = render(astronaut[..., ::8, ::8], lambda x: 1 - x, draft=draft, mask=right)
    assert torch.equal(painted[..., :28], astronaut[..., ::8, ::8][..., :28])
    assert (painted[..., 36:] - astronaut[..., ::8, ::8][..., 36:]).abs().mean() > 0.1


def test_a_face_is_found_and_kept_in_a_batch_with_pictures_without_one(astronaut):
    ((x, y, width),) = find_faces(astronaut[0])
    assert abs(x - 225) < 15 and abs(y - 115) < 15 and 80 < width < 120
    weight = paint_weight(torch.cat([astronaut, astronaut.flip(2)]), None, "faces")
    assert weight[0, 0, 115, 225] == 0 and weight[0, 0, 300:].min() == 1 and weight[1].min() == 1


def test_pictures_smaller_than_a_face_have_none():
    assert paint_weight(torch.rand(1, 3, 5, 200), None, "faces").min() == 1
