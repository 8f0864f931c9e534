"""Run a network on pictures of any size, in tiles if memory is short.

Instance normalization needs the mean and variance of the whole picture: a tile normalized with its own statistics would
differ in color from its neighbors. The statistics are therefore accumulated over all tiles, layer by layer, and then
kept fixed, which gives the same result as processing the whole picture at once, up to rounding errors.

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
from tqdm import tqdm

from stylekit.devices import free_memory
from stylekit.distributed import is_main, unwrap
from stylekit.networks.blocks import (
    EncoderDecoder,
    InstanceNorm2d,
    ResidualBlock,
    Statistics,
    UpsampleConv2d,
    decode,
    encode,
)

N = TypeVar("N", bound=nn.Module)

_BAR = "{percentage:3.0f}%|{bar}| {elapsed}<{remaining}"

MARGIN = 32
"""Pixels of context around a picture and around each tile, cropped from the output. This exceeds the receptive field of
the encoder and of the decoder. Around a picture, a network may need less: its attribute `margin`."""

BYTES = 38
"""Peak memory for a whole picture, in bytes per pixel and channel of the first convolution. The peak is at the last
up-sampling: twice as many channels, with and without padding, the convolution's workspace and the skip features."""

BUDGET = 2**31
"""Memory in bytes up to which a picture runs in one piece. Features of half of this are stored in half precision."""

