"""What a painting keeps of the EXIF metadata of its photograph, and how a TIFF stores it."""

from __future__ import annotations

import struct
from typing import Any

from PIL import ExifTags, Image, TiffImagePlugin

_BASE = ExifTags.Base
_KEPT = (_BASE.Make, _BASE.Model, _BASE.DateTime, _BASE.Artist, _BASE.Copyright)
_KEPT_DETAILS = (
    *(_BASE.DateTimeOriginal, _BASE.DateTimeDigitized, _BASE.OffsetTime, _BASE.OffsetTimeOriginal),
    *(_BASE.OffsetTimeDigitized, _BASE.SubsecTime, _BASE.SubsecTimeOriginal, _BASE.SubsecTimeDigitized),
    *(_BASE.ExposureTime, _BASE.FNumber, _BASE.ISOSpeedRatings, _BASE.FocalLength, _BASE.FocalLengthIn35mmFilm),
    *(_BASE.LensSpecification, _BASE.LensMake, _BASE.LensModel),
)
_LONGEST = 1000
"""Characters of a value: metadata may be damaged or made to be large."""


def kept_exif(image: Image.Image) -> Image.Exif:
    """Date, camera, lens, exposure, author and copyright of a picture, upright.

    Everything else is dropped: position, maker notes, serial numbers, comments and thumbnails. Damaged metadata counts
    as none.
    """
    upright = Image.Exif()
    upright[_BASE.Orientation] = 1
    kept = Image.Exif()
    try:
        found = image.getexif()
        _copy(found, kept, _KEPT)
        kept[_BASE.Orientation] = 1
        details = kept.get_ifd(ExifTags.IFD.Exif)
        _copy(found.get_ifd(ExifTags.IFD.Exif), details, _KEPT_DETAILS)
        details[_BASE.ColorSpace] = 1  # sRGB.
        kept.tobytes()
    except Exception:  # Pillow raises almost anything on damaged metadata.
        return upright
    return kept


def add_to_tiff(content: bytes, exif: Image.Exif) -> bytes:
    """Add metadata to a TIFF of one page: neither Pillow nor tifffile writes all of it.

    The directory of the file moves to its end, where it has room for more tags. Tags that it has already are kept.
    """
    order = "<" if content[:2] == b"II" else ">"
    version, start = struct.unpack(f"{order}HI", content[2:8])
    if version != 42:
        return content  # BigTIFF, over 4 GB.
    content += bytes(len(content) % 2)
    added = TiffImagePlugin.ImageFileDirectory_v2(prefix=content[:2])
    for tag, value in exif.items():
        if tag != ExifTags.IFD.Exif:
            added[tag] = value
    details = exif.get_ifd(ExifTags.IFD.Exif)
    if details:
        added[ExifTags.IFD.Exif] = dict(details)
    block = added.tobytes(len(content))
    entries = _entries(block, 0, order) | _entries(content, start, order)
    directory = b"".join(entries[tag] for tag in sorted(entries))
    block += bytes(len(block) % 2)
    place = struct.pack(f"{order}I", len(content) + len(block))
    return b"".join(
        [content[:4], place, content[8:], block, struct.pack(f"{order}H", len(entries)), directory, bytes(4)]
    )


def _copy(source: Any, target: Any, tags: tuple[int, ...]) -> None:
    for tag in tags:
        value = source.get(tag)
        if value is not None and len(str(value)) <= _LONGEST:
            target[tag] = value


def _entries(content: bytes, start: int, order: str) -> dict[int, bytes]:
    """The entries of a directory of a TIFF by tag."""
    (count,) = struct.unpack(f"{order}H", content[start : start + 2])
    entries = [content[start + 2 + 12 * i : start + 14 + 12 * i] for i in range(count)]
    return {struct.unpack(f"{order}H", entry[:2])[0]: entry for entry in entries}
