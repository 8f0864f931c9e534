"""Pictures of any size through a network that keeps their size, in as much memory as there is.

Instance normalisation needs the mean and the variance of a whole picture: a tile that is normalised by its own has
other colours than its neighbour. So they are gathered over all tiles first, layer by layer, and then held; the result
is that of the whole picture.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from stylekit.blocks import EncoderDecoder, InstanceNorm2d, UpsampleConv2d, decode, encode

MARGIN = 32
"""Pixels around a picture that are painted and thrown away; and around a tile, more than the convolutions outside the
residual blocks reach."""

BYTES = 38
"""Of memory that a whole picture takes for each pixel and channel of the first convolution: the last up-sampling has
twice as many channels, once as they are and once with a border, the convolution its workspace, and features of the
encoder may wait to be added."""


def paint(image: Tensor, network: Callable[[Tensor], Tensor], tile: int | None = None) -> Tensor:
    """Run a network on pictures of any size.

    The picture is continued by its reflection, and cropped again afterwards: by `MARGIN` on each side, because a
    network paints a frame where its padding meets the picture, and up to multiples of 4, which two down-samplings need.
    Instance normalisation leaves the margin out when it measures, or it would shift all colours.

    Args:
        image: (B, C, H, W), as the network takes it, on its device.
        network: Keeps height and width, if they are multiples of 4 and at least 8. Large pictures are painted in tiles
            if it has a `model`, an `EncoderDecoder`.
        tile: Side of the tiles, in pixels. None: as large as half of the free memory allows.

    Returns:
        (B, 3, H, W).
    """
    height, width = image.shape[-2:]
    (top, bottom), (left, right) = _padding(height), _padding(width)
    padding = (left, right, top, bottom)
    # Reflection needs more pixels than it adds; a picture of a few pixels is continued by its border instead.
    mode = "reflect" if max(left, right) < width and max(top, bottom) < height else "replicate"
    padded = functional.pad(image, padding, mode=mode)
    norms = [m for m in network.modules() if isinstance(m, InstanceNorm2d)] if isinstance(network, nn.Module) else []
    model = getattr(network, "model", None)
    if isinstance(model, EncoderDecoder):
        tile = tile or _tile_that_fits(model, padded)
        if tile and max(padded.shape[2:]) > tile:
            network = _Tiled(model, tile)
    rows, columns = padded.shape[2:]
    margin = (Fraction(top, rows), Fraction(bottom, rows), Fraction(left, columns), Fraction(right, columns))
    try:
        for norm in norms:
            norm.margin = margin
        return network(padded)[..., top : top + height, left : left + width]
    finally:
        for norm in norms:
            norm.margin = None


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device; on a CPU, in the machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (ValueError, OSError, AttributeError):
        return 4 * 2**30


class _Span(NamedTuple):
    """From where to where a tile goes along one side, and what is looked at around it."""

    start: int
    end: int
    seen_from: int
    seen_to: int


class _Tiled:
    """A network whose encoder and decoder run tile by tile.

    What lies between them, on a sixteenth of the positions, runs on the whole picture.
    """

    def __init__(self, model: EncoderDecoder, tile: int) -> None:
        self.encoder, self.middle, self.decoder = model.parts()
        self.skip = model.skip
        self.tile = tile

    def __call__(self, picture: Tensor) -> Tensor:
        norms = [m for m in (*self.encoder, *self.decoder) if isinstance(m, InstanceNorm2d)]
        try:
            x = self.by_tiles(self.encoder, picture, self.tile, MARGIN)
            for module in self.middle:
                x = module(x)
            return self.by_tiles(self.decoder, x, max(4, self.tile // 4), MARGIN // 4, picture if self.skip else None)
        finally:
            for norm in norms:
                norm.statistics = None

    def by_tiles(
        self, modules: Sequence[nn.Module], x: Tensor, tile: int, margin: int, picture: Tensor | None = None
    ) -> Tensor:
        """All modules on a picture or on features, where `tile` and `margin` are positions of these.

        Args:
            picture: What the features are of, if the encoder's are to be added.
        """
        for i, module in enumerate(modules):
            if isinstance(module, InstanceNorm2d):
                scale = _scale(modules[:i])
                inside = module.inside(int(x.shape[2] * scale), int(x.shape[3] * scale))
                parts = self.parts(modules[:i], x, tile, margin, picture)
                module.statistics = _statistics(
                    part[..., _both(rows, inside[0], scale), _both(columns, inside[1], scale)]
                    for rows, columns, part in parts
                )
        result: Tensor | None = None
        height, width = x.shape[2:]
        for rows, columns, part in self.parts(modules, x, tile, margin, picture):
            scale = _scale(modules)
            if result is None:
                size = (x.shape[0], part.shape[1], int(height * scale), int(width * scale))
                result = torch.empty(size, dtype=part.dtype, device=part.device)
            result[
                ...,
                int(rows.start * scale) : int(rows.end * scale),
                int(columns.start * scale) : int(columns.end * scale),
            ] = part
        return cast(Tensor, result)

    def parts(
        self, modules: Sequence[nn.Module], x: Tensor, tile: int, margin: int, picture: Tensor | None
    ) -> Iterator[tuple[_Span, _Span, Tensor]]:
        """What comes out of the modules for each tile, without the margin."""
        scale = _scale(modules)
        for rows in _spans(x.shape[2], tile, margin):
            for columns in _spans(x.shape[3], tile, margin):
                # The encoder's features, kept for the whole picture, would take most of the memory that tiles save.
                skipped = [] if picture is None else encode(self.encoder, _seen(picture, rows, columns, x))[:-1]
                part = decode(modules, _seen(x, rows, columns, x), skipped)
                yield rows, columns, part[..., _inside(rows, scale), _inside(columns, scale)]


def _seen(picture: Tensor, rows: _Span, columns: _Span, x: Tensor) -> Tensor:
    """A tile of a picture, where the spans are positions of x."""
    scale = picture.shape[2] // x.shape[2]
    rows_seen = slice(rows.seen_from * scale, rows.seen_to * scale)
    return picture[..., rows_seen, columns.seen_from * scale : columns.seen_to * scale]


def _statistics(parts: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel over all tiles, (B, C, 1, 1) each, added up as by Chan et al. (1983)."""
    count = 0
    mean: Any = 0.0
    squares: Any = 0.0
    dtype = torch.float32
    for part in parts:
        dtype = part.dtype
        n = part.shape[2] * part.shape[3]
        if not n:
            continue
        variance, own = torch.var_mean(part.float(), dim=(2, 3), keepdim=True, correction=0)
        difference = own.double() - mean
        squares = squares + variance.double() * n + difference.square() * (count * n / (count + n))
        mean = mean + difference * (n / (count + n))
        count += n
    return mean.to(dtype), (squares / count).to(dtype)


