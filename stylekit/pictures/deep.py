"""Pictures with 16 bits per channel: PNG and TIFF, which Pillow reads and writes with 8 bits if they have colors.

OpenCV reads both, and writes PNG; tifffile writes TIFF.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, TiffImagePlugin
from torch.nn import functional

from stylekit.pictures.exif import add_to_tiff

FORMATS = ("PNG", "TIFF")
"""Pillow's names of the formats that can store 16 bits."""

_NODES = 52
"""Nodes of a color table along each side: every fifth of the values that 8 bits have."""

_TURNS = {1: "", 2: "h", 3: "hv", 4: "v", 5: "t", 6: "th", 7: "thv", 8: "tv"}
"""How each EXIF orientation becomes upright: transpose, then flip horizontally and vertically."""


def is_deep(image: Image.Image, path: Path) -> bool:
    """Whether an opened file has 16 bits per channel, as unsigned integers."""
    if image.format == "PNG":
        with path.open("rb") as file:
            return file.read(25)[24:] == b"\x10"
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        formats = image.tag_v2.get(TiffImagePlugin.SAMPLEFORMAT, (1,))
        return set(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))) == {16} and set(formats) == {1}
    return False


def read(path: Path, image: Image.Image) -> NDArray[np.uint16] | None:
    """The pixels of a file with 16 bits per channel, upright, without applying its color profile.

    Args:
        image: The same file, opened by Pillow.

    Returns:
        (H, W, 3), or (H, W, 4) with alpha; None if OpenCV cannot read it that way.
    """
    import cv2

    pixels: NDArray[Any] | None = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        return None
    if pixels.ndim == 2:
        pixels = np.stack([pixels] * 3, axis=2)
    if pixels.shape[2] not in (3, 4):
        return None
    pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    if image.format == "TIFF":
        return pixels  # OpenCV turns these itself.
    turns = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1), "")
    pixels = pixels.swapaxes(0, 1) if "t" in turns else pixels
    pixels = pixels[:, ::-1] if "h" in turns else pixels
    return pixels[::-1] if "v" in turns else pixels


def color_table(gray: bool) -> Image.Image:
    """All colors of a grid as a picture: to be converted by a color profile, and then used by `apply_table`."""
    if gray:
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    steps = np.arange(0, 256, 5, dtype=np.uint8)
    colors = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1)
    return Image.fromarray(np.ascontiguousarray(colors.reshape(_NODES, -1, 3)))


def apply_table(values: NDArray[np.float32], table: Image.Image) -> NDArray[np.float32]:
    """Convert colors by interpolating a converted `color_table`.

    Pillow applies color profiles with 8 bits. Interpolation keeps the fine steps between colors.

    Args:
        values: (H, W, 3) in [0, 1].
        table: In RGB.
    """
    converted = np.asarray(table, dtype=np.float32) / 255
    if converted.shape[0] == 1:
        curve = converted[0].mean(1)
        return np.interp(values, np.linspace(0, 1, 256), curve).astype(np.float32)
    cube = torch.from_numpy(converted).reshape(1, _NODES, _NODES, _NODES, 3).permute(0, 4, 1, 2, 3)
    grid = torch.from_numpy(values[..., ::-1] * 2 - 1)[None, None]
    return functional.grid_sample(cube, grid, align_corners=True)[0, :, 0].permute(1, 2, 0).numpy()


def resize(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize (H, W) or (H, W, C) to a width and height; the filter of `images.resize`."""
    if values.ndim == 3:
        return np.stack([resize(values[..., i], size) for i in range(values.shape[2])], axis=2)
    resized = Image.fromarray(np.ascontiguousarray(values)).resize(size, Image.Resampling.LANCZOS)
    return np.asarray(resized).clip(0, 1)


def encode(pixels: NDArray[np.uint16], kind: str, description: str, exif: Image.Exif | None, profile: bytes) -> bytes:
    """A PNG or TIFF file with 16 bits per channel.

    Args:
        pixels: (H, W, 3), or (H, W, 4) with alpha.
        kind: One of `FORMATS`.
        description, exif, profile: Metadata; empty for none. PNG stores the description in EXIF.
    """
    if kind == "PNG":
        return _encode_png(pixels, exif, profile)
    import tifffile

    file = io.BytesIO()
    tifffile.imwrite(
        file,
        pixels,
        photometric="rgb",
        compression="zlib",
        description=description or None,
        metadata=None,
        extrasamples=["unassalpha"] if pixels.shape[2] == 4 else None,
        iccprofile=profile or None,
    )
    return file.getvalue() if exif is None else add_to_tiff(file.getvalue(), exif)


def _encode_png(pixels: NDArray[np.uint16], exif: Image.Exif | None, profile: bytes) -> bytes:
    import cv2

    _, encoded = cv2.imencode(".png", pixels[..., [2, 1, 0, 3][: pixels.shape[2]]])
    content = encoded.tobytes()
    chunks = b""
    if profile:
        chunks += _chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(profile))
    if exif is not None:
        chunks += _chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    header = 33  # Signature and IHDR.
    return content[:header] + chunks + content[header:]


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
