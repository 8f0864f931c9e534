"""The generators of CycleGAN (Zhu et al. 2017, appendix 7.2), with the parameter names of the authors.

Departures from the paper: `upsample="resize"` replaces the transposed convolutions, which cause checkerboard artifacts,
with bilinear up-sampling and a convolution. On request, `antialias` blurs before strided convolutions, `noise` adds
an input channel, `limit` bounds normalized features, and `keep_colors` returns what normalization loses.
`upsample="transposed"` alone is the published network.
"""

# Annotations stay objects here: `from_pretrained` reads the class of `config` from them.

import re
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cyclegan.options import GeneratorConfig
from stylekit.networks.blocks import (
    DownsampleConv2d,
    EncoderDecoder,
    InstanceNorm2d,
    ResidualBlock,
    UpsampleConv2d,
    normal_init,
)
from stylekit.networks.convolutions import Conv2d
from stylekit.networks.keep_colors import KeepColors
from stylekit.networks.noise import fixed_noise, noise_tile, random_noise
from stylekit.networks.weights import Network, check_shapes, load_tensors


class Generator(Network, tags=["cyclegan"]):
    """The ResNet generator: 7x7 convolution, two down-samplings, residual blocks, two up-samplings, 7x7 convolution.

    `Generator.from_pretrained(folder or Hub id)` loads released weights, `Generator.from_official(path)` the authors'
    `latest_net_G.pth`.

    Shape: (B, 3, H, W) in [-1, 1] -> the same. H and W are multiples of 4 and at least 8.

    Args:
        config: The architecture; by default that of the paper but for the up-sampling.
    """

    _tile: Tensor | None

    margin = 12
    """Pixels around a picture; padding inside the network then causes no visible frame (benchmarks/README.md)."""

    def __init__(self, config: GeneratorConfig = GeneratorConfig()) -> None:  # noqa: B008 - it is frozen
        super().__init__()
        ngf = config.ngf
        self.noise = config.noise
        self.draft = config.draft
        self.noise_size = config.noise_size
        # Not made when it is needed: an export, which traces the first call, would keep an unusable one.
        tile = noise_tile(config.noise_size) if config.noise and config.noise_size > 1 else None
        self.register_buffer("_tile", tile, persistent=False)
        self.model = EncoderDecoder(
            nn.ReflectionPad2d(3),
            *_normalized(nn.Conv2d(4 if config.noise else 3, ngf, 7)),
            *_normalized(_downsample(ngf, config.antialias)),
            *_normalized(_downsample(2 * ngf, config.antialias)),
            *(ResidualBlock(4 * ngf, config.dropout) for _ in range(config.n_blocks)),
            *_normalized(_upsample(4 * ngf, config.upsample)),
            *_normalized(_upsample(2 * ngf, config.upsample)),
            nn.ReflectionPad2d(3),
            Conv2d(ngf, 3, 7),
            nn.Tanh(),
        )
        black = -1.0 if config.keep_black else None
        self.keep_colors = KeepColors(config.keep_colors, black) if config.keep_colors else None
        for module in self.modules():
            if isinstance(module, InstanceNorm2d):
                module.limit = config.limit
        self.apply(normal_init)

    def forward(self, x: Tensor) -> Tensor:
        x = self.with_noise(x)
        return self.finish(self.model(x), x)

    def finish(self, output: Tensor, x: Tensor) -> Tensor:
        """What follows on `model`: return local colors of its input x, on request."""
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
    def from_official(cls, path: str | Path) -> "Generator":
        """Load a ResNet generator saved by the authors' PyTorch code (`latest_net_G.pth`, `latest_net_G_A.pth`).

        Width, blocks and dropout follow from the tensors. ValueError if the file is damaged or has another network.
        """
        # Without the prefixes of DataParallel and torch.compile, and the unused running statistics of old files.
        clean = {re.sub(r"^(module\.|_orig_mod\.)+", "", key): value for key, value in load_tensors(path).items()}
        stale = ("running_mean", "running_var", "num_batches_tracked")
        tensors = {key: value for key, value in clean.items() if not key.endswith(stale)}
        first = tensors.get("model.1.weight")
        if first is None or first.ndim != 4:
            raise ValueError(f"{path}: not a ResNet generator of the official code: missing model.1.weight")
        if any(key.endswith(".filt") for key in tensors):
            raise ValueError(f"{path}: a generator with anti-aliased sampling (CUT's default) is not supported")
        if "model.2.weight" in tensors:
            raise ValueError(f"{path}: a generator with batch normalization; expected one trained with --norm instance")
        if first.shape[1] != 3:
            raise ValueError(f"{path}: a generator for {first.shape[1]} channels; expected 3 (RGB)")
        config = GeneratorConfig(
            ngf=first.shape[0],
            n_blocks=len({key.split(".")[1] for key in tensors if ".conv_block." in key}),
            upsample="transposed",
            # Dropout moves the second convolution of a block from index 5 to 6.
            dropout=any(key.endswith(".conv_block.6.weight") for key in tensors),
        )
        network = cls(config)
        shapes = {name: value.shape for name, value in network.state_dict().items()}
        check_shapes(tensors, shapes, path, "a ResNet generator")
        network.load_state_dict(tensors)
        return network.eval()


class Cycle(NamedTuple):
    """All generated pictures of a training step, (B, 3, H, W) in [-1, 1] each; identities are None unless requested."""

    fake_x: Tensor  # F(real_y)
    fake_y: Tensor  # G(real_x)
    cycled_x: Tensor  # F(G(real_x))
    cycled_y: Tensor  # G(F(real_y))
    same_x: Tensor | None  # F(real_x), which should equal real_x
    same_y: Tensor | None  # G(real_y), which should equal real_y


class GeneratorPair(nn.Module):
    """G: X -> Y and F: Y -> X in one module, since DDP requires a single forward pass per step."""

    def __init__(self, G: Generator, F: Generator) -> None:
        super().__init__()
        self.G = G
        self.F = F

    def forward(self, real_x: Tensor, real_y: Tensor, identity: bool = True) -> Cycle:
        """Translate both ways and back; with `identity`, also apply each generator to its target domain.

        Instance normalization treats pictures independently, so both inputs of a generator form one batch.
        """
        if identity:
            fake_y, same_y = self.G(torch.cat([real_x, real_y])).split(len(real_x))
            fake_x, same_x = self.F(torch.cat([real_y, real_x])).split(len(real_y))
        else:
            fake_y, same_y = self.G(real_x), None
            fake_x, same_x = self.F(real_y), None
        return Cycle(fake_x, fake_y, self.F(fake_y), self.G(fake_x), same_x, same_y)


def _normalized(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [convolution, InstanceNorm2d(convolution.out_channels), nn.ReLU(inplace=True)]


def _downsample(channels: int, antialias: bool) -> nn.Conv2d:
    if antialias:
        return DownsampleConv2d(channels, 2 * channels)
    return nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)


def _upsample(channels: int, upsample: str) -> nn.Conv2d | nn.ConvTranspose2d:
    if upsample == "resize":
        return UpsampleConv2d(channels, channels // 2)
    return nn.ConvTranspose2d(channels, channels // 2, 3, stride=2, padding=1, output_padding=1)
