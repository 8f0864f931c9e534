"""Animated pictures (GIF, WebP, PNG): loaded, processed frame by frame, and saved with their times."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageOps, ImageSequence
from torch import Tensor
from tqdm import tqdm

from stylekit.atomic import atomic_write
from stylekit.pictures import images

WRITABLE = {"PNG": {}, "WEBP": {"quality": 90}}
"""Formats in which animations are written, with Pillow's options. GIF has too few colors for paintings."""

_DURATION = 100  # Milliseconds of a frame without a time of its own, as in browsers.


@dataclass(frozen=True)
class Animation:
    """Decoded frames of one size, upright, in sRGB, on white."""

    frames: list[Image.Image]
    masks: list[Image.Image | None]
    """The alpha channel of each frame; None if it is opaque."""
    durations: list[float]
    """Of each frame, in milliseconds."""
    plays: int
    """How often the animation is shown; 0 is without end."""


def is_animated(image: Image.Image) -> bool:
    """Whether an opened picture moves; TIFF and MPO also have several pictures, which do not."""
    return image.format in ("GIF", "WEBP", "PNG", "AVIF") and bool(getattr(image, "is_animated", False))


def load(path: str | Path, size: int | None = None) -> Animation:
    """Load all frames, shrunk to a longer side of `size`; `images.MAX_PIXELS` limits the pixels of all frames."""
    frames: list[Image.Image] = []
    masks: list[Image.Image | None] = []
    durations: list[float] = []
    with images.decode(path) as opened:
        count = getattr(opened, "n_frames", 1)
        if count * opened.width * opened.height > images.MAX_PIXELS:
            raise Image.DecompressionBombError(f"got {count} frames of {opened.width} x {opened.height}")
        # Viewers of animations do not show the first picture of a PNG file if it is only meant for others.
        first = 1 if opened.info.get("default_image") else 0
        for frame in ImageSequence.Iterator(opened):
            frame.load()  # Sets the duration.
            durations.append(float(frame.info.get("duration") or _DURATION))
            upright = ImageOps.exif_transpose(frame)
            picture, mask = images.to_rgb(upright), images.alpha_of(upright)
            frames.append(images.resize(picture, size))
            masks.append(mask and images.resize(mask, size))
            plays = opened.info.get("loop")
        if opened.format == "GIF":
            plays = 1 if plays is None else plays + 1 if plays else 0  # GIF counts repetitions.
    return Animation(frames[first:], masks[first:], durations[first:], int(plays or 0))


def process_animation(
    source: Path,
    target: Path,
    process: Callable[[Tensor], Tensor],
    device: torch.device | str = "cpu",
    size: int | None = None,
) -> tuple[Image.Image, Image.Image]:
    """Process every frame of an animation, in order; times, loops and transparency are kept, metadata is not.

    Args:
        process: (1, 3, H, W) in [0, 1], on the device -> the same.
        size: Shrink frames to this longer side first.

    Returns:
        The first frame before and after.
    """
    kind = images.FORMATS[target.suffix.lower()]
    if kind not in WRITABLE:
        raise ValueError(f"{source}: {target.suffix} cannot store an animation; use --format webp or png")
    animation = load(source, size)
    painted = [
        images.to_image(process(images.to_tensor(frame).to(device)))
        for frame in tqdm(animation.frames, unit="frame", leave=False, disable=None, delay=1)
    ]
    first = painted[0].copy()
    if any(mask is not None for mask in animation.masks):
        for frame, mask in zip(painted, animation.masks, strict=True):
            frame.putalpha(255 if mask is None else mask)
    encoded = io.BytesIO()
    painted[0].save(
        encoded,
        kind,
        save_all=True,
        append_images=painted[1:],
        duration=list(map(round, animation.durations)),
        loop=animation.plays,
        icc_profile=images.SRGB,
        **WRITABLE[kind],
    )
    with atomic_write(target) as file:
        file.write(encoded.getbuffer())
    return animation.frames[0], first
