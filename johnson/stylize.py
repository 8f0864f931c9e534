"""From photographs to paintings in one pass (Johnson et al. 2016): pictures of any size through a trained network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from johnson import video
from johnson.models import TransformerNet
from johnson.options import StylizeConfig
from stylekit import images, tiling, weights
from stylekit.cli import is_out_of_memory
from stylekit.files import Job, Outcome, paint_files
from stylekit.tiling import MARGIN

KIND = "johnson"
"""The folder in weights/ that the styles which come with the library lie in."""


@torch.inference_mode()
def stylize(
    image: Tensor,
    network: TransformerNet,
    strength: float = 1.0,
    preserve_color: bool = False,
    tile: int | None = None,
) -> Tensor:
    """Paint photographs of any size.

    The picture is continued by its reflection, so that no frame is painted, and worked on in tiles if it is large
    (`stylekit.tiling.paint`). The noise that it takes is the same at every call.

    Args:
        image: (B, 3, H, W) in [0, 1], on the network's device.
        strength: How much of the painting is laid over the photograph, from 0 to 1.
        preserve_color: Keep the colours of the photograph under the luminance of the painting.
        tile: Side of the tiles, in pixels; None: as large as the memory allows.

    Returns:
        (B, 3, H, W) in [0, 1].
    """
    noise = torch.randn(1, 1, *image.shape[2:], generator=torch.Generator().manual_seed(0)).to(image)
    taken = network.with_noise(image, noise.expand(len(image), -1, -1, -1))
    painted = tiling.paint(taken, network, tile).clamp(0, 1)
    if preserve_color:
        painted = images.with_luminance_of(painted, image)
    return torch.lerp(image, painted, strength)


def load_network(name: str | Path = "starry-night") -> TransformerNet:
    """A trained network, ready for `stylize`.

    Args:
        name: A style that comes with the library, a folder with config.json and model.safetensors, a training run (a
            folder with model/), a .pth file of fast_neural_style, or a Hugging Face Hub id.

    Raises:
        FileNotFoundError: There are no such weights; the message lists the styles that come with the library.
        ValueError: They are damaged, or of another network.
        OSError: The Hub cannot be reached.
    """
    found = weights.find(name, KIND)
    if isinstance(found, Path) and (found / "model").is_dir():
        found = found / "model"
    return weights.load(TransformerNet, found, "a network of johnson", "a training run with model")


def stylize_files(
    jobs: Sequence[Job], network: TransformerNet, config: StylizeConfig, device: torch.device | str = "cpu"
) -> Iterator[Outcome]:
    """Paint pictures and videos one by one and write each result, whole or not at all. A bad one does not end the work.

    Raises:
        OSError: A result cannot be written.
    """
    network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def paint(image: Tensor) -> Tensor:
        return stylize(image, network, config.strength, config.preserve_color, config.tile)

    for job in jobs:
        if job.source.suffix.lower() in video.FORMATS:
            yield _stylize_video(job, network, config, device)
        else:
            yield from paint_files([job], paint, device, config.size)


def _stylize_video(job: Job, network: TransformerNet, config: StylizeConfig, device: torch.device | str) -> Outcome:
    with video.Smoothing(network, config.smoothing) as smoothing:

        def paint(frame: Tensor) -> Tensor:
            smoothing.next(frame)
            # Whole: the statistics of a frame are not those of its tiles.
            return stylize(
                frame, network, config.strength, config.preserve_color, tile=max(frame.shape) + 2 * MARGIN + 4
            )

        try:
            before, after = video.paint_video(job.source, job.target, paint, device, config.size)
        except ValueError as error:
            return Outcome(job, error=str(error))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return Outcome(job, error=f"{job.source}: its frames need more memory than there is; try --size 1280")
    return Outcome(job, before, after)
