"""Facts about picture files: what is wrong with each, what it resembles, how large its details are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from stylekit.collections.frames import Box, find_frame
from stylekit.collections.similarity import perceptual_hash, reduced, thumbnail
from stylekit.pictures import images

GRAY = 2.3
"""Pictures whose chroma (Cb and Cr together) has a smaller standard deviation are gray or toned in one color."""

_DETAIL_SIDE = 128
"""Details are measured at this shorter side."""


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
