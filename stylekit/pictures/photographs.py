"""Photographs to be painted: their pixels, and what the painting keeps of them (transparency, 16 bits, EXIF)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from stylekit.pictures import deep, images
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

    alpha: NDArray[np.float32] | None = None
    """Opacity, (H, W) in [0, 1]; None for opaque pictures."""

    deep: NDArray[np.uint16] | None = None
    """(H, W, 3) on white, if the file has 16 bits per channel."""

    exif: Image.Exif | None = None
    """What the painting keeps of the metadata."""

    animated: bool = False
    """Whether the file has further frames; see `stylekit.pictures.animations`."""

    def to_tensor(self) -> Tensor:
        """(1, 3, H, W) in [0, 1], on white, with all bits of the file."""
        if self.deep is None:
            return images.to_tensor(self.image)
        return torch.from_numpy(self.deep.astype(np.float32) / np.float32(65535)).permute(2, 0, 1)[None]


def load(path: str | Path, size: int | None = None) -> Photograph:
    """Load a picture as `images.load` does, with what is kept of it.

    Args:
        size: Shrink the picture to this longer side.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Not a picture, damaged, or too large; the message names the file.
    """
    path = Path(path)
    with images.decode(path) as opened:
        animated = is_animated(opened)
        exif = kept_exif(opened)
        upright = ImageOps.exif_transpose(opened)
        mask = images.alpha_of(upright)
        image = images.to_rgb(upright)
        # After Pillow, which refuses damaged files; OpenCV would print what it does not like about them.
        pixels = deep.read(path, opened) if deep.is_deep(opened, path) else None
        alpha = None if mask is None else np.asarray(mask, dtype=np.float32) / np.float32(255)
        colors = None
        if pixels is not None and pixels.shape[:2] == (image.height, image.width):
            if pixels.shape[2] == 4:
                alpha = pixels[..., 3].astype(np.float32) / np.float32(65535)
            colors = _on_white(_to_srgb(pixels, upright), alpha)
            if np.abs(colors * 255 - np.asarray(image)).mean() > _MISREAD:
                colors = None
    if size is not None and max(image.size) > size:
        image = images.resize(image, size)
        alpha = None if alpha is None else deep.resize(alpha, image.size)
        colors = None if colors is None else deep.resize(colors, image.size)
    return Photograph(image, alpha, None if colors is None else _to_16_bits(colors), exif, animated)


def save(painting: Tensor, path: str | Path, photograph: Photograph) -> Image.Image:
    """Write a painting with what it keeps of its photograph, as far as the format can store it; see `images.save`.

    Args:
        painting: (1, 3, H, W) in [0, 1], of the size of the photograph.

    Returns:
        The painting with 8 bits, opaque.
    """
    kind = images.FORMATS[Path(path).suffix.lower()]
    picture = images.to_image(painting)
    is_deep = photograph.deep is not None and kind in deep.FORMATS
    images.save(
        painting if is_deep else picture,
        path,
        bits=16 if is_deep else 8,
        alpha=photograph.alpha if kind in _TRANSPARENT else None,
        exif=photograph.exif,
        profile=images.SRGB,
    )
    return picture


def _to_srgb(pixels: NDArray[np.uint16], image: Image.Image) -> NDArray[np.float32]:
    """Apply the color profile of a picture to its pixels with 16 bits; (H, W, 3) in [0, 1]."""
    values = pixels[..., :3].astype(np.float32) / np.float32(65535)
    if not image.info.get("icc_profile"):
        return values
    table = deep.color_table(gray=image.mode.startswith("I") or image.mode in ("L", "LA"))
    table.info["icc_profile"] = image.info["icc_profile"]
    return deep.apply_table(values, images.to_rgb(table))


def _on_white(colors: NDArray[np.float32], alpha: NDArray[np.float32] | None) -> NDArray[np.float32]:
    return colors if alpha is None else colors * alpha[..., None] + (1 - alpha[..., None])


def _to_16_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    return np.rint(values * 65535).astype(np.uint16)
