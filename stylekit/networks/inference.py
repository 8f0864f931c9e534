"""A trained network on pictures of every kind and on files: what `translate` and `stylize` share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn

from stylekit.devices import to_device
from stylekit.networks.tiling import Smoothing, run_tiled, untiled
from stylekit.options import Keep, PictureOptions, check_weights
from stylekit.pictures.inputs import Picture, like, to_batch
from stylekit.pictures.jobs import Job, Outcome, Process, process_files
from stylekit.pictures.strokes import render

N = TypeVar("N", bound=nn.Module)
Networks: TypeAlias = N | str | Path | Mapping[Any, float]
"""A network, its name or path, or a mapping from several of these to weights."""
Run = Callable[[Tensor, Any], Tensor]
"""`run_tiled`, or `run_whole` for export: runs a network on (B, 3, H, W), in the range of the network."""
Forward = Callable[[Tensor, Any, Run], Tensor]
"""Runs a network on (B, 3, H, W) in [0, 1] -> the same: `run` with the conversions of the network's range."""


def load_networks(given: Networks[N], kind: type[N], load: Callable[[Any], N]) -> dict[N, float]:
    """Networks of a kind, with weights that sum to 1."""
    weights: Mapping[Any, float] = given if isinstance(given, Mapping) else {given: 1.0}
    check_weights("weights of networks", list(weights.values()) or [0.0])
    total = sum(weights.values())
    return {name if isinstance(name, kind) else load(name): weight / total for name, weight in weights.items()}


@torch.inference_mode()
def apply_networks(
    image: Picture | Tensor,
    networks: Mapping[Any, float],
    forward: Forward,
    stroke_size: float,
    strength: float,
    preserve_color: bool,
    draft: bool | None,
    mask: Picture | Tensor | None,
    keep: Keep | None,
    tile: int | None,
    smoothing: Smoothing | None,
) -> Tensor | Image.Image:
    """The common part of `translate` and `stylize`, which document the arguments."""
    if draft is None:
        draft = smoothing is None and any(getattr(network, "draft", False) for network in networks)
    if smoothing is not None and (draft or keep):
        option, change = ("draft", "strokes change") if draft else ("keep", "faces are lost and found")
        raise ValueError(f"{option} is for pictures, not for videos and animations: {change} from frame to frame")
    weight = next(next(iter(networks)).parameters())
    batch = to_batch(image, weight.device, weight.dtype)
    if smoothing is not None:
        smoothing.start_frame(batch)
    prefixes = {network: f"{i}." for i, network in enumerate(networks)}

    def run(x: Tensor, network: nn.Module) -> Tensor:
        return run_tiled(x, network, tile, smoothing, prefixes[network])

    def paint(x: Tensor) -> Tensor:
        weighted = (forward(x, network, run).mul_(share) for network, share in networks.items())
        return functools.reduce(Tensor.add_, weighted).clamp_(0, 1)

    return like(image, render(batch, paint, stroke_size, strength, preserve_color, draft, mask, keep))


def process_with_network(
    jobs: Sequence[Job],
    function: Callable[..., Any],
    networks: Mapping[Any, float],
    options: PictureOptions,
    device: torch.device | str = "cpu",
) -> Iterator[Outcome]:
    """Process pictures and videos one by one; each result is written completely or not at all.

    A file that cannot be read does not stop the batch; one that cannot be written does (OSError).

    Args:
        function: `translate` or `stylize`.
        networks: Result of `load_networks`. They are moved to `device`.
    """
    networks = {to_device(network, device): share for network, share in networks.items()}
    look = {name: getattr(options, name) for name in ("stroke_size", "strength", "preserve_color", "keep")}
    if options.mask is not None:
        look["mask"] = to_batch(options.mask)
        if Path(options.mask).resolve() in {job.target.resolve() for job in jobs}:
            raise ValueError(f"{options.mask} is the mask and is never replaced; choose another --output")
    look["draft"] = {"auto": None, "on": True, "off": False}[options.draft]

    def process_frames() -> Process:
        smoothing = Smoothing(options.smoothing)
        return lambda frame: function(frame, networks, **look, tile=untiled(frame), smoothing=smoothing)

    def process(image: Tensor) -> Tensor:
        return function(image, networks, **look, tile=options.tile)

    return process_files(jobs, process, device, options.size, process_frames)