TILE = 256
"""Side of the tiles of larger pictures in pixels."""

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

    def __init__(self, length: int, margin: int = MARGIN) -> None:
        self.length = length
        # Conditions, since an export would keep min and max of a symbolic length.
        margin = margin if length >= margin + 4 else max(0, length - 4)
        self.total = (length + 2 * margin + 3) // 4 * 4 if length > 4 else 8
        self.before = (self.total - length) // 2
        self.after = self.total - length - self.before

    def inside(self, size: int) -> slice:
        """The positions that are not padding, in features with `size` positions along this side."""
        scale = self.total // size
        return slice(self.before // scale, size - self.after // scale)


def sides(image: Tensor, network: nn.Module) -> tuple[Side, Side]:
    """Rows and columns of a picture (B, C, H, W) with the margin that a network needs."""
    margin = getattr(network, "margin", MARGIN)
    return Side(image.shape[2], margin), Side(image.shape[3], margin)


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


def run_tiled(
    image: Tensor, network: nn.Module, tile: int | None = None, smoothing: Smoothing | None = None, prefix: str = ""
) -> Tensor:
    """Run a network in eval mode on pictures of any size. Threads may share the network, but not the smoothing.

    The picture is padded by reflection, by the `margin` of the network, else `MARGIN`, on each side to avoid a visible
    frame from the padding inside the network, and to a multiple of 4. The output is cropped. Normalization ignores the
    padding, which would shift colors.

    Args:
        image: (B, 3, H, W), in the range of the network, on its device; the result has the same shape.
        network: Has an `EncoderDecoder` named `model`, and methods `with_noise(image)`, which makes the input of
            `model`, and `finish(output, input)`, which makes the result from its output.
        tile: Side of the tiles in pixels. None: `TILE` if the whole picture needs more than `BUDGET` or than half of
            the free memory.
        smoothing: Averages the statistics with those of the previous frames of a video.
        prefix: Distinguishes networks that share the smoothing.
    """
    rows, columns = sides(image, network)
    painter: Any = private_copy(network)
    for name, module in painter.named_modules():
        if isinstance(module, InstanceNorm2d):
            module.measure = _Measure(prefix + name, rows, columns, smoothing)
    # Reflection needs more pixels than it adds; tiny pictures repeat their border instead.
    mode = "reflect" if columns.after < columns.length and rows.after < rows.length else "replicate"
    padding = (columns.before, columns.after, rows.before, rows.after)
    x = functional.pad(painter.with_noise(image), padding, mode=mode)
    tile = tile or (max(x.shape[2:]) if _fits(painter.model, x) else TILE)
    output: Tensor = _Tiled(painter, tile)(x) if max(x.shape[2:]) > tile else painter.finish(painter.model(x), x)
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


class _Stage(NamedTuple):
    """Modules that run in one pass over the tiles, up to a normalization, which needs the statistics of all tiles."""

    modules: list[nn.Module]
    norm: InstanceNorm2d | None
    """The normalization that follows."""
    before: float
    after: float
    """Resolution of input and output relative to the picture."""
    part: str
    """encoder, block or decoder."""

    @property
    def kept(self) -> bool:
        """Whether the output is stored. At full resolution it would take most of the memory: it is computed twice."""
        return self.norm is None or self.after < 1 or self.norm.num_features == 3


def _stages(model: EncoderDecoder) -> Iterator[_Stage]:
    encoder, middle, decoder = model.parts()
    blocks = [("block", list(cast(ResidualBlock, block).conv_block)) for block in middle]
    before = 1.0
    for part, modules in (("encoder", encoder), *blocks, ("decoder", decoder)):
        start = 0
        ends = [i for i, module in enumerate(modules) if isinstance(module, InstanceNorm2d)] + [len(modules)]
        for end in ends:
            norm = cast(InstanceNorm2d, modules[end]) if end < len(modules) else None
            stage = _Stage(modules[start:end], norm, before, before * _scale(modules[start:end]), part)
            yield stage
            if stage.kept:
                start, before = end, stage.after


class _Tiled:
    """Runs a network in stages, each in tiles. Features between stages are stored, in half precision if they are large.

    Modifies the normalization layers of the painter, which must be a private copy.
    """

    def __init__(self, painter: Any, tile: int) -> None:
        self.painter = painter
        self.tile = tile
        self.skipped: list[nn.Module] = []  # The modules that compute the features for the decoder.
        if painter.model.skip:
            encoder = painter.model.parts()[0]
            self.skipped = encoder[: [i for i, m in enumerate(encoder) if isinstance(m, nn.ReLU)][-2] + 1]

    def __call__(self, picture: Tensor) -> Tensor:
        stages = list(_stages(self.painter.model))
        channels = max(stage.norm.num_features * stage.after**2 for stage in stages if stage.norm and stage.kept)
        # At most one and a half times as many features are stored at once.
        self.half = picture.dtype == torch.float32 and 6 * channels * picture.numel() / picture.shape[1] > BUDGET / 2
        total = picture.shape[2] * picture.shape[3] * sum(stage.after**2 for stage in stages)
        hidden = None if is_main() else True
        x, shift = picture, picture.new_zeros(1, 1, 1, 1)
        start = x  # `start` is the input of a residual block.
        with tqdm(total=total, bar_format=_BAR, disable=hidden, delay=1, leave=False) as bar:
            for stage in stages:
                output, offset = self.run(stage, x, shift, picture, bar)
                if stage.kept:
                    x, shift = output if stage.norm or stage.part != "block" else start.add_(output), offset
                    start = x if stage.part != "block" else start
                del output
        result = torch.empty_like(x)
        for rows, columns in _tiles(x, self.tile, MARGIN):
            finished = self.painter.finish(_crop(x, rows, columns, x), _crop(picture, rows, columns, x)[:, :3])
            result[..., rows.scaled(1), columns.scaled(1)] = finished[..., rows.inner(1), columns.inner(1)]
        return result

    def run(self, stage: _Stage, x: Tensor, shift: Tensor, picture: Tensor, bar: tqdm[Any]) -> tuple[Tensor, Tensor]:
        """The output of a stage without an offset, and this; both are empty if the output is not kept.

        Sets the statistics of the normalization that follows.
        """
        height, width = (int(side * stage.after) for side in picture.shape[2:])
        scale = stage.after / stage.before
        # Features at a quarter of the resolution are small. The context covers the modules of each stage.
        tile = self.tile * (1 if max(stage.before, stage.after) >= 0.5 else 2)
        context = 16 if self.skipped else 8
        measure = cast(_Measure, stage.norm.measure) if stage.norm else None
        skip = self.skipped and stage.part == "decoder" and any(isinstance(m, nn.ReLU) for m in stage.modules)
        measured: list[tuple[int, Tensor, Tensor]] = []
        result = offset = x.new_empty(0)
        for rows, columns in _tiles(x, int(tile * stage.before), int(context * stage.before)):
            # Recomputed per tile: for the whole picture, these features would take most of the memory that tiles save.
            features = encode(self.skipped, _crop(picture, rows, columns, x)) if skip else []
            part = decode(stage.modules, _crop(x, rows, columns, x) + shift, features)
            part = part[..., rows.inner(scale), columns.inner(scale)]
            if measure:
                inside = _overlap(rows, measure.rows.inside(height), scale)
                values = part[..., inside, _overlap(columns, measure.columns.inside(width), scale)]
                values = values.to(torch.promote_types(values.dtype, torch.float32))
                if values.numel():
                    measured.append((values.shape[2] * values.shape[3], *_mean_variance(values)))
            if stage.kept:
                if not len(result):
                    # Half precision rounds small values less.
                    offset = part.mean((2, 3), keepdim=True) if stage.norm else part.new_zeros(1, 1, 1, 1)
                    dtype = torch.float16 if self.half and part.shape[1] > 3 else part.dtype
                    result = part.new_empty((*part.shape[:2], height, width), dtype=dtype)
                result[..., rows.scaled(scale), columns.scaled(scale)] = part - offset
            bar.update(part.shape[2] * part.shape[3])
        if measure and stage.norm:
            mean, variance = (statistic.to(x.device, picture.dtype) for statistic in _combined(measured))
            statistics = measure.smooth((mean, variance))
            stage.norm.measure = lambda _: statistics
        return result, offset


def _tiles(x: Tensor, tile: int, margin: int) -> Iterator[tuple[Span, ...]]:
    return itertools.product(*(spans(side, tile, margin, 4) for side in x.shape[2:]))


def _crop(picture: Tensor, rows: Span, columns: Span, x: Tensor) -> Tensor:
    """A tile of a picture with its context; the spans are in positions of x."""
    scale = picture.shape[2] // x.shape[2]
    outer_rows = slice(rows.outer_start * scale, rows.outer_end * scale)
    return picture[..., outer_rows, columns.outer_start * scale : columns.outer_end * scale]


def _mean_variance(x: Tensor) -> Statistics:
    """Mean and variance of each channel; `torch.var_mean` takes three times as long on CPUs."""
    mean = x.mean(dim=(2, 3), keepdim=True)
    return mean, (x - mean).square_().mean(dim=(2, 3), keepdim=True)


def _combined(parts: Sequence[tuple[int, Tensor, Tensor]]) -> Statistics:
    """Mean and variance of each channel over all tiles, from the number of positions, mean and variance of each."""
    counts, means, variances = (
        torch.stack([torch.as_tensor(v).cpu().double() for v in x]) for x in zip(*parts, strict=True)
    )
    weights = (counts / counts.sum()).view(-1, 1, 1, 1, 1)
    mean = (weights * means).sum(0)
    return mean, (weights * (variances + (means - mean).square())).sum(0)


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


def _fits(model: EncoderDecoder, x: Tensor) -> bool:
    """Whether a picture runs in one piece, with at most `BUDGET` and half of the free memory."""
    channels = next(m for m in model if isinstance(m, nn.Conv2d)).out_channels
    return BYTES * channels * x.numel() / x.shape[1] <= min(BUDGET, 0.5 * free_memory(x.device))
