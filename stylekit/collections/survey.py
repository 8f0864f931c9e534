"""Facts about picture files: what is wrong with each, such as a frame, what it resembles, how large its details are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from stylekit.collections.similarity import perceptual_hash, reduced, thumbnail
from stylekit.pictures import images

Box = tuple[int, int, int, int]

GRAY = 2.3
"""Pictures whose chroma (Cb and Cr together) has a smaller standard deviation are gray or toned in one color."""

_DETAIL_SIDE = 128  # Details are measured at this shorter side.

_WHITE = 232
_BLACK = 24
_SPREAD = 7.0
"""A line of a frame is whiter or blacker than this on average, with at most this standard deviation (gray levels)."""

_FADE = 3.0  # The means of the lines of a frame have at most this standard deviation.

_STEP = 18.0
"""The picture begins where the mean of a line differs from that of the frame by this, or the line is uneven."""

_LEAST = 0.012  # A frame takes at least this share of a side; thinner lines are left to random cropping.
_MOST = 0.3  # More than this share of one side is no frame but a plain sky, snow or night.


@dataclass(frozen=True)
class Facts:
    """What one file holds. A file that cannot be read has an error and defaults for everything else."""

    path: Path
    error: str = ""
    width: int = 0
    """After the EXIF orientation is applied."""
    height: int = 0
    format: str = ""
    mode: str = ""
    """Pillow's name of the color space and depth in the file, such as RGB, L or CMYK."""
    rotated: bool = False
    """The EXIF orientation turns or mirrors the picture."""
    gray: bool = False
    frame: Box | None = None
    hash: int = 0
    thumbnail: bytes = b""
    histogram: tuple[int, ...] = ()
    """Counts of 32 levels of red, then green, then blue."""


def survey(paths: Sequence[Path]) -> Iterator[Facts]:
    """The facts of every file, in order, read by several threads."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        yield from pool.map(examine, paths)


def examine(path: Path) -> Facts:
    """Decode a file completely and look at it."""
    try:
        picture = images.load(path)
        with Image.open(path) as file:
            kind, mode = file.format or "", file.mode
            rotated = file.getexif().get(ExifTags.Base.Orientation, 1) not in (0, 1)
    except (ValueError, OSError) as error:
        return Facts(path, error=str(error).removeprefix(f"{path}: "))
    counts, small = picture.histogram(), reduced(picture)
    levels = tuple(sum(counts[i : i + 8]) for i in range(0, 768, 8))
    frame, bits = find_frame(picture), perceptual_hash(small)
    return Facts(path, "", *picture.size, kind, mode, rotated, is_gray(small), frame, bits, thumbnail(small), levels)


def find_frame(image: Image.Image) -> Box | None:
    """The box inside a white or black frame, as (left, top, right, bottom) in pixels; None if there is no frame.

    A frame has two opposite margins of one color that are uniform from end to end and end in a sharp edge. One margin
    alone may be a white sky or a dark ground.
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


def is_gray(picture: Image.Image) -> bool:
    """Whether a picture has no color, or only one tone as in sepia prints."""
    chroma = np.asarray(reduced(picture).convert("YCbCr"), dtype=np.float32)[..., 1:]
    return float(np.sqrt(chroma.var((0, 1)).sum())) < GRAY


def detail_size(picture: Image.Image) -> float:
    """The distance in pixels at which gray values of a picture are half correlated.

    It is the typical radius of what the picture shows, and grows in proportion when the picture is enlarged. Sharpness
    and noise hardly change it.
    """
    scale = min(picture.size) / _DETAIL_SIDE
    width, height = (max(2, round(side / scale)) for side in picture.size)
    gray = np.asarray(picture.convert("L").resize((width, height), Image.Resampling.BOX), dtype=np.float32)
    gray = gray - gray.mean()
    # Zero padding: without it, opposite borders would be neighbors.
    shape = [2 * side for side in gray.shape]
    covariance = np.fft.irfft2(np.abs(np.fft.rfft2(gray, shape)) ** 2, shape)
    covariance /= np.fft.irfft2(np.abs(np.fft.rfft2(np.ones_like(gray), shape)) ** 2, shape).clip(0.5)
    reach = _DETAIL_SIDE // 2
    along = [covariance[0, :reach], covariance[:reach, 0]]
    curve = np.mean(along, 0) / max(float(covariance[0, 0]), 1e-6)
    below = np.nonzero(curve[1:] < 0.5)[0]
    return float(1 + below[0] if len(below) else reach) * scale


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
