"""Building blocks of the feed-forward networks (Johnson et al. 2016; Zhu et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from stylekit.networks.convolutions import Conv2d

Interpolation = Literal["bilinear", "nearest"]
Statistics = tuple[Tensor, Tensor]
"""Mean and variance of each channel, (B or 1, C, 1, 1) each."""


class InstanceNorm2d(nn.InstanceNorm2d):
    """Instance normalization (Ulyanov et al. 2016), optionally with statistics from elsewhere.

    If `measure` is set, it computes the mean and variance from the input, so that a tile can be normalized like the
    whole picture. It may only be set on a private copy of a network (`stylekit.networks.tiling.private_copy`).

    If `limit` is set, the output is limited to [-limit, limit]. Without it, a network can learn to hide the contrast of
    its features behind one huge value, which becomes a black or white blot in the picture (Karras et al. 2020,
    StyleGAN2, section 2).

    Shape: (B, C, H, W) -> the same. A single position (H = W = 1) has no variance and gives 0 before the affine map.
    """

    measure: Callable[[Tensor], Statistics] | None = None
    limit: float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        normalized = self._normalize(x)
        return normalized.clamp(-self.limit, self.limit) if self.limit else normalized

    def _normalize(self, x: Tensor) -> Tensor:
        if self.measure is not None:
            mean, variance = self.measure(x)
            scale, shift = torch.rsqrt(variance + self.eps), mean.new_zeros(())
            if self.weight is not None:
                scale, shift = scale * self.weight[:, None, None], self.bias[:, None, None]
            return torch.addcmul(shift - mean * scale, x, scale)
        # nn.InstanceNorm2d.forward raises an error for a single position, to which tiny pictures are reduced.
        if x.is_contiguous():
            # Groups of one channel are the same, in half the time on CPUs; channels_last takes twice as long with them.
            return torch.group_norm(x, x.shape[1], self.weight, self.bias, self.eps)
        cudnn = torch.backends.cudnn.enabled
        return torch.instance_norm(x, self.weight, self.bias, None, None, True, 0.0, self.eps, cudnn)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around an identity skip (He et al. 2016).

    Johnson et al. crop the skip; we pad by reflection instead, which keeps height and width. There is no ReLU after the
    sum.

    Shape: (B, channels, H, W) -> the same. H and W at least 2, since reflection needs a neighbor.

    Args:
        dropout: Insert a Dropout(0.5) between the two convolutions, as some published generators do.
        affine: Whether the normalizations have a scale and a shift per channel.
    """

    def __init__(self, channels: int, dropout: bool = False, affine: bool = False) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            Conv2d(channels, channels, 3),
            InstanceNorm2d(channels, affine=affine),
            nn.ReLU(inplace=True),
            *([nn.Dropout(0.5)] if dropout else []),
            nn.ReflectionPad2d(1),
            Conv2d(channels, channels, 3),
            InstanceNorm2d(channels, affine=affine),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class DownsampleConv2d(nn.Conv2d):
    """A 3x3 convolution with stride 2, reflection padding and a [1, 2, 1] blur of its input (Zhang 2019).

    A strided convolution without a filter aliases: detail beyond the Nyquist limit of its output turns into a regular
    pattern, which shows in flat regions of the result and jumps when the picture is shifted by a pixel.

    Shape: (B, in_channels, H, W) -> (B, out_channels, H / 2, W / 2), for even H and W.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, stride=2, padding=1, padding_mode="reflect")
        # No arithmetic with tensors: on the meta device it would import torch._dynamo, in two seconds.
        kernel = torch.tensor([[a * b / 16 for a in (1, 2, 1)] for b in (1, 2, 1)])
        kernel = kernel.expand(in_channels, 1, 3, 3).contiguous()
        self.register_buffer("blur", kernel, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        padded = functional.pad(x, (1, 1, 1, 1), mode="reflect")
        return super().forward(functional.conv2d(padded, cast(Tensor, self.blur), groups=x.shape[1]))


class UpsampleConv2d(Conv2d):
    """Up-sampling by 2, then a 3x3 convolution with reflection padding.

    Every output pixel depends on equally many inputs, which avoids the checkerboard of transposed convolutions (Odena
    et al. 2016). Nearest-neighbor up-sampling, as in published networks, avoids it too, but causes fine woven patterns
    in flat areas: in the sky and shadows of one trained generator, their standard deviation was four times as high as
    with bilinear up-sampling.

    Shape: (B, in_channels, H, W) -> (B, out_channels, 2 H, 2 W).
    """

    def __init__(self, in_channels: int, out_channels: int, mode: Interpolation = "bilinear") -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, padding_mode="reflect")
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(functional.interpolate(x, scale_factor=2.0, mode=self.mode))


class EncoderDecoder(nn.Sequential):
    """An encoder (down-sampling), residual blocks (the middle) and a decoder (up-sampling) in sequence.

    The middle starts at the first `ResidualBlock`, the decoder at the first up-sampling layer.

    Args:
        skip: Add the output of each ReLU of the encoder to that of the decoder at the same resolution. U-Net
            (Ronneberger et al. 2015) concatenates them; addition adds no parameters but needs equal channel counts.
    """

    def __init__(self, *modules: nn.Module, skip: bool = False) -> None:
        super().__init__(*modules)
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        if not self.skip:
            return decode(self, x)
        encoder, middle, decoder = self.parts()
        *features, x = encode(encoder, x)
        for module in middle:
            x = module(x)
        return decode(decoder, x, features)

    def parts(self) -> tuple[list[nn.Module], list[nn.Module], list[nn.Module]]:
        """The modules of the encoder, the middle and the decoder."""
        modules = list(self)
        end = next(i for i, m in enumerate(modules) if isinstance(m, UpsampleConv2d | nn.ConvTranspose2d))
        start = next((i for i, m in enumerate(modules) if isinstance(m, ResidualBlock)), end)
        return modules[:start], modules[start:end], modules[end:]


def encode(modules: Iterable[nn.Module], x: Tensor) -> list[Tensor]:
    """Run an encoder and return the output of each ReLU."""
    features = []
    for module in modules:
        x = module(x)
        if isinstance(module, nn.ReLU):
            features.append(x)
    return features


def decode(modules: Iterable[nn.Module], x: Tensor, features: Sequence[Tensor] = ()) -> Tensor:
    """Run a decoder and add the features of the encoder, last ones first, to the outputs of its ReLUs."""
    remaining = list(features)
    for module in modules:
        x = module(x)
        if remaining and isinstance(module, nn.ReLU):
            x = x + remaining.pop()
    return x


def normal_init(module: nn.Module, std: float = 0.02) -> None:
    """Draw the weights of a convolution from N(0, std) and set its bias to 0; for `network.apply(normal_init)`.

    Zhu et al. (2017, appendix 7.1) initialize generators and discriminators with std = 0.02.
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and not module.weight.is_meta:
        nn.init.normal_(module.weight, 0.0, std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def describe_sizes(networks: Mapping[str, nn.Module]) -> str:
    """The number of parameters of each network, in one line."""
    return "parameters of " + ", ".join(f"{name}: {count_parameters(n):,}" for name, n in networks.items())


def count_parameters(network: nn.Module) -> int:
    """The number of parameters of a network."""
    return sum(parameter.numel() for parameter in network.parameters())
