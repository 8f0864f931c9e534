"""From a downloaded file to a picture for training: decoded, without frame, at the size that was asked for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image

from stylekit.collections.frames import find_frame
from stylekit.collections.similarity import perceptual_hash, reduced, thumbnail
from stylekit.pictures import images

_KEPT = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}
"""Formats of files that are kept byte for byte if nothing has to be done."""


class Unsuitable(Exception):  # noqa: N818
    """A picture is intact, but not wanted; another download would not help."""


@dataclass(frozen=True)
class Preparation:
    """What is done to each picture."""

    size: int | None
    """Reduce pictures so that the shorter side has this many pixels; None keeps their size."""
    min_size: int
    """Leave out pictures whose shorter side is smaller, after a frame has been cropped."""
    crop_frames: bool
    """Crop white and black frames."""


@dataclass(frozen=True)
class Prepared:
    """A picture file that is ready, and how it came about."""

    file: str
    width: int
    height: int
    bytes: int
    sha256: str
    """Of the file."""
    source_sha256: str
    """Of the file as it was downloaded."""
    hash: int
    thumbnail: str
    """`similarity.thumbnail` in hexadecimal."""
    done: str
    """What was done, in words; empty if the file is the downloaded one."""


def prepare(raw: Path, folder: Path, stem: str, steps: Preparation) -> Prepared:
    """Verify a downloaded picture by decoding it, prepare it, and move it to FOLDER/STEM.SUFFIX.

    Raises:
        ValueError: Not a picture, or damaged.
        Unsuitable: Too small.
        OSError: The result cannot be written.
    """
    picture = images.load(raw)
    with Image.open(raw) as file:
        suffix = _KEPT.get(file.format or "", "")
        plain = suffix and file.mode == "RGB" and not getattr(file, "is_animated", False)
        plain = plain and file.getexif().get(ExifTags.Base.Orientation, 1) in (0, 1)
        plain = plain and not file.info.get("icc_profile")
    done = [] if plain else ["converted to sRGB"]
    if steps.crop_frames and (frame := find_frame(picture)):
        picture = picture.crop(frame)
        done.append("frame cropped to {} {} {} {}".format(*frame))
    shorter = min(picture.size)
    if shorter < steps.min_size:
        raise Unsuitable(f"{picture.width} x {picture.height} px, smaller than {steps.min_size}")
    if steps.size and shorter > steps.size:
        width, height = (max(steps.size, round(side * steps.size / shorter)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        done.append(f"reduced to {width} x {height}")
    source = hashlib.sha256(raw.read_bytes()).hexdigest()
    target = folder / f"{stem}{suffix if not done else '.jpg'}"
    target.parent.mkdir(parents=True, exist_ok=True)
    if done:
        images.save(picture, target)
    else:
        raw.replace(target)
    data, small = target.read_bytes(), reduced(picture)
    return Prepared(
        target.name,
        picture.width,
        picture.height,
        len(data),
        hashlib.sha256(data).hexdigest(),
        source,
        perceptual_hash(small),
        thumbnail(small).hex(),
        "; ".join(done),
    )
