"""The image transformation network of Johnson, Alahi & Fei-Fei (2016, section 3.1 and supplementary material).

Departures from the paper, the first three those of the widely used fast_neural_style networks: affine instance
normalisation (Ulyanov et al. 2016) instead of batch normalisation; up-sampling and convolution instead of transposed
convolutions, which leave a checkerboard; reflection at every border, so that residual blocks keep the size and no frame
is painted; instance normalisation and a softsign at the end, where the paper has a scaled tanh and fast_neural_style
nothing; connections that hand the features of the two larger sizes from the encoder to the decoder; and noise as a
fourth channel of the input (Ulyanov et al. 2016, "Texture Networks").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn import functional

from stylekit.blocks import EncoderDecoder, InstanceNorm2d, Interpolation, ResidualBlock, UpsampleConv2d
from stylekit.checkpoint import check_shapes, load_tensors

N_BLOCKS = 5
"""Residual blocks of the paper, and of every official file."""


class TransformerNet(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="image-translation",
    license="mit",
    tags=["image-to-image", "style-transfer"],
):
    """9x9 convolution, two down-samplings, residual blocks, two up-samplings, 9x9 convolution.

    1,679,235 parameters at the published width, 6 that bound the colours, and 2,592 for the noise.
    `TransformerNet.from_pretrained(folder or Hub id)` reads released weights; `TransformerNet.from_official(path)`
    reads files of fast_neural_style.

    Shape: (B, 3, H, W) in [0, 1], or (B, 4, H, W) with noise (`with_noise`), which is 0 if it is not given ->
    (B, 3, H, W), where H and W are multiples of 4 and at least 8. What comes out lies about in [0, 1]: clamp it to show
    it.

    Args:
        width: Channels after the first convolution; the paper has 32. Half as many make it four times smaller.
        n_blocks: Residual blocks; the paper has 5.
        upsample: How pictures are enlarged: "nearest", as in fast_neural_style, or "bilinear".
        bound: End with instance normalisation and a softsign. The style loss, of the fourth order in what is painted,
            is by far most sensitive to the mean and the contrast of colours; normalised, they are six parameters
            instead of a result of all others. Without this, as in fast_neural_style, a network that is trained from
            scratch paints colours far outside at first, and learns slowly.
        skip: Add the features of the encoder to those of the decoder. fast_neural_style has no such connections: all
            detail has to be learned through a quarter of the resolution, which takes longer.
        noise: Standard deviation of the noise that the network takes as a fourth channel; 0: it takes none. Where a
            photograph is smooth, strokes have nothing else to begin at, and become a regular weave. A trained network
            that is given more, `network.noise *= 2`, paints freer strokes, and keeps less of the photograph.

    Raises:
        ValueError: An argument out of its range.
    """

    def __init__(
        self,
        width: int = 32,
        n_blocks: int = N_BLOCKS,
        upsample: Interpolation = "bilinear",
        bound: bool = True,
        skip: bool = True,
        noise: float = 0.1,
    ) -> None:
        super().__init__()
        if width < 1 or n_blocks < 0:
            raise ValueError(f"a network needs width >= 1 and n_blocks >= 0, got width={width}, n_blocks={n_blocks}")
        if upsample not in ("nearest", "bilinear"):
            raise ValueError(f"upsample must be 'nearest' or 'bilinear', got {upsample!r}")
        if noise < 0:
            raise ValueError(f"noise must be at least 0, got {noise}")
        self.noise = noise
        self.model = EncoderDecoder(
            *_convolution(4 if noise else 3, width, 9),
            *_convolution(width, 2 * width, 3, stride=2),
            *_convolution(2 * width, 4 * width, 3, stride=2),
            *(ResidualBlock(4 * width, affine=True) for _ in range(n_blocks)),
            *_upsample(4 * width, 2 * width, upsample),
            *_upsample(2 * width, width, upsample),
            nn.ReflectionPad2d(4),
            nn.Conv2d(width, 3, 9),
            *([InstanceNorm2d(3, affine=True), Softsign()] if bound else []),
            skip=skip,
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.noise and x.shape[1] == 3:
            x = functional.pad(x, (0, 0, 0, 0, 0, 1))
        return self.model(x)

    def with_noise(self, photographs: Tensor, noise: Tensor) -> Tensor:
        """What the network takes: photographs, (B, 3, H, W), beside noise from N(0, 1), (B, 1, H, W)."""
        return torch.cat([photographs, self.noise * noise], dim=1) if self.noise else photographs

    @classmethod
    def from_official(cls, path: str | Path) -> TransformerNet:
        """Read a network saved by fast_neural_style of PyTorch's examples (`mosaic.pth`, `candy.pth`, ...).

        Those networks map [0, 255] to [0, 255]; here the factor goes into the first and the last convolution. The width
        is read off the tensors. The running statistics that old versions of PyTorch stored for instance normalisation,
        and never used, are dropped.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no such file: not tensors, or another network; the message says what differs.
        """
        tensors = _clean(load_tensors(path))
        first = tensors.get("conv1.conv2d.weight")
        if first is None or first.ndim != 4:
            raise ValueError(f"{path}: not a network of fast_neural_style: it has no tensor conv1.conv2d.weight")
        network = cls(first.shape[0], upsample="nearest", bound=False, skip=False, noise=0.0)
        state = network.state_dict()
        names = dict(zip(_official_names(), state, strict=True))
        shapes = {official: state[name].shape for official, name in names.items()}
        check_shapes(tensors, shapes, path, "a network of fast_neural_style")
        tensors["conv1.conv2d.weight"] = tensors["conv1.conv2d.weight"] * 255
        for key in ("deconv3.conv2d.weight", "deconv3.conv2d.bias"):
            tensors[key] = tensors[key] / 255
        network.load_state_dict({name: tensors[key] for key, name in names.items()})
        return network.eval()


class Softsign(nn.Module):
    """0.5 + x / (1 + |x|), a softsign: what comes out lies in (-0.5, 1.5).

    The authors' 127.5 + 150 tanh(x), in [0, 255], bounds as well, but where it has gone black by mistake it hardly
    learns any more: flat areas kept black holes.
    """

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 + functional.softsign(x)


def _convolution(channels_in: int, channels_out: int, side: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.ReflectionPad2d(side // 2),
        nn.Conv2d(channels_in, channels_out, side, stride),
        InstanceNorm2d(channels_out, affine=True),
        nn.ReLU(inplace=True),
    ]


def _upsample(channels_in: int, channels_out: int, mode: Interpolation) -> list[nn.Module]:
    return [
        UpsampleConv2d(channels_in, channels_out, mode),
        InstanceNorm2d(channels_out, affine=True),
        nn.ReLU(inplace=True),
    ]


def _official_names() -> list[str]:
    """The 62 names of an official file, in the order of the layers."""
    modules = ["conv1.conv2d", "in1", "conv2.conv2d", "in2", "conv3.conv2d", "in3"]
    for i in range(1, N_BLOCKS + 1):
        modules += [f"res{i}.{part}" for part in ("conv1.conv2d", "in1", "conv2.conv2d", "in2")]
    modules += ["deconv1.conv2d", "in4", "deconv2.conv2d", "in5", "deconv3.conv2d"]
    return [f"{module}.{kind}" for module in modules for kind in ("weight", "bias")]


def _clean(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Strip the prefix of DataParallel; drop the running statistics of old files, which were never used."""
    stale = re.compile(r"in\d+\.(running_(mean|var)|num_batches_tracked)$")
    return {key.removeprefix("module."): value.float() for key, value in tensors.items() if not stale.search(key)}
