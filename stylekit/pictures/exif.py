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
_LONGEST = 1000  # Characters of a value: metadata may be damaged or made to be large.


def kept_exif(image: Image.Image) -> Image.Exif:
    """Date, camera, lens, exposure, author and copyright of a picture, upright.

    Everything else is dropped: position, maker notes, serial numbers, comments and thumbnails. Damaged metadata counts
    as none.
    """
    kept = Image.Exif()
    try:
        found = image.getexif()
        _copy(found, kept, _KEPT)
        details = kept.get_ifd(ExifTags.IFD.Exif)
        _copy(found.get_ifd(ExifTags.IFD.Exif), details, _KEPT_DETAILS)
        details[_BASE.ColorSpace] = 1  # sRGB.
        kept.tobytes()
    except Exception:  # Pillow raises almost anything on damaged metadata.
        kept = Image.Exif()
    kept[_BASE.Orientation] = 1
    return kept


def _copy(source: Any, target: Any, tags: tuple[int, ...]) -> None:
    for tag in tags:
        value = source.get(tag)
        if value is not None and len(str(value)) <= _LONGEST:
            target[tag] = value


def add_to_tiff(content: bytes, exif: Image.Exif, profile: bytes, alpha: bool) -> bytes:
    """Add metadata, color profile and the meaning of the fourth channel to a TIFF of one page.

    Pillow does not write the details of EXIF, OpenCV writes nothing of the three. The directory of the file moves to
    its end, where it has room for more tags. Tags that it has already are kept.
    """
    order = "<" if content[:2] == b"II" else ">"
    version, start = struct.unpack(f"{order}HI", content[2:8])
    if version != 42:
        return content  # BigTIFF, over 4 GB.
    added = TiffImagePlugin.ImageFileDirectory_v2(prefix=content[:2])
    added.update({tag: value for tag, value in exif.items() if tag != ExifTags.IFD.Exif})
    if profile:
        added[TiffImagePlugin.ICCPROFILE] = profile
    if alpha:
        added[TiffImagePlugin.EXTRASAMPLES] = 2  # Colors that are not multiplied by alpha.
    if details := exif.get_ifd(ExifTags.IFD.Exif):
        added[ExifTags.IFD.Exif] = dict(details)
    content += bytes(len(content) % 2)
    block = added.tobytes(len(content))
    block += bytes(len(block) % 2)
    entries = _entries(block, 0, order) | _entries(content, start, order)
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    place = struct.pack(f"{order}I", len(content) + len(block))
    return b"".join([content[:4], place, content[8:], block, directory])


def _entries(content: bytes, start: int, order: str) -> dict[int, bytes]:
    """The entries of a directory of a TIFF by tag."""
    (count,) = struct.unpack(f"{order}H", content[start : start + 2])
    entries = [content[start + 2 + 12 * i : start + 14 + 12 * i] for i in range(count)]
    return {struct.unpack(f"{order}H", entry[:2])[0]: entry for entry in entries}
