"""Photographs to be painted: their pixels, and what the painting keeps of them (transparency, 16 bits, EXIF).

Pillow reads 16 bits per channel as 8 if there are colors, and applies color profiles with 8 bits. OpenCV reads all.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin
from torch import Tensor

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
        deep = _read_deep(path, opened, upright, image, alpha) if _is_deep(opened, path) else None
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
    path: Path, opened: Image.Image, upright: Image.Image, image: Image.Image, alpha: Image.Image | None
) -> NDArray[np.float32] | None:
    """The pixels of a file with 16 bits per channel, upright, in sRGB, on white; None if OpenCV misreads them."""
    import cv2

    content = path.read_bytes()
    orientation = None  # OpenCV turns a TIFF.
    if opened.format == "PNG":
        content, orientation = _pixel_chunks(content), opened.getexif().get(ExifTags.Base.Orientation)
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if pixels is None:
        return None
    if orientation in (3, 4, 6, 7):
        pixels = pixels[::-1]
    if orientation in (2, 3, 7, 8):
        pixels = pixels[:, ::-1]
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if pixels.dtype != np.uint16 or pixels.shape[:2] != (image.height, image.width):
        return None
    colors = _to_srgb(pixels[..., ::-1], upright)
    if alpha is not None:
        opacity = np.asarray(alpha, dtype=np.float32)[..., None] / np.float32(255)
        colors = colors * opacity + (1 - opacity)
    return colors if np.abs(colors * 255 - np.asarray(image)).mean() <= _MISREAD else None


def _pixel_chunks(content: bytes) -> bytes:
    """A PNG file without metadata and other chunks about which libpng would write warnings to standard error."""
    kept, start = [content[:8]], 8
    while start < len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        if content[start + 4 : start + 8] in (b"IHDR", b"IDAT", b"IEND"):
            kept.append(content[start:end])
        start = end
    return b"".join(kept)


def _to_srgb(pixels: NDArray[Any], image: Image.Image) -> NDArray[np.float32]:
    """Pixels with 16 bits to colors in [0, 1], by the color profile of their picture."""
    colors, profile = pixels.astype(np.float32) / np.float32(65535), image.info.get("icc_profile", b"")
    gray = images.is_gray(image)
    if profile[16:20] != (b"GRAY" if gray else b"RGB "):
        return colors
    try:
        tags = _tags(profile)
        if profile[20:24] != b"XYZ " or any(name[:3] in (b"A2B", b"D2B") for name in tags):
            raise ValueError("defined by tables")
        curves = [_curve(tags[name]) for name in ([b"kTRC"] * 3 if gray else [b"rTRC", b"gTRC", b"bTRC"])]
        to_linear = np.eye(3) if gray else np.linalg.solve(_colorants(_tags(images.SRGB)), _colorants(tags))
    except (ValueError, LookupError, struct.error, np.linalg.LinAlgError):
        # LittleCMS converts the upper 8 bits; the others are small enough to be added as they are.
        coarse = Image.fromarray((pixels >> 8).astype(np.uint8))
        rest = colors - np.asarray(coarse, dtype=np.float32) / np.float32(255)
        coarse.info["icc_profile"] = profile
        return (np.asarray(images.to_rgb(coarse), dtype=np.float32) / np.float32(255) + rest).clip(0, 1)
    linear = np.stack([np.take(curve, pixels[..., i]) for i, curve in enumerate(curves)])
    for i, row in enumerate(to_linear.astype(np.float32)):
        light = np.tensordot(row, linear, 1).clip(0, 1)
        colors[..., i] = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return colors


def _tags(profile: bytes) -> dict[bytes, memoryview]:
    """The tags of an ICC profile."""
    view = memoryview(profile)
    directory = view[132 : 132 + 12 * int.from_bytes(view[128:132], "big")]
    return {name: view[start : start + size] for name, start, size in struct.iter_unpack(">4sII", directory)}


def _colorants(tags: dict[bytes, memoryview]) -> NDArray[np.float64]:
    """The matrix from linear RGB to XYZ."""
    return np.stack([np.frombuffer(tags[name][8:20], ">i4") for name in (b"rXYZ", b"gXYZ", b"bXYZ")], 1) / 65536


def _curve(tag: memoryview) -> NDArray[np.float32]:
    """The transfer function of an ICC profile (ICC.1:2022, 10.6 and 10.18): light for each value of 16 bits."""
    x = np.arange(65536) / 65535
    if bytes(tag[:4]) == b"curv":
        table = np.frombuffer(tag[12 : 12 + 2 * int.from_bytes(tag[8:12], "big")], ">u2")
        if len(table) > 1:
            return np.interp(x, np.linspace(0, 1, len(table)), table / 65535).astype(np.float32)
        return (x ** (table[0] / 256) if len(table) else x).astype(np.float32)
    # The types that are in use.
    count = {b"para\0\0": 1, b"para\0\3": 5, b"para\0\4": 7}[bytes(tag[:4]) + bytes(tag[8:10])]
    given: list[float] = (np.frombuffer(tag[12 : 12 + 4 * count], ">i4") / 65536).tolist()
    g, a, b, c, d, e, f = given + [1, 1, 0, 0, 0, 0, 0][len(given) :]
    with np.errstate(all="ignore"):
        return np.where(x >= d, (a * x + b) ** g + e, c * x + f).astype(np.float32)
