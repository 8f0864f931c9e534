"""A convolution that computes the usual result with less work where PyTorch's own is slow: on CPUs, in float32.

It applies to contiguous tensors, the format that `stylekit.devices.to_device` chooses for CPUs without AMX; it was
measured on one with AVX2 (benchmarks/README.md). In channels_last, in bfloat16 and on GPUs, PyTorch's convolution runs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# With fewer input or output channels, or fewer tiles of 4 x 4 outputs, the transforms cost more than they save.
WINOGRAD_CHANNELS, WINOGRAD_TILES = 64, 32

STRIP = 2**25  # Values in the tiles that are transformed at once (128 MB): larger pictures are processed in strips.

# The transforms of input, kernel and output of Lavin & Gray (2016) for F(4 x 4, 3 x 3).
_INPUT = torch.tensor(
    [
        [4.0, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_KERNEL = torch.tensor([[6.0, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
_OUTPUT = torch.tensor([[1.0, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])

# Both sides of a tile at once: (36, 36), (36, 9) and (16, 36).
_INPUT, _KERNEL, _OUTPUT = (torch.kron(matrix, matrix) for matrix in (_INPUT, _KERNEL, _OUTPUT))


class Conv2d(nn.Conv2d):
    """`nn.Conv2d`, faster for wide 3x3 kernels (`winograd`) and for large kernels with few outputs (`sum_rows`).

    If `plain` is set, PyTorch's convolution runs. It may only be set on a private copy of a network, for export.
    """

    plain: bool = False

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.plain:
            return super()._conv_forward(input, weight, bias)
        outputs, inputs, height, width = weight.shape
        tiles = len(input) * input.shape[2] * input.shape[3] / 16
        wide = (height, width) == (3, 3) and min(outputs, inputs) >= WINOGRAD_CHANNELS and tiles >= WINOGRAD_TILES
        few = height >= 7 and outputs <= 3
        if (
            not (wide or few)
            or (self.stride, self.dilation, self.groups) != ((1, 1), (1, 1), 1)
            or (input.device.type, input.dtype) != ("cpu", torch.float32)
            or torch.is_autocast_enabled("cpu")
            or not input.is_contiguous()
        ):
            return super()._conv_forward(input, weight, bias)
        if any(self.padding):
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            input = functional.pad(input, self._reversed_padding_repeated_twice, mode=mode)
        return (winograd if wide else sum_rows)(input, weight, bias)


def winograd(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A 3x3 convolution by Winograd's algorithm (Lavin & Gray 2016), with a quarter of the multiplications.

    Tiles of 6 x 6 inputs give 4 x 4 outputs. In float32 the result differs from the direct one by up to 1e-4 of its
    standard deviation.

    Shape: (B, C, H, W) and kernels (N, C, 3, 3) -> (B, N, H - 2, W - 2), contiguous; there is no padding.
    """
    batch, inputs, height, width = x.shape
    # A row of tiles holds 36 values for every 4 outputs.
    rows = max(1, STRIP // (9 * batch * inputs * width)) * 4
    strips = [_Winograd.apply(x[:, :, top : top + rows + 2], weight) for top in range(0, height - 2, rows)]
    y: Tensor = torch.cat(strips, dim=2) if len(strips) > 1 else strips[0]
    return y if bias is None else y + bias[:, None, None]


def sum_rows(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A convolution with few outputs: one output for each row of the kernel, then the sum of shifted rows.

    Vector instructions compute 8 or more outputs at once, so three outputs alone waste most of them.

    Shape: (B, C, H, W) and kernels (N, C, K, L) -> (B, N, H - K + 1, W - L + 1), contiguous; there is no padding.
    """
    outputs, inputs, k, _ = weight.shape
    rows = functional.conv2d(x, weight.permute(2, 0, 1, 3).reshape(k * outputs, inputs, 1, -1))
    height = x.shape[2] - k + 1
    y = sum(row[:, :, i : i + height] for i, row in enumerate(rows.split(outputs, dim=1)))
    assert isinstance(y, Tensor)
    return y if bias is None else y + bias[:, None, None]


class _Winograd(torch.autograd.Function):
    """Autograd would spend more time on the gradient of overlapping tiles than on everything else."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        outputs, inputs = weight.shape[:2]
        height, width = x.shape[2] - 2, x.shape[3] - 2
        tiles = (_INPUT @ _split(_pad(x, height, width), 6)).view(36, inputs, -1)
        kernel = (_KERNEL @ weight.permute(2, 3, 0, 1).reshape(9, -1)).view(36, outputs, inputs)
        ctx.save_for_backward(tiles if ctx.needs_input_grad[1] else None, kernel)
        ctx.shape = x.shape
        products = (_OUTPUT @ torch.bmm(kernel, tiles).view(36, -1)).view(
            4, 4, outputs, len(x), -(-height // 4), -(-width // 4)
        )
        return products.permute(3, 2, 4, 0, 5, 1).flatten(4).flatten(2, 3)[..., :height, :width].contiguous()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        tiles, kernel = ctx.saved_tensors
        batch, inputs, height, width = ctx.shape
        outputs = gradient.shape[1]
        gradient = _pad(gradient, height - 2, width - 2)
        rows, columns = gradient.shape[2] // 4, gradient.shape[3] // 4
        products = (_OUTPUT.mT @ _split(gradient, 4)).view(36, outputs, -1)
        to_x = to_weight = None
        if ctx.needs_input_grad[0]:
            parts = (_INPUT.mT @ torch.bmm(kernel.mT, products).view(36, -1)).view(6, 6, inputs, batch, rows, columns)
            # The last two rows and columns of a tile overlap the first of the next one.
            total = _overlap(_overlap(parts.permute(3, 2, 4, 0, 5, 1), 2), 4)
            to_x = total.flatten(4).flatten(2, 3)[..., :height, :width]
        if ctx.needs_input_grad[1]:
            to_weight = (_KERNEL.mT @ torch.bmm(products, tiles.mT).view(36, -1)).view(3, 3, outputs, inputs)
            to_weight = to_weight.permute(2, 3, 0, 1)
        return to_x, to_weight


def _overlap(tiles: Tensor, dim: int) -> Tensor:
    """Add up overlapping tiles of 6, along `dim` + 1: n of them, along `dim`, give n + 1 groups of 4."""
    # Two steps of one addition each: torch.compile takes minutes for more additions to parts of one tensor.
    total = functional.pad(tiles.narrow(dim + 1, 0, 4), (0,) * (2 * (tiles.ndim - dim - 1)) + (0, 1))
    total.narrow(dim, 1, tiles.shape[dim]).narrow(dim + 1, 0, 2).add_(tiles.narrow(dim + 1, 4, 2))
    return total


def _pad(x: Tensor, height: int, width: int) -> Tensor:
    """Zeros below and to the right, up to whole tiles of outputs, of which there are height x width."""
    return functional.pad(x, (0, -width % 4, 0, -height % 4)) if height % 4 or width % 4 else x


def _split(x: Tensor, side: int) -> Tensor:
    """Tiles at every fourth row and column, (side * side, C * B * tiles)."""
    return x.unfold(2, side, 4).unfold(3, side, 4).permute(4, 5, 1, 0, 2, 3).reshape(side * side, -1)
