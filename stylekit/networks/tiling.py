"""Run a network on pictures of any size, in tiles if memory is short.

Instance normalization needs the mean and variance of the whole picture: a tile normalized with its own statistics would
differ in color from its neighbors. The statistics are therefore accumulated over all tiles, layer by layer, and then
kept fixed, which gives the same result as processing the whole picture at once.

The network that the caller passes is never modified: every call sets its statistics on a private copy of the module
tree, so several threads can share a network.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from stylekit.devices import free_memory
from stylekit.distributed import unwrap
from stylekit.networks.blocks import EncoderDecoder, InstanceNorm2d, Statistics, UpsampleConv2d, decode, encode

N = TypeVar("N", bound=nn.Module)

MARGIN = 32
"""Pixels of context around a picture and around each tile, cropped from the output. This exceeds the receptive field of
the encoder and of the decoder."""

BYTES = 38
"""Peak memory for a whole picture, in bytes per pixel and channel of the first convolution. The peak is at the last
up-sampling: twice as many channels, with and without padding, the convolution's workspace and the skip features."""

CUT = 0.15  # Mean absolute difference between two consecutive frames, in [0, 1], above which a new scene starts.


class Smoothing:
    """Averages the statistics of instance normalization over the frames of a video, which reduces flicker.

    Noise or a moving object changes the statistics, and with them the colors of the whole frame. Use one object per
    video and network, and process the frames in order. `decay` is the weight of the previous frames, in [0, 1).
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.statistics: dict[str, Statistics] = {}
        self.thumbnail: Tensor | None = None

    def start_frame(self, frame: Tensor) -> None:
        """Announce the next frame, (1, 3, H, W) in [0, 1]. If it starts a new scene, the average starts anew."""
        thumbnail = functional.interpolate(frame, size=(32, 32), mode="area")
        if self.thumbnail is not None and (thumbnail - self.thumbnail).abs().mean() > CUT:
            self.statistics.clear()
        self.thumbnail = thumbnail

    def update(self, name: str, statistics: Statistics) -> Statistics:
        """Add the statistics of the module `name` to its moving average and return the average."""
        if name in self.statistics:
            (mean, variance), (old_mean, old_variance) = statistics, self.statistics[name]
            statistics = torch.lerp(mean, old_mean, self.decay), torch.lerp(variance, old_variance, self.decay)
        self.statistics[name] = statistics
        return statistics


class Side:
    """One side of a picture and its padding: the margin, as far as reflection allows, up to a multiple of 4 and to 8.

    Only positive integers are divided, since ONNX rounds toward zero.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        # Conditions, since an export would keep min and max of a symbolic length.
        margin = MARGIN if length >= MARGIN + 4 else max(0, length - 4)
        self.total = (length + 2 * margin + 3) // 4 * 4 if length > 4 else 8
        self.before = (self.total - length) // 2
        self.after = self.total - length - self.before

    def inside(self, size: int) -> slice:
        """The positions that are not padding, in features with `size` positions along this side."""
        scale = self.total // size
        return slice(self.before // scale, size - self.after // scale)


class Span(NamedTuple):
    """The extent of a tile along one side, without and with the context around it."""

    start: int
    end: int
    outer_start: int
    outer_end: int

    def scaled(self, scale: float) -> slice:
        """The tile within the whole, at another resolution."""
        return slice(int(self.start * scale), int(self.end * scale))

    def inner(self, scale: float) -> slice:
        """The tile without its context within the tile with context, at another resolution."""
        return slice(int((self.start - self.outer_start) * scale), int((self.end - self.outer_start) * scale))


def spans(length: int, tile: int, margin: int, step: int) -> list[Span]:
    """Tiles of nearly equal length that start at multiples of `step`, so that strided layers stay aligned."""
    count = max(1, min(math.ceil(length / tile), length // step))
    ends = [round(i * length / count / step) * step for i in range(count)] + [length]
    return [
        Span(start, end, max(0, start - margin), min(length, end + margin)) for start, end in itertools.pairwise(ends)
    ]


def private_copy(network: N) -> N:
    """Copy the module tree of a network, in eval mode; the copy shares all parameters, buffers and hooks.

    Attributes set on the copy do not affect the original. torch.compile and DDP are removed, since they would run the
    original modules. The cost is 0.01 ms per module; copy.deepcopy with shared tensors takes 16 times as long.
    """
    twin = copy.copy(unwrap(network))
    twin.training = False
    twin._modules = {name: child and private_copy(child) for name, child in twin._modules.items()}
    return cast(N, twin)


def run_tiled(image: Tensor, network: nn.Module, tile: int | None = None, smoothing: Smoothing | None = None) -> Tensor:
    """Run a network in eval mode on pictures of any size. Threads may share the network, but not the smoothing.

    The picture is padded by reflection, by `MARGIN` on each side to avoid a visible frame from the padding inside the
    network, and to a multiple of 4. The output is cropped. Normalization ignores the padding, which would shift colors.

    Args:
        image: (B, 3, H, W), in the range of the network, on its device; the result has the same shape.
        network: Has an `EncoderDecoder` named `model`, and methods `with_noise(image)`, which makes the input of
            `model`, and `finish(output, input)`, which makes the result from its output.
        tile: Side of the tiles in pixels. None: the largest for which half of the free memory suffices.
        smoothing: Averages the statistics with those of the previous frames of a video.
    """
    rows, columns = Side(image.shape[2]), Side(image.shape[3])
    painter: Any = private_copy(network)
    for name, module in painter.named_modules():
        if isinstance(module, InstanceNorm2d):
            module.measure = _Measure(name, rows, columns, smoothing)
    # Reflection needs more pixels than it adds; tiny pictures repeat their border instead.
    mode = "reflect" if columns.after < columns.length and rows.after < rows.length else "replicate"
    padding = (columns.before, columns.after, rows.before, rows.after)
    x = functional.pad(painter.with_noise(image), padding, mode=mode)
    tile = tile or _largest_tile(painter.model, x)
    model = _Tiled(painter.model, tile) if tile and max(x.shape[2:]) > tile else painter.model
    output: Tensor = painter.finish(model(x), x)
    return output[..., rows.inside(rows.total), columns.inside(columns.total)]


def untiled(picture: Tensor) -> int:
    """A side for which `run_tiled` never splits the picture: the frames of a video are all processed alike."""
    return max(picture.shape) + 2 * MARGIN + 4


@dataclass(frozen=True)
class _Measure:
    """Computes the statistics of a normalization layer without the padding of the picture."""

    name: str
    rows: Side
    columns: Side
    smoothing: Smoothing | None

    def __call__(self, x: Tensor) -> Statistics:
        return self.smooth(_mean_variance(x[..., self.rows.inside(x.shape[2]), self.columns.inside(x.shape[3])]))

    def smooth(self, statistics: Statistics) -> Statistics:
        return self.smoothing.update(self.name, statistics) if self.smoothing else statistics


class _Tiled:
    """Runs the encoder and the decoder in tiles, and the middle, at 1/16 of the pixels, on the whole picture.

    Modifies the normalization layers of the model, which must be a private copy.
    """

    def __init__(self, model: EncoderDecoder, tile: int) -> None:
        self.encoder, self.middle, self.decoder = model.parts()
        self.skip = model.skip
        self.tile = tile

    def __call__(self, picture: Tensor) -> Tensor:
        x = self.run(self.encoder, picture, self.tile, MARGIN)
        for module in self.middle:
            x = module(x)
        return self.run(self.decoder, x, max(4, self.tile // 4), MARGIN // 4, picture if self.skip else None)

    def run(
        self, modules: Sequence[nn.Module], x: Tensor, tile: int, margin: int, picture: Tensor | None = None
    ) -> Tensor:
        """Run modules in tiles; tile and margin are in positions of x. The features of `picture` are added."""
        height, width = x.shape[2:]
        for i, module in enumerate(modules):
            if isinstance(module, InstanceNorm2d):
                scale = _scale(modules[:i])
                measure = cast(_Measure, module.measure)
                inside = measure.rows.inside(int(height * scale)), measure.columns.inside(int(width * scale))
                parts = self.parts(modules[:i], x, tile, margin, picture)
                statistics = measure.smooth(
                    _statistics(
                        part[..., _overlap(rows, inside[0], scale), _overlap(columns, inside[1], scale)]
                        for rows, columns, part in parts
                    )
                )
                module.measure = lambda _, fixed=statistics: fixed
        scale = _scale(modules)
        result = x.new_empty(0)
        for rows, columns, part in self.parts(modules, x, tile, margin, picture):
            if not len(result):
                result = part.new_empty((*part.shape[:2], int(height * scale), int(width * scale)))
            result[..., rows.scaled(scale), columns.scaled(scale)] = part
        return result

    def parts(
        self, modules: Sequence[nn.Module], x: Tensor, tile: int, margin: int, picture: Tensor | None
    ) -> Iterator[tuple[Span, Span, Tensor]]:
        """The output of the modules for each tile, without context."""
        scale = _scale(modules)
        for rows, columns in itertools.product(*(spans(side, tile, margin, 4) for side in x.shape[2:])):
            # Recomputed per tile: for the whole picture, these features would take most of the memory that tiles save.
            features = [] if picture is None else encode(self.encoder, _crop(picture, rows, columns, x))[:-1]
            part = decode(modules, _crop(x, rows, columns, x), features)
            yield rows, columns, part[..., rows.inner(scale), columns.inner(scale)]


def _crop(picture: Tensor, rows: Span, columns: Span, x: Tensor) -> Tensor:
    """A tile of a picture with its context; the spans are in positions of x."""
    scale = picture.shape[2] // x.shape[2]
    outer_rows = slice(rows.outer_start * scale, rows.outer_end * scale)
    return picture[..., outer_rows, columns.outer_start * scale : columns.outer_end * scale]


def _mean_variance(x: Tensor) -> Statistics:
    """Mean and variance of each channel; `torch.var_mean` takes three times as long on CPUs."""
    mean = x.mean(dim=(2, 3), keepdim=True)
    return mean, (x - mean).square_().mean(dim=(2, 3), keepdim=True)


def _statistics(parts: Iterator[Tensor]) -> Statistics:
    """Mean and variance of each channel over all tiles, combined as in Chan et al. (1983)."""
    count, mean, squares, dtype = 0, cast(Tensor, 0.0), cast(Tensor, 0.0), torch.float32
    for part in parts:
        dtype = part.dtype
        if n := part.shape[2] * part.shape[3]:
            own, variance = _mean_variance(part.float())
            difference = own.double() - mean
            squares = squares + variance.double() * n + difference.square() * (count * n / (count + n))
            mean = mean + difference * (n / (count + n))
            count += n
    return mean.to(dtype), (squares / count).to(dtype)


def _overlap(span: Span, inside: slice, scale: float) -> slice:
    """The positions of a tile's output that lie inside a range of positions of the whole output."""
    tile = span.scaled(scale)
    return slice(max(tile.start, inside.start) - tile.start, max(tile.start, min(tile.stop, inside.stop)) - tile.start)


def _scale(modules: Sequence[nn.Module]) -> float:
    """Output size of the modules relative to their input size."""
    scale = 1.0
    for module in modules:
        if isinstance(module, UpsampleConv2d | nn.ConvTranspose2d):
            scale *= 2
        elif isinstance(module, nn.Conv2d):
            scale /= module.stride[0]
    return scale


def _largest_tile(model: EncoderDecoder, x: Tensor) -> int | None:
    """Side of the largest tile for which half of the free memory suffices; None if the whole picture fits."""
    channels = next(m for m in model if isinstance(m, nn.Conv2d)).out_channels
    per_pixel = BYTES * channels * x.shape[0]
    budget = 0.5 * free_memory(x.device)
    if per_pixel * x.shape[2] * x.shape[3] <= budget:
        return None
    return max(256, int(math.sqrt(budget / per_pixel) - 2 * MARGIN) // 4 * 4)
