"""White and black frames around pictures: margins of scans, mounts of paintings, letterboxes of films."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Box = tuple[int, int, int, int]

_WHITE = 232
_BLACK = 24
_SPREAD = 7.0
"""A line of a frame is whiter or blacker than this on average, with at most this standard deviation (gray levels)."""

_FADE = 3.0
"""The means of the lines of a frame have at most this standard deviation."""

_STEP = 18.0
"""The picture begins where the mean of a line differs from that of the frame by this, or the line is uneven."""

_LEAST = 0.012
"""A frame takes at least this share of a side; thinner lines are left to random cropping."""

_MOST = 0.3
"""More than this share of one side is no frame but a plain sky, snow or night."""


def find_frame(image: Image.Image) -> Box | None:
    """The box inside a white or black frame, as (left, top, right, bottom) in pixels; None if there is no frame.

    A frame has two opposite margins of one color that are uniform from end to end and end in a sharp edge. One margin
    alone may be a white sky or a dark ground.

    Args:
        image: RGB.
    """
    width, height = image.size
    if min(height, width) < 16:
        return None
    boxes = (0, 0, width, 1), (0, height - 1, width, height), (0, 0, 1, height), (width - 1, 0, width, height)
    edges = (np.asarray(image.crop(box).convert("L")) for box in boxes)
    top, bottom, left, right = (line.std() < _SPREAD and not _BLACK < line.mean() < _WHITE for line in edges)
    if not ((top and bottom) or (left and right)):  # True of most pictures.
        return None
    gray = np.asarray(image.convert("L"), dtype=np.float32)
    for white in (True, False):
        box = [0, 0, width, height]
        # Rows again at the end: a frame on the sides may hide one above and below, as that hides one on the sides.
        for axis in (1, 0, 1):
            inside = gray[box[1] : box[3], box[0] : box[2]]
            first, last = _margins(inside if axis else inside.T, white)
            if first and last:
                box[axis] += first
                box[axis + 2] -= last
        if box != [0, 0, width, height]:
            return box[0], box[1], box[2], box[3]
    return None


def _margins(gray: NDArray[np.float32], white: bool) -> tuple[int, int]:
    """Thickness of the first and the last margin in rows; 0 for none."""
    means, spreads = gray.mean(1), gray.std(1)
    plain = (spreads < _SPREAD) & ((means > _WHITE) if white else (means < _BLACK))
    return _thickness(means, plain), _thickness(means[::-1], plain[::-1])


def _thickness(means: NDArray[np.float32], plain: NDArray[np.bool_]) -> int:
    count = len(plain) if plain.all() else int(np.argmin(plain))
    # Fog that fades to white is plain too, but not the same all over. The last two lines may be smeared by JPEG.
    if not _LEAST * len(plain) <= count <= _MOST * len(plain) or means[: max(1, count - 2)].std() > _FADE:
        return 0
    # A smeared line that is nearer to the frame than to the picture belongs to the frame.
    steps = np.abs(means[count : count + 3] - means[:count].mean())
    if steps[-1] < _STEP:
        return 0
    return count + int(steps[0] < steps[-1] / 2)
