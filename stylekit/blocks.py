"""The blocks that the feed-forward networks are made of (Johnson et al. 2016; Zhu et al. 2017)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Interpolation = Literal["bilinear", "nearest"]


class InstanceNorm2d(nn.InstanceNorm2d):
    """Normalise each channel of each picture (Ulyanov et al. 2016), with its own statistics or with given ones.

    With `statistics = (mean, variance)`, each of shape (B or 1, C, 1, 1), these are used instead of those of the input:
    a part of a picture can then be normalised as the whole picture is. With `margin`, the shares of height, height,
    width and width that were added above, below, left and right of a picture, it is normalised as if they had not been.
    `None`, the default of both, is the ordinary layer.

    Shape: (B, C, H, W) -> the same. A single position (H = W = 1) has no spread: its output is 0 before the affine map.
    """

    statistics: tuple[Tensor, Tensor] | None = None
    margin: tuple[Fraction, Fraction, Fraction, Fraction] | None = None

    def inside(self, height: int, width: int) -> tuple[slice, slice]:
        """The rows and columns of features of this size that do not belong to the margin alone."""
        top, bottom, left, right = self.margin or (0, 0, 0, 0)
        rows = slice(int(top * height), height - int(bottom * height))
        return rows, slice(int(left * width), width - int(right * width))

    def measure(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of each channel, (B, C, 1, 1) each, without the margin."""
        rows, columns = self.inside(*x.shape[2:])
        variance, mean = torch.var_mean(x[..., rows, columns], dim=(2, 3), keepdim=True, correction=0)
        return mean, variance

    def forward(self, x: Tensor) -> Tensor:
        statistics = self.statistics or (self.measure(x) if self.margin else None)
        if statistics is not None:
            mean, variance = statistics
            scale, shift = torch.rsqrt(variance + self.eps), mean.new_zeros(())
            if self.weight is not None:
                scale, shift = scale * self.weight[:, None, None], self.bias[:, None, None]
            return torch.addcmul(shift - mean * scale, x, scale)
        # Called directly: the layer's own forward refuses a single position, which tiny pictures come down to.
        return torch.instance_norm(
            x,
            self.weight,
            self.bias,
            running_mean=None,
            running_var=None,
            use_input_stats=True,
            momentum=0.0,
            eps=self.eps,
            cudnn_enabled=torch.backends.cudnn.enabled,
        )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around an identity skip (He et al. 2016).

    Johnson et al. crop the skip; we reflect at the border instead, so height and width are kept. There is no ReLU after
    the sum. `dropout` puts a Dropout(0.5) between the two convolutions, as some published generators have it.

    Shape: (B, channels, H, W) -> the same. H and W at least 2, since reflection needs a neighbour.
    """

    def __init__(self, channels: int, dropout: bool = False, affine: bool = False) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            InstanceNorm2d(channels, affine=affine),
            nn.ReLU(inplace=True),
            *([nn.Dropout(0.5)] if dropout else []),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            InstanceNorm2d(channels, affine=affine),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class UpsampleConv2d(nn.Conv2d):
    """Up-sampling by 2, then a 3x3 convolution with a reflected border.

    Every output pixel sees equally many inputs, so there is no checkerboard (Odena et al. 2016), which the transposed
    convolution leaves. Nearest-neighbour up-sampling, which published networks have, avoids that as well, but its steps
    feed fine woven patterns in flat areas: four times stronger than with bilinear up-sampling, by their standard
    deviation, in the sky and shadows of one trained generator.

    Shape: (B, in_channels, H, W) -> (B, out_channels, 2 H, 2 W).

    Args:
        mode: "bilinear" or "nearest".
    """

    def __init__(self, in_channels: int, out_channels: int, mode: Interpolation = "bilinear") -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, padding_mode="reflect")
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(functional.interpolate(x, scale_factor=2.0, mode=self.mode))


class EncoderDecoder(nn.Sequential):
    """Down-samplings (the encoder), residual blocks, up-samplings (the decoder), one after the other.

    With `skip`, what each ReLU of the encoder gives is added to what the decoder's gives at the same size, as in a
    U-Net (Ronneberger et al. 2015), which concatenates them: detail need not go through the narrow middle. That takes
    as many channels there as here, and no parameters.

    Args:
        modules: Of these the first `ResidualBlock`, or the first up-sampling, begins the middle; the first up-sampling
            ends it.
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
        """The modules of the encoder, of the middle and of the decoder."""
        modules = list(self)
        end = next(i for i, m in enumerate(modules) if isinstance(m, UpsampleConv2d | nn.ConvTranspose2d))
        start = next((i for i, m in enumerate(modules) if isinstance(m, ResidualBlock)), end)
        return modules[:start], modules[start:end], modules[end:]


def encode(modules: Iterable[nn.Module], x: Tensor) -> list[Tensor]:
    """What each ReLU of an encoder gives."""
    features = []
    for module in modules:
        x = module(x)
        if isinstance(module, nn.ReLU):
            features.append(x)
    return features


def decode(modules: Iterable[nn.Module], x: Tensor, features: Sequence[Tensor] = ()) -> Tensor:
    """Run a decoder, and add the features of the encoder to what its ReLUs give, the last ones first."""
    left = list(features)
    for module in modules:
        x = module(x)
        if left and isinstance(module, nn.ReLU):
            x = x + left.pop()
    return x


def normal_init(module: nn.Module, std: float = 0.02) -> None:
    """Draw the weights of a convolution from N(0, std) and clear its bias; for `network.apply(normal_init)`.

    Zhu et al. (2017, appendix 7.1) start both kinds of network from N(0, 0.02).
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
