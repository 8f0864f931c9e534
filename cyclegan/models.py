"""The generators of CycleGAN (Zhu et al. 2017, appendix 7.2), with the parameter names of the authors.

Departures from the paper: `upsample="resize"` replaces the transposed convolutions, which cause checkerboard artifacts,
with bilinear up-sampling and a convolution. On request, `antialias` blurs before strided convolutions, `noise` adds
an input channel, `limit` bounds normalized features, and `keep_colors` returns what normalization loses.
`upsample="transposed"` alone is the published network.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from stylekit.networks.blocks import (
    DownsampleConv2d,
    EncoderDecoder,
    InstanceNorm2d,
    KeepColors,
    ResidualBlock,
    UpsampleConv2d,
    normal_init,
)
from stylekit.networks.convolutions import Conv2d
from stylekit.networks.noise import fixed_noise, noise_tile, random_noise
from stylekit.networks.weights import check_shapes, load_tensors

Upsample = Literal["resize", "transposed"]


class Generator(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="image-translation",
    license="mit",
    tags=["image-to-image", "cyclegan"],
):
    """The ResNet generator: 7x7 convolution, two down-samplings, residual blocks, two up-samplings, 7x7 convolution.

    `Generator.from_pretrained(folder or Hub id)` loads released weights, `Generator.from_official(path)` the authors'
    `latest_net_G.pth`.

    Shape: (B, 3, H, W) in [-1, 1] -> the same. H and W are multiples of 4 and at least 8.

    Args:
        ngf: Channels after the first convolution; 64 in the paper.
        n_blocks: Number of residual blocks; in the paper 9 for 256 x 256 and larger, 6 for 128 x 128.
        upsample: "resize" or "transposed" (the published layer, used by official files).
        dropout: Insert a Dropout(0.5) in the residual blocks, as in some published networks.
        antialias: Blur before the strided convolutions (`DownsampleConv2d`). Official files have no blur.
        noise: Standard deviation of a fourth input channel of noise, which seeds strokes in flat regions (Ulyanov et
            al. 2016); 0 for no such channel, as in official files. Training draws new noise in every call; in eval mode
            it is always the same.
        noise_size: Width of its grains in pixels.
        limit: Largest absolute value of normalized features, against smears (`InstanceNorm2d`); 0 for none.
        keep_colors: How much of the local colors of the photograph the output keeps (`KeepColors`), from 0 to 1.
        keep_black: With `keep_colors`, the photograph shows through where it is black.

    Raises:
        ValueError: An argument is out of range.
    """

    _tile: Tensor | None

    def __init__(
        self,
        ngf: int = 64,
        n_blocks: int = 9,
        upsample: Upsample = "resize",
        dropout: bool = False,
        antialias: bool = False,
        noise: float = 0.0,
        noise_size: int = 1,
        limit: float = 0.0,
        keep_colors: float = 0.0,
        keep_black: bool = True,
    ) -> None:
        super().__init__()
        if ngf < 1 or n_blocks < 0:
            raise ValueError(f"expected ngf >= 1 and n_blocks >= 0, got ngf={ngf}, n_blocks={n_blocks}")
        if noise < 0 or limit < 0:
            raise ValueError(f"noise and limit must be at least 0, got noise={noise}, limit={limit}")
        if not 1 <= noise_size <= 64:
            raise ValueError(f"expected noise_size in [1, 64], got {noise_size}")
        if upsample not in ("resize", "transposed"):
            raise ValueError(f"upsample must be 'resize' or 'transposed', got {upsample!r}")
        self.noise = noise
        self.noise_size = noise_size
        # Not made when it is needed: an export, which traces the first call, would keep an unusable one.
        self.register_buffer("_tile", noise_tile(noise_size) if noise and noise_size > 1 else None, persistent=False)
        self.model = EncoderDecoder(
            nn.ReflectionPad2d(3),
            nn.Conv2d(4 if noise else 3, ngf, 7),
            InstanceNorm2d(ngf),
            nn.ReLU(inplace=True),
            *_downsample(ngf, 2 * ngf, antialias),
            *_downsample(2 * ngf, 4 * ngf, antialias),
            *(ResidualBlock(4 * ngf, dropout) for _ in range(n_blocks)),
            *_upsample(4 * ngf, 2 * ngf, upsample),
            *_upsample(2 * ngf, ngf, upsample),
            nn.ReflectionPad2d(3),
            Conv2d(ngf, 3, 7),
            nn.Tanh(),
        )
        self.keep_colors = KeepColors(keep_colors, -1.0 if keep_black else None) if keep_colors else None
        for module in self.modules():
            if isinstance(module, InstanceNorm2d):
                module.limit = limit
        self.apply(normal_init)

    def forward(self, x: Tensor) -> Tensor:
        x = self.with_noise(x)
        return self.finish(self.model(x), x)

    def finish(self, output: Tensor, x: Tensor) -> Tensor:
        """What follows on `model`: return local colors, on request.

        Args:
            output: Of `model`, (B, 3, H, W).
            x: Its input.
        """
        return output if self.keep_colors is None else self.keep_colors(output, x[:, :3]).clamp(-1, 1)

    def with_noise(self, x: Tensor) -> Tensor:
        """The input of `model`: pictures (B, 3, H, W) with the noise channel, if the network has one.

        In eval mode every picture of a size gets the same noise (`fixed_noise`).
        """
        if not self.noise:
            return x
        b, _, h, w = x.shape
        if self.training:
            noise = random_noise(b, h, w, self.noise_size, x.device)
        else:
            noise = fixed_noise(h, w, self._tile).to(x.device).expand(b, -1, -1, -1)
        return torch.cat([x, self.noise * noise.to(x.dtype)], dim=1)

    @classmethod
    def from_official(cls, path: str | Path) -> Generator:
        """Load a ResNet generator saved by the authors' PyTorch code (`latest_net_G.pth`, `latest_net_G_A.pth`).

        Width, number of blocks and dropout are inferred from the tensors.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged or contains another network; the message lists the differences.
        """
        tensors = _clean(load_tensors(path))
        first = tensors.get("model.1.weight")
        if first is None or first.ndim != 4:
            raise ValueError(f"{path}: not a ResNet generator of the official code: missing model.1.weight")
        if any(key.endswith(".filt") for key in tensors):
            raise ValueError(f"{path}: a generator with anti-aliased sampling (CUT's default) is not supported")
        if "model.2.weight" in tensors:
            raise ValueError(f"{path}: a generator with batch normalization; expected one trained with --norm instance")
        if first.shape[1] != 3:
            raise ValueError(f"{path}: a generator for {first.shape[1]} channels; expected 3 (RGB)")
        network = cls(
            ngf=first.shape[0],
            n_blocks=len({key.split(".")[1] for key in tensors if ".conv_block." in key}),
            upsample="transposed",
            # Dropout moves the second convolution of a block from index 5 to 6.
            dropout=any(key.endswith(".conv_block.6.weight") for key in tensors),
        )
        shapes = {name: value.shape for name, value in network.state_dict().items()}
        check_shapes(tensors, shapes, path, "a ResNet generator")
        network.load_state_dict(tensors)
        return network.eval()


class Cycle(NamedTuple):
    """All generated pictures of a training step, each (B, 3, H, W) in [-1, 1]."""

    fake_x: Tensor
    """F(real_y)"""
    fake_y: Tensor
    """G(real_x)"""
    cycled_x: Tensor
    """F(G(real_x))"""
    cycled_y: Tensor
    """G(F(real_y))"""
    same_x: Tensor | None
    """F(real_x), which should equal real_x; None unless requested"""
    same_y: Tensor | None
    """G(real_y), which should equal real_y; None unless requested"""


class GeneratorPair(nn.Module):
    """G: X -> Y and F: Y -> X in one module, since DDP requires a single forward pass per step."""

    def __init__(self, G: Generator, F: Generator) -> None:
        super().__init__()
        self.G = G
        self.F = F

    def forward(
        self, real_x: Tensor, real_y: Tensor | None, identity: bool = True, cycle: bool = True
    ) -> Cycle | tuple[Tensor, Tensor | None]:
        """Translate both ways and back; with `identity`, also apply each generator to its target domain.

        Without `cycle`, return only G(real_x) and F(real_y), or None if `real_y` is None.
        Instance normalization treats pictures independently, so both inputs of a generator form one batch.
        """
        if not cycle or real_y is None:
            return self.G(real_x), None if real_y is None else self.F(real_y)
        if identity:
            fake_y, same_y = self.G(torch.cat([real_x, real_y])).split(len(real_x))
            fake_x, same_x = self.F(torch.cat([real_y, real_x])).split(len(real_y))
        else:
            fake_y, same_y = self.G(real_x), None
            fake_x, same_x = self.F(real_y), None
        return Cycle(fake_x, fake_y, self.F(fake_y), self.G(fake_x), same_x, same_y)


def _downsample(channels_in: int, channels_out: int, antialias: bool) -> list[nn.Module]:
    convolution: nn.Module = (
        DownsampleConv2d(channels_in, channels_out)
        if antialias
        else nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1)
    )
    return [convolution, InstanceNorm2d(channels_out), nn.ReLU(inplace=True)]


def _upsample(channels_in: int, channels_out: int, upsample: Upsample) -> list[nn.Module]:
    convolution: nn.Module = (
        UpsampleConv2d(channels_in, channels_out)
        if upsample == "resize"
        else nn.ConvTranspose2d(channels_in, channels_out, 3, stride=2, padding=1, output_padding=1)
    )
    return [convolution, InstanceNorm2d(channels_out), nn.ReLU(inplace=True)]


def _clean(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes of DataParallel and torch.compile, and the unused running statistics of old files."""
    stale = ("running_mean", "running_var", "num_batches_tracked")
    cleaned = {}
    for key, value in tensors.items():
        while key.startswith(("module.", "_orig_mod.")):
            key = key.split(".", 1)[1]
        if not key.endswith(stale):
            cleaned[key] = value
    return cleaned
