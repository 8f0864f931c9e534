"""Translate pictures of any size with a trained generator (Zhu et al. 2017)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, overload

import torch
from PIL import Image
from torch import Tensor

from cyclegan.models import Generator
from cyclegan.options import TranslateConfig
from stylekit.devices import to_device
from stylekit.networks import weights
from stylekit.networks.export import run_whole
from stylekit.networks.tiling import Smoothing, run_tiled, untiled
from stylekit.pictures.images import to_signed, to_unit
from stylekit.pictures.inputs import Picture, like, to_batch
from stylekit.pictures.jobs import Job, Outcome, Process, process_files
from stylekit.pictures.strokes import paint

Direction = Literal["x2y", "y2x", "AtoB", "BtoA"]


@overload
def translate(
    image: Tensor,
    generator: Generator,
    tile: int | None = ...,
    strength: float = ...,
    preserve_color: bool = ...,
    stroke_size: float = ...,
    smoothing: Smoothing | None = ...,
) -> Tensor: ...
@overload
def translate(
    image: Picture,
    generator: Generator,
    tile: int | None = ...,
    strength: float = ...,
    preserve_color: bool = ...,
    stroke_size: float = ...,
    smoothing: Smoothing | None = ...,
) -> Image.Image: ...
@torch.inference_mode()
def translate(
    image: Picture | Tensor,
    generator: Generator,
    tile: int | None = None,
    strength: float = 1.0,
    preserve_color: bool = False,
    stroke_size: float = 1.0,
    smoothing: Smoothing | None = None,
) -> Tensor | Image.Image:
    """Translate pictures of any size. Threads may share a generator, but not the smoothing.

    Pictures are padded by reflection, and processed in tiles if they are large (see `run_tiled`). The authors' test.py
    computes `to_unit(generator(to_signed(image)))` for pictures of 256 x 256 pixels.

    Args:
        image: A PIL image, the path of a picture, an array (H, W, 3) of uint8 or of floats in [0, 1], or a tensor
            (3, H, W) or (B, 3, H, W) in [0, 1] on the generator's device.
        tile: Side of the tiles in pixels. None: as large as memory allows.
        strength: Weight of the painting against the photograph, from 0 to 1.
        preserve_color: Keep the colors of the photograph.
        stroke_size: Size of the strokes relative to what the network paints (see `with_stroke_size`).
        smoothing: Reduces flicker if `image` is the next frame of a video; B must be 1.

    Returns:
        A tensor of the same shape in [0, 1] for a tensor; otherwise a PIL image, RGB, upright and on white.

    Raises:
        FileNotFoundError: There is no such picture.
        ValueError: The picture is damaged, or has another shape, type or range; an option is out of range.

    Examples:
        >>> generator = load_generator("landscape2vangogh")
        >>> translate(torch.rand(1, 3, 60, 80), generator, stroke_size=2).shape
        torch.Size([1, 3, 60, 80])
        >>> translate(Image.new("RGB", (80, 60), "green"), generator).size
        (80, 60)
    """

    def network(picture: Tensor) -> Tensor:
        return to_unit(run_tiled(generator.with_noise(to_signed(picture)), generator, tile, smoothing)).clamp(0, 1)

    batch = to_batch(image, next(generator.parameters()).device)
    if smoothing is not None:
        smoothing.start_frame(batch)
    return like(image, paint(batch, network, strength, preserve_color, stroke_size))


def translate_whole(image: Tensor, generator: Generator) -> Tensor:
    """`translate` without tiles, as an exported file computes it (see `stylekit.networks.export`).

    A generator with a noise channel gets the same fixed noise as in `translate`, which the file contains.
    """
    return to_unit(run_whole(generator.with_noise(to_signed(image)), generator)).clamp(0, 1)


def load_generator(name: str | Path | None = None, direction: Direction = "x2y") -> Generator:
    """Load a trained generator in eval mode.

    Args:
        name: A bundled network, a folder with config.json and model.safetensors, a training run (a folder with G/ and
            F/), an official .pth file, or a Hugging Face Hub id. None: the bundled landscape2vangogh, or
            vangogh2landscape for direction "y2x".
        direction: "x2y" loads G of a training run, "y2x" loads F.

    Raises:
        FileNotFoundError: There are no such weights; the message lists the bundled networks.
        ValueError: The weights are damaged or belong to another network, or "y2x" is requested of a single network.
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
                f"--direction {direction}: {name} is a single network for one direction; expected a training run"
            )
    return weights.load(Generator, found, "a generator", "a training run with G/ and F/")


def translate_files(
    jobs: Sequence[Job], generator: Generator, config: TranslateConfig, device: torch.device | str = "cpu"
) -> Iterator[Outcome]:
    """Translate pictures and videos one by one; each result is written completely or not at all.

    A file that cannot be read does not stop the batch.

    Args:
        generator: It is moved to `device`.

    Raises:
        OSError: A result cannot be written.
    """
    generator = to_device(generator, device)
    look = config.strength, config.preserve_color, config.stroke_size

    def process(image: Tensor) -> Tensor:
        return translate(image, generator, config.tile, *look)

    def process_frames() -> Process:
        smoothing = Smoothing(config.smoothing)
        return lambda frame: translate(frame, generator, untiled(frame), *look, smoothing)

    return process_files(jobs, process, device, config.size, process_frames)
