"""A trained network on pictures of every kind and on files: what `translate` and `stylize` share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from stylekit.devices import to_device
from stylekit.networks.tiling import Smoothing, run_tiled, untiled
from stylekit.options import PictureOptions
from stylekit.pictures.inputs import Picture, like, to_batch
from stylekit.pictures.jobs import Job, Outcome, Process, process_files
from stylekit.pictures.strokes import render

Run = Callable[[Tensor, Any], Tensor]
"""`run_tiled`, or `run_whole` for export: runs a network on (B, 3, H, W), in the range of the network."""
Forward = Callable[[Tensor, Any, Run], Tensor]
"""Runs a network on (B, 3, H, W) in [0, 1] -> the same: `run` with the conversions of the network's range."""


@torch.inference_mode()
def apply_network(
    image: Picture | Tensor,
    network: nn.Module,
    forward: Forward,
    stroke_size: float,
    strength: float,
    preserve_color: bool,
    draft: bool | None,
    tile: int | None,
    smoothing: Smoothing | None,
) -> Tensor | Image.Image:
    """The common part of `translate` and `stylize`, which document the arguments."""
    if draft is None:
        draft = smoothing is None and getattr(network, "draft", False)
    if draft and smoothing is not None:
        raise ValueError("draft is for pictures, not for videos and animations: strokes change from frame to frame")
    weight = next(network.parameters())
    batch = to_batch(image, weight.device, weight.dtype)
    if smoothing is not None:
        smoothing.start_frame(batch)
    run = functools.partial(run_tiled, tile=tile, smoothing=smoothing)
    return like(image, render(batch, lambda x: forward(x, network, run), stroke_size, strength, preserve_color, draft))


def process_with_network(
    jobs: Sequence[Job],
    function: Callable[..., Any],
    network: nn.Module,
    options: PictureOptions,
    device: torch.device | str = "cpu",
) -> Iterator[Outcome]:
    """Process pictures and videos one by one; each result is written completely or not at all.

    A file that cannot be read does not stop the batch; one that cannot be written does (OSError).

    Args:
        function: `translate` or `stylize`.
        network: It is moved to `device`.
    """
    network = to_device(network, device)
    look = {name: getattr(options, name) for name in ("stroke_size", "strength", "preserve_color")}
    look["draft"] = {"auto": None, "on": True, "off": False}[options.draft]

    def process_frames() -> Process:
        smoothing = Smoothing(options.smoothing)
        return lambda frame: function(frame, network, **look, tile=untiled(frame), smoothing=smoothing)

    def process(image: Tensor) -> Tensor:
        return function(image, network, **look, tile=options.tile)

    return process_files(jobs, process, device, options.size, process_frames)
