"""The image transformation network of Johnson, Alahi & Fei-Fei (2016, section 3.1 and supplementary material).

Departures from the paper, of which the first three are common to all fast_neural_style networks:

* affine instance normalization (Ulyanov et al. 2016) instead of batch normalization
* up-sampling and convolution instead of transposed convolutions, which cause checkerboard artifacts
* reflection padding, so that residual blocks keep the size and the output has no frame
* instance normalization and a softsign at the end, instead of a scaled tanh; fast_neural_style has neither
* skip connections from the encoder to the decoder at the two larger resolutions
* noise as a fourth input channel (Ulyanov et al. 2016, "Texture Networks")
* on request, limits of normalized features, and local colors of the photograph, which normalization loses
"""

# Annotations stay objects here: `from_pretrained` reads the class of `config` from them.

import re
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from johnson.options import NetworkConfig
from stylekit.networks.blocks import EncoderDecoder, InstanceNorm2d, ResidualBlock, UpsampleConv2d
from stylekit.networks.convolutions import Conv2d
from stylekit.networks.keep_colors import KeepColors
from stylekit.networks.noise import fixed_noise
from stylekit.networks.weights import Network, check_shapes, load_tensors


class TransformerNet(Network, tags=["style-transfer"]):
    """9x9 convolution, two down-samplings, residual blocks, two up-samplings, 9x9 convolution.

    The published architecture has 1,679,235 parameters; `bound` adds 6 and `noise` 2,592.
    `TransformerNet.from_pretrained(folder or Hub id)` loads released weights, `TransformerNet.from_official(path)`
    files of fast_neural_style.

    Shape: (B, 3, H, W) in [0, 1] and noise, see `with_noise` -> (B, 3, H, W), approximately in [0, 1]; clamp before
    display. H and W are multiples of 4 and at least 8.

    `network.noise *= 2` on a trained network gives freer strokes and preserves less of the photograph.

    Args:
        config: The architecture.
    """

    def __init__(self, config: NetworkConfig = NetworkConfig()) -> None:  # noqa: B008 - it is frozen
        super().__init__()
        width = config.width
        self.noise = config.noise
        self.model = EncoderDecoder(
            nn.ReflectionPad2d(4),
            *_normalized(nn.Conv2d(4 if config.noise else 3, width, 9)),
            nn.ReflectionPad2d(1),
            *_normalized(nn.Conv2d(width, 2 * width, 3, stride=2)),
            nn.ReflectionPad2d(1),
            *_normalized(nn.Conv2d(2 * width, 4 * width, 3, stride=2)),
            *(ResidualBlock(4 * width, affine=True) for _ in range(config.n_blocks)),
            *_normalized(UpsampleConv2d(4 * width, 2 * width, config.upsample)),
            *_normalized(UpsampleConv2d(2 * width, width, config.upsample)),
            nn.ReflectionPad2d(4),
            Conv2d(width, 3, 9),
            *([InstanceNorm2d(3, affine=True), Softsign()] if config.bound else []),
            skip=config.skip,
        )
        black = 0.0 if config.keep_black else None
        self.keep_colors = KeepColors(config.keep_colors, black) if config.keep_colors else None
        for module in self.modules():
            if isinstance(module, InstanceNorm2d) and module.num_features > 3:  # Not the colors.
                module.limit = config.limit

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        x = self.with_noise(x, noise)
        return self.finish(self.model(x), x)

    def finish(self, output: Tensor, x: Tensor) -> Tensor:
        """What follows on `model`: return local colors of its input x, on request."""
        return output if self.keep_colors is None else self.keep_colors(output, x[:, :3])

    def with_noise(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """The input of `model`: pictures (B, 3, H, W) with the noise channel, if the network has one.

        Noise is from N(0, 1), (B, 1, H, W); None: the same for every picture of a size (`fixed_noise`).
        """
        if not self.noise:
            return x
        if noise is None:
            noise = fixed_noise(x.shape[2], x.shape[3]).to(x).expand(len(x), -1, -1, -1)
        return torch.cat([x, self.noise * noise], dim=1)

    @classmethod
    def from_official(cls, path: str | Path) -> "TransformerNet":
        """Load a network saved by fast_neural_style of PyTorch's examples (`mosaic.pth`, `candy.pth`, ...).

        Those networks map [0, 255] to [0, 255]; the factor is merged into the first and the last convolution.
        ValueError if the file is damaged or has another network.
        """
        # The prefix of DataParallel, and unused running statistics that old versions of PyTorch saved.
        stale = re.compile(r"in\d+\.(running_(mean|var)|num_batches_tracked)$")
        loaded = {key.removeprefix("module."): value.float() for key, value in load_tensors(path).items()}
        tensors = {key: value for key, value in loaded.items() if not stale.search(key)}
        first = tensors.get("conv1.conv2d.weight")
        if first is None or first.ndim != 4:
            raise ValueError(f"{path}: not a fast_neural_style network: missing conv1.conv2d.weight")
        network = cls(NetworkConfig(first.shape[0], upsample="nearest", bound=False, skip=False, noise=0.0))
        state = network.state_dict()
        names = dict(zip(_official_names(), state, strict=True))
        shapes = {official: state[name].shape for official, name in names.items()}
        check_shapes(tensors, shapes, path, "a fast_neural_style network")
        tensors["conv1.conv2d.weight"] = tensors["conv1.conv2d.weight"] * 255
        for key in ("deconv3.conv2d.weight", "deconv3.conv2d.bias"):
            tensors[key] = tensors[key] / 255
        network.load_state_dict({name: tensors[key] for key, name in names.items()})
        return network.eval()


class Softsign(nn.Module):
    """0.5 + x / (1 + |x|), in (-0.5, 1.5).

    The gradient of the authors' 127.5 + 150 tanh(x), for [0, 255], vanishes in saturated regions: black holes remained
    in flat areas.
    """

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 + functional.softsign(x)


def _normalized(convolution: nn.Conv2d) -> list[nn.Module]:
    return [convolution, InstanceNorm2d(convolution.out_channels, affine=True), nn.ReLU(inplace=True)]


def _official_names() -> list[str]:
    """The 62 parameter names of an official file, in the order of the layers."""
    modules = ["conv1.conv2d", "in1", "conv2.conv2d", "in2", "conv3.conv2d", "in3"]
    for i in range(1, 6):
        modules += [f"res{i}.{part}" for part in ("conv1.conv2d", "in1", "conv2.conv2d", "in2")]
    modules += ["deconv1.conv2d", "in4", "deconv2.conv2d", "in5", "deconv3.conv2d"]
    return [f"{module}.{kind}" for module in modules for kind in ("weight", "bias")]
