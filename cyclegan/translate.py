"""From photographs to paintings: pictures of any size through a trained generator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from cyclegan.models import Generator
from stylekit import tiling, weights
from stylekit.files import Job, Outcome, paint_files
from stylekit.images import to_signed, to_unit

Direction = Literal["x2y", "y2x", "AtoB", "BtoA"]


@torch.inference_mode()
def translate(image: Tensor, generator: Generator, tile: int | None = None) -> Tensor:
    """Translate pictures of any size.

    The picture is continued by its reflection, so that no frame is painted, and worked on in tiles if it is large
    (`stylekit.tiling.paint`). What the authors' test.py does with a 256 x 256 picture is
    `to_unit(generator(to_signed(image)))`.

    Args:
        image: (B, 3, H, W) in [0, 1], on the generator's device.
        tile: Side of the tiles, in pixels; None: as large as the memory allows.

    Returns:
        (B, 3, H, W) in [0, 1].
    """
    return to_unit(tiling.paint(to_signed(image), generator, tile)).clamp(0, 1)


def load_generator(name: str | Path | None = None, direction: Direction = "x2y") -> Generator:
    """A trained generator, ready for `translate`.

    Args:
        name: A shipped network, a folder with config.json and model.safetensors, a training run (a folder with G/ and
            F/), an official .pth file, or a Hugging Face Hub id. None: the shipped landscape2vangogh, or
            vangogh2landscape with direction "y2x".
        direction: Of a training run: "x2y" takes G, "y2x" takes F.

    Raises:
        FileNotFoundError: There are no such weights.
        ValueError: They are damaged, or of another network; or a direction is asked of a single network.
        OSError: The Hub cannot be reached.
    """
    backwards = direction in ("y2x", "BtoA")
    if name is None:
        name, backwards = ("vangogh2landscape" if backwards else "landscape2vangogh"), False
    found = weights.find(name)
    if isinstance(found, Path):
        if found.is_dir() and (found / "G").is_dir():
            found, backwards = found / ("F" if backwards else "G"), False
        if backwards:
            raise ValueError(
                f"--direction {direction}: {name} is a single network, it knows one direction; expected a training run"
            )
    return weights.load(Generator, found, "a generator", "a training run with G and F")


def translate_files(
    jobs: Sequence[Job],
    generator: Generator,
    device: torch.device | str = "cpu",
    size: int | None = None,
    tile: int | None = None,
) -> Iterator[Outcome]:
    """Translate pictures one by one and write each result, whole or not at all. A bad picture does not end the work.

    Args:
        size: Shrink pictures to this longer side first.
        tile: Side of the tiles, in pixels; None: as large as the memory allows.

    Raises:
        OSError: A result cannot be written.
    """
    generator = generator.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return paint_files(jobs, lambda image: translate(image, generator, tile), device, size)
