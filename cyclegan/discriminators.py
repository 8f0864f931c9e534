"""The discriminators of CycleGAN: the PatchGAN of the paper (Zhu et al. 2017, appendix 7.2), and heads on VGG features.

`PatchDiscriminator` has the parameter names of the authors. `FeatureDiscriminator` is a departure from the paper.
"""

from __future__ import annotations

import copy
import functools
import inspect
import json
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from stylekit.networks.blocks import DownsampleConv2d, InstanceNorm2d, normal_init
from stylekit.networks.vgg import VGGFeatures, architecture
from stylekit.networks.weights import Network
from stylekit.pictures.images import to_unit

Scores = tuple[Tensor, ...]
"""The scores of one or several discriminators for the same pictures, (B, C, h, w) each."""


class PatchDiscriminator(Network, tags=["cyclegan"]):
    """The PatchGAN discriminator: one score per overlapping patch, of 70 x 70 pixels at the default depth.

    The scores are logits: no sigmoid is applied.

    Shape: (B, 3, H, W) in [-1, 1] -> (B, 1, h, w); 256 x 256 -> 30 x 30. H and W are at least 2^(n_layers + 1).

    Args:
        ndf: Channels after the first convolution; 64 in the paper.
        n_layers: Number of convolutions with stride 2; 3 in the paper.
    """

    def __init__(self, ndf: int = 64, n_layers: int = 3) -> None:
        super().__init__()
        if ndf < 1 or n_layers < 1:
            raise ValueError(f"expected ndf >= 1 and n_layers >= 1, got ndf={ndf}, n_layers={n_layers}")
        widths = [ndf * min(2**i, 8) for i in range(n_layers + 1)]
        layers: list[nn.Module] = [nn.Conv2d(3, ndf, 4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        for i, (width_in, width_out) in enumerate(pairwise(widths), start=1):
            convolution = nn.Conv2d(width_in, width_out, 4, stride=2 if i < n_layers else 1, padding=1)
            layers += [convolution, InstanceNorm2d(width_out), nn.LeakyReLU(0.2, inplace=True)]
        layers.append(nn.Conv2d(widths[-1], 1, 4, stride=1, padding=1))
        self.model = nn.Sequential(*layers)
        self.apply(normal_init)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class FeatureDiscriminator(Network, tags=["cyclegan"]):
    """Small convolutional heads on five layers of a frozen VGG: they need far fewer steps than a PatchGAN.

    Features that recognize objects already tell brush strokes from photographs (Projected GAN, Sauer et al. 2021), so
    only the heads are trained. Spectral normalization (Miyato et al. 2018) and blurred strides keep them from winning
    at once. The VGG is the bundled compact one; it is neither trained nor saved.

    Shape: (B, 3, H, W) in [-1, 1] -> (B, 5, H / 4, W / 4): one channel of logits per head. H and W are at least 32.

    Args:
        width: Channels of the heads.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"expected width >= 1, got {width}")
        self.vgg = copy.deepcopy(_constant_vgg())
        heads = {name: _head(architecture("compact", name)[0], n, width) for name, n in _HALVINGS.items()}
        self.heads = nn.ModuleDict(heads)

    def forward(self, x: Tensor) -> Tensor:
        scores = [self.heads[name](features) for name, features in self.vgg(to_unit(x)).items()]
        size = scores[0].shape[2:]
        return torch.cat([functional.interpolate(score, size) for score in scores], dim=1)


_HALVINGS = {"relu1_2": 2, "relu2_2": 1, "relu3_2": 0, "relu4_1": 0, "relu5_1": 0}
"""The layers that have a head, and how often it halves height and width: the first three scores are H / 4 wide."""


Discriminator = PatchDiscriminator | FeatureDiscriminator


class Discriminators(nn.ModuleList):
    """One or two discriminators of the same pictures.

    Shape: (B, 3, H, W) in [-1, 1] -> the scores of each.
    """

    def forward(self, pictures: Tensor) -> Scores:
        return tuple(discriminator(pictures) for discriminator in self)


class DiscriminatorPair(nn.Module):
    """D_X and D_Y, each named for the domain that it discriminates, and perhaps a second one of each, in one module."""

    def __init__(
        self,
        D_X: Discriminator,
        D_Y: Discriminator,
        extra_x: FeatureDiscriminator | None = None,
        extra_y: FeatureDiscriminator | None = None,
    ) -> None:
        super().__init__()
        self.D_X, self.D_Y = D_X, D_Y
        self.extra_x, self.extra_y = extra_x, extra_y

    def forward(self, x: Tensor, y: Tensor) -> tuple[Scores, Scores]:
        """The scores of x by the discriminators of X, and of y by those of Y."""
        of_x = tuple(D(x) for D in (self.D_X, self.extra_x) if D is not None)
        return of_x, tuple(D(y) for D in (self.D_Y, self.extra_y) if D is not None)

    def named(self) -> dict[str, Discriminator]:
        """By folder name: D_X, D_Y and, if there are two of each, D_X_features, D_Y_features."""
        named = {"D_X": self.D_X, "D_Y": self.D_Y, "D_X_features": self.extra_x, "D_Y_features": self.extra_y}
        return {name: network for name, network in named.items() if network is not None}


def discriminator_class(folder: Path) -> type[Discriminator] | None:
    """Which discriminator a folder holds, by the arguments in its config.json; None if it holds none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    for kind in (PatchDiscriminator, FeatureDiscriminator):
        if isinstance(config, dict) and config.keys() == inspect.signature(kind).parameters.keys():
            return kind
    return None


def _head(channels: int, halvings: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 1), nn.LeakyReLU(0.2)]
    for _ in range(halvings):
        layers += [DownsampleConv2d(width, width), nn.LeakyReLU(0.2)]
    layers += [nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(width, 1, 3, padding=1)]
    return nn.Sequential(*(spectral_norm(layer) if isinstance(layer, nn.Conv2d) else layer for layer in layers))


@functools.cache
def _constant_vgg() -> VGGFeatures:
    """The features for the heads. Weights are buffers that are not saved: no optimizer and no checkpoint has them."""
    with torch.device("cpu"):  # The first call may be on the meta device, the next one not.
        vgg = VGGFeatures(_HALVINGS, "compact", padding="replicate", normalize=True)
    for module in vgg.modules():
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            delattr(module, name)
            module.register_buffer(name, tensor.detach(), persistent=False)
    return vgg