def _spans(length: int, tile: int, margin: int) -> list[_Span]:
    """All about as large as each other, at multiples of 4, where every down-sampling has a position."""
    count = math.ceil(length / tile)
    ends = [round(i * length / count / 4) * 4 for i in range(count)] + [length]
    return [_Span(start, end, max(0, start - margin), min(length, end + margin)) for start, end in pairwise(ends)]


def _inside(span: _Span, scale: float) -> slice:
    start = int((span.start - span.seen_from) * scale)
    return slice(start, start + int((span.end - span.start) * scale))


def _both(span: _Span, inside: slice, scale: float) -> slice:
    """What of a part is inside, where that is given in positions of what comes out."""
    start, end = int(span.start * scale), int(span.end * scale)
    return slice(max(start, inside.start) - start, max(start, min(end, inside.stop)) - start)


def _scale(modules: Sequence[nn.Module]) -> float:
    """How many positions come out for one that goes in, along a side."""
    scale = 1.0
    for module in modules:
        if isinstance(module, UpsampleConv2d | nn.ConvTranspose2d):
            scale *= 2
        elif isinstance(module, nn.Conv2d):
            scale /= module.stride[0]
    return scale


def _tile_that_fits(model: EncoderDecoder, x: Tensor) -> int | None:
    """The side of the largest tile for which half of the free memory is enough; None if the whole picture fits."""
    channels = next(m for m in model if isinstance(m, nn.Conv2d)).out_channels
    each = BYTES * channels * x.shape[0]
    budget = 0.5 * free_memory(x.device)
    if each * x.shape[2] * x.shape[3] <= budget:
        return None
    return max(256, int(math.sqrt(budget / each) - 2 * MARGIN) // 4 * 4)


def _padding(length: int) -> tuple[int, int]:
    """What is added before and behind a side: the margin, or as much of it as can be reflected."""
    padded = max(8, -(-(length + 2 * min(MARGIN, max(0, length - 4))) // 4) * 4)
    return (padded - length) // 2, (padded - length + 1) // 2
