import cv2
import numpy as np
import pytest
from PIL import Image

from stylekit.pictures.brush import draft


@pytest.fixture(scope="module")
def photograph():
    """A sky of two blues, a dark hill, a yellow field with grains: (90, 120, 3)."""
    y, x = np.mgrid[:90, :120]
    picture = np.full((90, 120, 3), (120, 170, 220), np.uint8)
    picture[:25] = (90, 140, 210)
    picture[y > 60 - 25 * np.exp(-(((x - 60) / 25) ** 2))] = (30, 60, 40)
    picture[60:] = (200, 170, 60)
    grains = np.random.default_rng(0).integers(-15, 15, (30, 120, 1))
    picture[60:] = np.clip(picture[60:] + grains, 0, 255)
    return picture


def flat(color, height=64, width=96):
    return np.full((height, width, 3), color, np.uint8)


def test_a_seed_determines_the_draft(photograph):
    first = draft(photograph, seed=1)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1 if threads > 1 else 2)
    assert np.array_equal(draft(photograph, seed=1), first)
    cv2.setNumThreads(threads)
    assert not np.array_equal(draft(photograph, seed=2), first)


@pytest.mark.parametrize("stroke_size", [0.25, 1, 8])
def test_pictures_of_any_size_keep_it(stroke_size):
    for height, width in [(1, 1), (1, 20), (20, 1), (2, 3), (7, 5), (20, 19), (3, 200)]:
        picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        painted = draft(picture, stroke_size=stroke_size)
        assert painted.shape == picture.shape and painted.dtype == np.uint8


def test_arrays_and_pictures_of_all_modes_give_the_same_draft(photograph):
    before = photograph.copy()
    painted = draft(photograph)
    assert np.array_equal(photograph, before)
    assert np.array_equal(np.asarray(draft(Image.fromarray(photograph))), painted)
    assert np.array_equal(draft(photograph[::-1][::-1]), painted)  # A view that is not contiguous.
    gray = draft(Image.fromarray(photograph).convert("L"))
    assert gray.mode == "RGB" and gray.size == (120, 90)


def test_a_larger_picture_has_as_many_strokes(photograph, monkeypatch):
    def count(picture):
        drawn = []
        monkeypatch.setattr(cv2, "fillPoly", lambda *arguments: drawn.append(1))
        draft(picture)
        monkeypatch.undo()
        return len(drawn)

    large, larger = (count(cv2.resize(photograph, None, fx=scale, fy=scale)) for scale in (4, 6))
    assert 0.8 < larger / large < 1.25


def test_broader_strokes_have_less_detail(photograph):
    photograph = cv2.resize(photograph, None, fx=4, fy=4)
    fine, broad = (np.abs(np.diff(draft(photograph, stroke_size=size).astype(int), axis=0)).mean() for size in (0.5, 4))
    assert broad < 0.8 * fine


def test_strokes_do_not_cross_a_strong_edge():
    picture = flat(60, 96, 120)
    picture[:, 60:] = 190
    painted = draft(picture).astype(int)
    assert painted[:, :59].max() < 100 and painted[:, 61:].min() > 140


def test_strokes_in_flat_regions_follow_the_edges_around():
    y, x = np.mgrid[:240, :320]
    picture = np.where((y - 120 > 0.6 * (x - 160))[..., None], (110, 120, 130), (120, 150, 190)).astype(np.uint8)
    gray = draft(picture).astype(np.float32).mean(2)
    dx, dy = cv2.Sobel(gray, cv2.CV_32F, 1, 0), cv2.Sobel(gray, cv2.CV_32F, 0, 1)
    aside = np.abs(y - 120 - 0.6 * (x - 160)) > 20
    doubled = ((dx + 1j * dy) ** 2)[aside].sum()
    across = np.angle(-doubled) / 2  # Perpendicular to the gradients: along the strokes.
    assert abs(across - np.arctan(0.6)) < np.deg2rad(15)


def test_white_stays_clean_and_black_becomes_deep_blue_or_green():
    assert draft(flat(255)).min() >= 254
    black = draft(flat(0)).astype(int)
    assert black.max() < 60 and (black[..., 1:].max(2) >= black[..., 0]).all()
    assert 15 < np.ptp(black, axis=2).mean() < 40


def test_gray_stays_nearly_gray_and_colors_vary():
    assert np.ptp(draft(flat(128)).astype(int), axis=2).max() <= 24
    blue = draft(flat((70, 120, 200))).astype(int)
    assert blue.reshape(-1, 3).std(0).min() > 3
    assert (blue[..., 2] > blue[..., 1]).mean() > 0.99 and (blue[..., 1] > blue[..., 0]).mean() > 0.95


@pytest.mark.parametrize(("size", "most"), [(1, 3), (3, 8)])  # Colors differ more from those around than before.
def test_the_mean_color_is_nearly_kept(photograph, size, most):
    painted = draft(photograph, stroke_size=size)
    assert np.abs(painted.mean((0, 1)) - photograph.mean((0, 1))).max() < most


def test_small_objects_survive():
    picture = flat((200, 210, 230), 240, 320)
    picture[40:200, 100:103] = (40, 30, 20)  # A trunk.
    cv2.circle(picture, (220, 80), 5, (250, 120, 30), -1)  # A sun.
    picture[150:152] = (60, 80, 60)  # A horizon.
    painted = draft(picture).astype(int)
    assert (painted[45:145, 99:104].mean(2).min(1) < 110).all()
    assert (painted[149:153].mean(2).min(0) < 130).mean() > 0.95
    assert painted[80, 220, 0] - painted[80, 220, 2] > 120
    assert painted[60:140, 120:180].min() > 150


@pytest.mark.parametrize(
    ("picture", "size", "message"),
    [
        (np.zeros((4, 4), np.uint8), 1, r"\(H, W, 3\) of uint8, got \(4, 4\)"),
        (np.zeros((4, 4, 3)), 1, "float64"),
        (np.zeros((0, 4, 3), np.uint8), 1, r"\(0, 4, 3\)"),
        (np.zeros((4, 4, 3), np.uint8), 0, r"\[0.05, 8\], got 0"),
        (np.zeros((4, 4, 3), np.uint8), float("nan"), "got nan"),
    ],
)
def test_errors_name_what_is_expected(picture, size, message):
    with pytest.raises(ValueError, match=message):
        draft(picture, stroke_size=size)
