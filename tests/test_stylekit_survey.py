"""Frames, near-duplicates, gray pictures and the size of details."""

import numpy as np
import pytest
from picture_server import picture
from PIL import Image, ImageFilter

from stylekit.collections.similarity import groups, near_pairs, perceptual_hash, thumbnail
from stylekit.collections.survey import detail_size, find_frame, is_gray


def framed(color, box, size=(200, 160)):
    page = Image.new("RGB", size, color)
    page.paste(picture(0, box[2] - box[0], box[3] - box[1]), box[:2])
    return page


@pytest.mark.parametrize("color", ["white", "black"])
@pytest.mark.parametrize("box", [(20, 16, 180, 140), (0, 30, 200, 130), (10, 0, 190, 160), (4, 4, 196, 120)])
def test_frames_and_letterboxes_are_found_to_the_pixel(color, box):
    assert find_frame(framed(color, box)) == box


def test_plain_skies_and_margins_on_one_side_are_no_frames():
    assert find_frame(picture(0, 200, 160)) is None
    assert find_frame(framed("white", (0, 40, 200, 160))) is None
    assert find_frame(Image.new("RGB", (100, 100), "white")) is None
    # Fog that turns white gradually at the top and the bottom.
    rows = 255 - 120 * np.sin(np.linspace(0, np.pi, 160)) ** 4
    assert find_frame(Image.fromarray(np.repeat(rows.astype(np.uint8)[:, None], 200, 1)).convert("RGB")) is None


def test_near_duplicates_are_found_among_others():
    originals = [picture(i, 160, 120) for i in range(30)]
    changed = [
        originals[3].resize((80, 60)),
        originals[7].point(lambda v: min(255, v + 20)),
        originals[9].filter(ImageFilter.GaussianBlur(2)),
        originals[3].crop((3, 2, 158, 118)),
    ]
    every = originals + changed
    pairs = near_pairs([perceptual_hash(image) for image in every], [thumbnail(image) for image in every])
    assert groups(pairs) == [[3, 30, 33], [7, 31], [9, 32]]
    assert near_pairs([], []) == [] and groups([]) == []


def test_gray_and_sepia_are_gray_and_pale_colors_are_not():
    image = picture(1)
    gray = image.convert("L").convert("RGB")
    assert is_gray(gray) and is_gray(Image.blend(gray, Image.new("RGB", gray.size, "tan"), 0.3))
    assert not is_gray(image) and not is_gray(Image.blend(gray, image, 0.3))


def test_the_size_of_details_grows_with_the_picture_and_ignores_noise():
    small, large = picture(2, 128, 96), picture(2, 512, 384)
    assert detail_size(large) == pytest.approx(4 * detail_size(small), rel=0.2)
    pixels = np.asarray(large, dtype=float) + np.random.normal(0, 10, (384, 512, 3))
    noisy = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    assert detail_size(noisy) == pytest.approx(detail_size(large), rel=0.1)
