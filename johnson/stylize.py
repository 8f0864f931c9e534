"""Stylize pictures and videos of any size with a trained network (Johnson et al. 2016)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import torch
from PIL import Image
from torch import Tensor

from johnson.models import TransformerNet
from johnson.options import StylizeConfig
from stylekit.devices import to_device
from stylekit.networks import weights
from stylekit.networks.export import run_whole
from stylekit.networks.noise import fixed_noise
from stylekit.networks.tiling import Smoothing, run_tiled, untiled
from stylekit.pictures.inputs import Picture, like, to_batch
from stylekit.pictures.jobs import Job, Outcome, Process, process_files
from stylekit.pictures.strokes import paint

KIND = "johnson"
"""Subfolder of weights/ with the bundled styles."""


@overload
def stylize(
    image: Tensor,
    network: TransformerNet,
    strength: float = ...,
    preserve_color: bool = ...,
    tile: int | None = ...,
    smoothing: Smoothing | None = ...,
    stroke_size: float = ...,
) -> Tensor: ...
@overload
def stylize(
    image: Picture,
    network: TransformerNet,
    strength: float = ...,
    preserve_color: bool = ...,
    tile: int | None = ...,
    smoothing: Smoothing | None = ...,
    stroke_size: float = ...,
) -> Image.Image: ...
@torch.inference_mode()
def stylize(
    image: Picture | Tensor,
    network: TransformerNet,
    strength: float = 1.0,
    preserve_color: bool = False,
    tile: int | None = None,
    smoothing: Smoothing | None = None,
    stroke_size: float = 1.0,
) -> Tensor | Image.Image:
    """Stylize photographs of any size. Threads may share a network, but not the smoothing.

    Pictures are padded by reflection, and processed in tiles if they are large (see `run_tiled`). Every call uses the
    same input noise (`fixed_noise`).

    Args:
        image: A PIL image, the path of a picture, an array (H, W, 3) of uint8 or of floats in [0, 1], or a tensor
            (3, H, W) or (B, 3, H, W) in [0, 1] on the network's device.
        strength: Weight of the painting against the photograph, from 0 to 1.
        preserve_color: Keep the colors of the photograph.
        tile: Side of the tiles in pixels. None: as large as memory allows.
        smoothing: Reduces flicker if `image` is the next frame of a video; B must be 1.
        stroke_size: Size of the strokes relative to what the network paints (see `with_stroke_size`).

    Returns:
        A tensor of the same shape in [0, 1] for a tensor; otherwise a PIL image, RGB, upright and on white.

    Raises:
        FileNotFoundError: There is no such picture.
        ValueError: The picture is damaged, or has another shape, type or range; an option is out of range.

    Examples:
        >>> network = load_network("starry-night")
        >>> stylize(torch.rand(1, 3, 60, 80), network, strength=0.7).shape
        torch.Size([1, 3, 60, 80])
        >>> stylize(Image.new("RGB", (80, 60), "green"), network).size
        (80, 60)
    """

    def paint_once(picture: Tensor) -> Tensor:
        return run_tiled(_with_fixed_noise(picture, network), network, tile, smoothing).clamp(0, 1)

    batch = to_batch(image, next(network.parameters()).device)
    if smoothing is not None:
        smoothing.start_frame(batch)
    return like(image, paint(batch, paint_once, strength, preserve_color, stroke_size))


def stylize_whole(image: Tensor, network: TransformerNet) -> Tensor:
    """`stylize` without tiles, as an exported file computes it (see `stylekit.networks.export`).

    The network gets the same fixed noise as in `stylize`, which the file contains.
    """
    return run_whole(_with_fixed_noise(image, network), network).clamp(0, 1)


def load_network(name: str | Path = "starry-night") -> TransformerNet:
    """Load a trained network in eval mode.

    Args:
        name: A bundled style, a folder with config.json and model.safetensors, a training run (a folder with model/), a
            .pth file of fast_neural_style, or a Hugging Face Hub id.

    Raises:
        FileNotFoundError: There are no such weights; the message lists the bundled styles.
        ValueError: The weights are damaged or belong to another network.
        OSError: The Hub cannot be reached.
    """
    found = weights.find(name, KIND)
    if isinstance(found, Path) and (found / "model").is_dir():
        found = found / "model"
    return weights.load(TransformerNet, found, "a style network", "a training run with model/")


def _with_fixed_noise(image: Tensor, network: TransformerNet) -> Tensor:
    noise = fixed_noise(image.shape[2], image.shape[3]).to(image)
    return network.with_noise(image, noise.expand(image.shape[0], -1, -1, -1))


def stylize_files(
    jobs: Sequence[Job], network: TransformerNet, config: StylizeConfig, device: torch.device | str = "cpu"
) -> Iterator[Outcome]:
    """Stylize pictures and videos one by one; each result is written completely or not at all.

    A file that cannot be read does not stop the batch.

    Args:
        network: It is moved to `device`.

    Raises:
        OSError: A result cannot be written.
    """
    network = to_device(network, device)

    def process(image: Tensor) -> Tensor:
        return stylize(image, network, config.strength, config.preserve_color, config.tile, None, config.stroke_size)

    def process_frames() -> Process:
        smoothing = Smoothing(config.smoothing)
        look = config.strength, config.preserve_color
        return lambda frame: stylize(frame, network, *look, untiled(frame), smoothing, config.stroke_size)

    return process_files(jobs, process, device, config.size, process_frames)
