"""Generators and discriminators of CycleGAN (Zhu et al. 2017, appendix 7.2), laid out as the authors' files are.

Departures from the paper: `upsample="resize"` replaces the transposed convolutions, which leave a checkerboard, by
bilinear up-sampling and a convolution. `upsample="transposed"` is the published layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from stylekit.blocks import EncoderDecoder, InstanceNorm2d, ResidualBlock, UpsampleConv2d, normal_init
from stylekit.checkpoint import check_shapes, load_tensors

Upsample = Literal["resize", "transposed"]


class Generator(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="image-translation",
    license="mit",
    tags=["image-to-image", "cyclegan"],
):
    """The ResNet generator: 7x7 convolution, two down-samplings, residual blocks, two up-samplings, 7x7 convolution.

    `Generator.from_pretrained(folder or Hub id)` reads released weights; `Generator.from_official(path)` reads the
    authors' `latest_net_G.pth`.

    Shape: (B, 3, H, W) in [-1, 1] -> (B, 3, H, W) in [-1, 1] where H and W are multiples of 4 and at least 8.

    Args:
        ngf: Channels after the first convolution; the paper has 64.
        n_blocks: Residual blocks; the paper has 9 for 256 x 256 and larger, 6 for 128 x 128.
        upsample: "resize" or "transposed" (the published layer; what official files need).
        dropout: Dropout(0.5) inside the residual blocks, as some published networks have it.

    Raises:
        ValueError: An argument out of its range.
    """

    def __init__(self, ngf: int = 64, n_blocks: int = 9, upsample: Upsample = "resize", dropout: bool = False) -> None:
        super().__init__()
        if ngf < 1 or n_blocks < 0:
            raise ValueError(f"a generator needs ngf >= 1 and n_blocks >= 0, got ngf={ngf}, n_blocks={n_blocks}")
        if upsample not in ("resize", "transposed"):
            raise ValueError(f"upsample must be 'resize' or 'transposed', got {upsample!r}")
        self.model = EncoderDecoder(
            nn.ReflectionPad2d(3),
            nn.Conv2d(3, ngf, 7),
            InstanceNorm2d(ngf),
            nn.ReLU(inplace=True),
            *_downsample(ngf, 2 * ngf),
            *_downsample(2 * ngf, 4 * ngf),
            *(ResidualBlock(4 * ngf, dropout) for _ in range(n_blocks)),
            *_upsample(4 * ngf, 2 * ngf, upsample),
            *_upsample(2 * ngf, ngf, upsample),
            nn.ReflectionPad2d(3),
            nn.Conv2d(ngf, 3, 7),
            nn.Tanh(),
        )
        self.apply(normal_init)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    @classmethod
    def from_official(cls, path: str | Path) -> Generator:
        """Read a ResNet generator saved by the authors' PyTorch code (`latest_net_G.pth`, `latest_net_G_A.pth`).

        Width, number of blocks and dropout are read off the tensors. Prefixes of DataParallel (`module.`) and of
        torch.compile (`_orig_mod.`) are stripped, and the running statistics that old versions of PyTorch stored for
        instance normalisation, and never used, are dropped.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no such file: not tensors, another network, another normalisation; the message says what
                differs.
        """
        tensors = _clean(load_tensors(path))
        first = tensors.get("model.1.weight")
        if first is None or first.ndim != 4:
            raise ValueError(f"{path}: not a ResNet generator of the official code: it has no tensor model.1.weight")
        if any(key.endswith(".filt") for key in tensors):
            raise ValueError(
                f"{path}: a generator with anti-aliased sampling (CUT's default), which is another network"
            )
        if "model.2.weight" in tensors:
            raise ValueError(f"{path}: a generator with batch normalisation; expected one with --norm instance")
        if first.shape[1] != 3:
            raise ValueError(f"{path}: a generator for {first.shape[1]} channels; expected 3 (RGB)")
        network = cls(
            ngf=first.shape[0],
            n_blocks=len({key.split(".")[1] for key in tensors if ".conv_block." in key}),
            upsample="transposed",
            # With dropout in the block, its second convolution moves from place 5 to place 6.
            dropout=any(key.endswith(".conv_block.6.weight") for key in tensors),
        )
        shapes = {name: value.shape for name, value in network.state_dict().items()}
        check_shapes(tensors, shapes, path, "a ResNet generator")
        network.load_state_dict(tensors)
        return network.eval()


class PatchDiscriminator(nn.Module):
    """The PatchGAN discriminator: one score for each overlapping patch, 70 x 70 pixels at the default depth.

    The scores are raw: least squares uses them as they are, the log-likelihood loss puts the sigmoid inside.

    Shape: (B, 3, H, W) in [-1, 1] -> (B, 1, h, w); 256 x 256 -> 30 x 30. H and W at least 2^(n_layers + 1).

    Args:
        ndf: Channels after the first convolution; the paper has 64.
        n_layers: Convolutions with stride 2; the paper has 3.

    Raises:
        ValueError: An argument out of its range.
    """

    def __init__(self, ndf: int = 64, n_layers: int = 3) -> None:
        super().__init__()
        if ndf < 1 or n_layers < 1:
            raise ValueError(f"a discriminator needs ndf >= 1 and n_layers >= 1, got ndf={ndf}, n_layers={n_layers}")
        widths = [ndf * min(2**i, 8) for i in range(n_layers + 1)]
        layers: list[nn.Module] = [nn.Conv2d(3, ndf, 4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        for i, (width_in, width_out) in enumerate(pairwise(widths), start=1):
            stride = 2 if i < n_layers else 1
            layers += [
                nn.Conv2d(width_in, width_out, 4, stride=stride, padding=1),
                InstanceNorm2d(width_out),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        layers.append(nn.Conv2d(widths[-1], 1, 4, stride=1, padding=1))
        self.model = nn.Sequential(*layers)
        self.apply(normal_init)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Cycle(NamedTuple):
    """All pictures of one training step, each (B, 3, H, W) in [-1, 1]."""

    fake_x: Tensor
    """F(real_y)"""
    fake_y: Tensor
    """G(real_x)"""
    cycled_x: Tensor
    """F(G(real_x))"""
    cycled_y: Tensor
    """G(F(real_y))"""
    same_x: Tensor | None
    """F(real_x), which should be real_x; None if it was not asked for"""
    same_y: Tensor | None
    """G(real_y), which should be real_y; None if it was not asked for"""


class GeneratorPair(nn.Module):
    """G: X -> Y and F: Y -> X in one module: one forward makes the whole cycle, which is what DDP needs."""

    def __init__(self, G: Generator, F: Generator) -> None:
        super().__init__()
        self.G = G
        self.F = F

    def forward(self, real_x: Tensor, real_y: Tensor, identity: bool = True) -> Cycle:
        """Translate, translate back, and, if `identity`, show each generator its own target.

        Instance normalisation treats every picture alone, so a generator takes both of its inputs as one batch.
        """
        if identity:
            fake_y, same_y = self.G(torch.cat([real_x, real_y])).split(len(real_x))
            fake_x, same_x = self.F(torch.cat([real_y, real_x])).split(len(real_y))
        else:
            fake_y, same_y = self.G(real_x), None
            fake_x, same_x = self.F(real_y), None
        return Cycle(fake_x, fake_y, self.F(fake_y), self.G(fake_x), same_x, same_y)


class DiscriminatorPair(nn.Module):
    """D_X and D_Y, each named for the domain that it judges, in one module."""

    def __init__(self, D_X: PatchDiscriminator, D_Y: PatchDiscriminator) -> None:
        super().__init__()
        self.D_X = D_X
        self.D_Y = D_Y

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of pictures that claim to be from X, and of pictures that claim to be from Y."""
        return self.D_X(x), self.D_Y(y)


def _downsample(channels_in: int, channels_out: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1)
    return [convolution, InstanceNorm2d(channels_out), nn.ReLU(inplace=True)]


def _upsample(channels_in: int, channels_out: int, upsample: Upsample) -> list[nn.Module]:
    convolution: nn.Module = (
        UpsampleConv2d(channels_in, channels_out)
        if upsample == "resize"
        else nn.ConvTranspose2d(channels_in, channels_out, 3, stride=2, padding=1, output_padding=1)
    )
    return [convolution, InstanceNorm2d(channels_out), nn.ReLU(inplace=True)]


def _clean(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Strip the prefixes of wrappers; drop the running statistics of old files, which were never used."""
    stale = ("running_mean", "running_var", "num_batches_tracked")
    cleaned = {}
    for key, value in tensors.items():
        while key.startswith(("module.", "_orig_mod.")):
            key = key.split(".", 1)[1]
        if not key.endswith(stale):
            cleaned[key] = value
    return cleaned
