"""The discriminators of CycleGAN (Zhu et al. 2017, appendix 7.2), with the parameter names of the authors."""

from __future__ import annotations

from itertools import pairwise

from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from stylekit.networks.blocks import InstanceNorm2d, normal_init


class PatchDiscriminator(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="image-translation",
    license="mit",
    tags=["image-to-image", "cyclegan"],
):
    """The PatchGAN discriminator: one score per overlapping patch, of 70 x 70 pixels at the default depth.

    The scores are logits: no sigmoid is applied.

    Shape: (B, 3, H, W) in [-1, 1] -> (B, 1, h, w); 256 x 256 -> 30 x 30. H and W are at least 2^(n_layers + 1).

    Args:
        ndf: Channels after the first convolution; 64 in the paper.
        n_layers: Number of convolutions with stride 2; 3 in the paper.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(self, ndf: int = 64, n_layers: int = 3) -> None:
        super().__init__()
        if ndf < 1 or n_layers < 1:
            raise ValueError(f"expected ndf >= 1 and n_layers >= 1, got ndf={ndf}, n_layers={n_layers}")
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


class DiscriminatorPair(nn.Module):
    """D_X and D_Y, each named for the domain that it discriminates, in one module."""

    def __init__(self, D_X: PatchDiscriminator, D_Y: PatchDiscriminator) -> None:
        super().__init__()
        self.D_X = D_X
        self.D_Y = D_Y

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """D_X(x) and D_Y(y)."""
        return self.D_X(x), self.D_Y(y)
