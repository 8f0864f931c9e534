"""Photographs to be painted: their pixels, and what the painting keeps of them (transparency, 16 bits, EXIF).

Pillow reads 16 bits per channel as 8 if there are colors, and applies color profiles with 8 bits. OpenCV reads all.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, TiffImagePlugin
from torch import Tensor
from torch.nn import functional

from stylekit.pictures import images
from stylekit.pictures.animations import is_animated
from stylekit.pictures.exif import kept_exif

_TRANSPARENT = ("PNG", "WEBP", "TIFF", "AVIF")
"""Formats that can store an alpha channel."""

_MISREAD = 2
"""Mean difference, in steps of 8 bits, from which OpenCV has read a file differently from Pillow."""


@dataclass(frozen=True)
class Photograph:
    """A decoded file, upright, in sRGB."""

    image: Image.Image
    """RGB with 8 bits, on white."""

    alpha: Image.Image | None = None
    """Opacity, in mode L; None for opaque pictures."""

    deep: NDArray[np.float32] | None = None
    """(H, W, 3) in [0, 1] on white, if the file has 16 bits per channel."""

    exif: Image.Exif | None = None
    """What the painting keeps of the metadata."""

    animated: bool = False
    """Whether the file has further frames; see `stylekit.pictures.animations`."""

    def to_tensor(self) -> Tensor:
        """(1, 3, H, W) in [0, 1], on white, with all bits of the file."""
        if self.deep is None:
            return images.to_tensor(self.image)
        return torch.from_numpy(self.deep).permute(2, 0, 1)[None]


def load(path: str | Path, size: int | None = None) -> Photograph:
    """Load a picture as `images.load` does, with what is kept of it; raises the same errors.

    Args:
        size: Shrink the picture to this longer side.
    """
    path = Path(path)
    with images.decode(path) as opened:
        upright = ImageOps.exif_transpose(opened)
        image, alpha = images.to_rgb(upright), images.alpha_of(upright)
        exif, animated = kept_exif(opened), is_animated(opened)
        # After Pillow, which refuses damaged files; OpenCV would print what it does not like about them.
        deep = _read_deep(path, upright, image, alpha) if _is_deep(opened, path) else None
    if deep is not None:
        channels = (images.resize(Image.fromarray(channel), size) for channel in np.moveaxis(deep, 2, 0))
        deep = np.stack([np.asarray(channel) for channel in channels], axis=2).clip(0, 1)
    return Photograph(images.resize(image, size), alpha and images.resize(alpha, size), deep, exif, animated)


def save(painting: Tensor, path: str | Path, photograph: Photograph) -> Image.Image:
    """Write a painting with what it keeps of its photograph, as far as the format can store it; see `images.save`.

    Args:
        painting: (1, 3, H, W) in [0, 1], of the size of the photograph.

    Returns:
        The painting with 8 bits, opaque.
    """
    kind = images.FORMATS[Path(path).suffix.lower()]
    picture = images.to_image(painting)
    is_deep = photograph.deep is not None and kind in images.DEEP
    images.save(
        painting if is_deep else picture,
        path,
        bits=16 if is_deep else 8,
        alpha=photograph.alpha if kind in _TRANSPARENT else None,
        exif=photograph.exif,
        profile=images.SRGB,
    )
    return picture


def _is_deep(image: Image.Image, path: Path) -> bool:
    """Whether an opened file has 16 bits per channel, as unsigned integers."""
    if image.format == "PNG":
        with path.open("rb") as file:
            return file.read(25)[24:] == b"\x10"
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        formats = image.tag_v2.get(TiffImagePlugin.SAMPLEFORMAT, (1,))
        return set(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))) == {16} and set(formats) == {1}
    return False


def _read_deep(
    path: Path, upright: Image.Image, image: Image.Image, alpha: Image.Image | None
) -> NDArray[np.float32] | None:
    """The pixels of a file with 16 bits per channel, upright, in sRGB, on white; None if OpenCV misreads them."""
    import cv2

    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if pixels is None or pixels.dtype != np.uint16 or pixels.shape[:2] != (image.height, image.width):
        return None
    colors = _to_srgb(pixels[..., ::-1].astype(np.float32) / np.float32(65535), upright)
    if alpha is not None:
        opacity = np.asarray(alpha, dtype=np.float32)[..., None] / np.float32(255)
        colors = colors * opacity + (1 - opacity)
    return None if np.abs(colors * 255 - np.asarray(image)).mean() > _MISREAD else colors


def _to_srgb(colors: NDArray[np.float32], image: Image.Image) -> NDArray[np.float32]:
    """Apply the color profile of a picture to colors in [0, 1] by interpolating in a table that Pillow converts."""
    profile = image.info.get("icc_profile")
    if not profile:
        return colors
    gray = image.mode.startswith("I") or image.mode in ("L", "LA")
    steps = np.arange(0, 256, 1 if gray else 5, dtype=np.uint8)
    grid = steps[None] if gray else np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(52, -1, 3)
    table = Image.fromarray(np.ascontiguousarray(grid))
    table.info["icc_profile"] = profile
    converted = np.asarray(images.to_rgb(table), dtype=np.float32) / 255
    if gray:
        return np.interp(colors, steps / 255, converted[0].mean(1)).astype(np.float32)
    cube = torch.from_numpy(converted).view(1, 52, 52, 52, 3).permute(0, 4, 1, 2, 3)
    points = torch.from_numpy(colors[..., ::-1] * 2 - 1)[None, None]
    return functional.grid_sample(cube, points, align_corners=True)[0, :, 0].permute(1, 2, 0).numpy()
