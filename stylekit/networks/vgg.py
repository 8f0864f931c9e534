"""Features of VGG networks at named layers (Simonyan & Zisserman 2015; Gatys et al. 2016).

`vgg16` and `vgg19` are the published networks. `compact` is the first thirteen convolutions of VGG-19, the early ones
with fewer channels and the late ones of low rank, distilled from VGG-19 (recipes/vgg_compact.py). Its weights are
bundled.
"""

from __future__ import annotations

import functools
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor, nn

from stylekit.networks.convolutions import Conv2d
from stylekit.networks.weights import bundled_file, check_shapes, load_tensors
from stylekit.pictures.images import to_tensor

Network = Literal["compact", "vgg16", "vgg19"]
Pooling = Literal["max", "average"]
Padding = Literal["zeros", "replicate"]

# Convolutions in each stage (the layers up to a pooling) and their channels (Simonyan & Zisserman 2015, table 1).
_STAGES: dict[Network, tuple[tuple[int, int], ...]] = {
    "compact": ((2, 32), (2, 64), (4, 128), (4, 512), (1, 512)),
    "vgg16": ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)),
    "vgg19": ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512)),
}
# Features of the late layers have low rank before the ReLU but not after it. Low-rank convolutions therefore lose less
# than removing channels. Deeper layers need higher ranks.
_COMPACT_RANKS = {"conv4_1": 128, "conv4_2": 128, "conv4_3": 192, "conv4_4": 256, "conv5_1": 256}

# Input normalization of the two families of weights, for RGB in [0, 1].
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_CAFFE = {"mean": (0.48501961, 0.45795686, 0.40760392), "std": (1 / 255, 1 / 255, 1 / 255)}


class VGGFeatures(nn.Module):
    """The activations of named layers of a VGG network (Simonyan & Zisserman 2015).

    The network ends at the deepest requested layer. Its weights are frozen; gradients reach the picture.

    Shape: (B, 3, H, W) in [0, 1] -> a dict from layer name to (B, C, h, w), in the requested order. Each pooling halves
    height and width, rounding down. `features(x, ["relu1_1"])` returns a subset of the layers and stops at the deepest.

    Args:
        layers: Names such as "relu1_1", "conv4_2" or "pool3" (see `layer_names`), or a single name.
        network: "vgg19", "vgg16" or "compact".
        weights: Tensors by name, or a file that contains them: a state dict of torchvision's model, complete or without
            the classifier; one of this class; or the Caffe weights with the names used by Gatys et al.
            (`conv1_1.weight`). None: torchvision's ImageNet weights, downloaded once; for "compact" the bundled ones.
            A ValueError says that a file belongs to another network, an OSError that the download failed.
        pooling: "max", as published, or "average", which Gatys et al. (2016) found slightly more appealing.
        padding: Of the first convolution: "zeros", as published, or "replicate", since zeros act like a frame around
            the picture. All other convolutions use zeros.
        normalize: Scale every layer so that its mean activation over natural pictures is 1. Losses then have the same
            scale for weights from different sources, which differ by a factor of 10 and more. Gatys et al. (2016,
            section 2) do this per filter; scaling the layer as a whole does not amplify filters that rarely activate.
    """

    mean: Tensor
    std: Tensor
    fingerprint: str
    """Hash of all convolution weights in the source, independent of the depth, and of the pooling."""

    def __init__(
        self,
        layers: Iterable[str],
        network: Network = "vgg19",
        weights: str | Path | Mapping[str, Tensor] | None = None,
        pooling: Pooling = "max",
        padding: Padding = "zeros",
        normalize: bool = False,
    ) -> None:
        super().__init__()
        names = layer_names(network)
        _check("pooling", [pooling], get_args(Pooling))
        _check("padding", [padding], get_args(Padding))
        self.layers = (layers,) if isinstance(layers, str) else tuple(layers)
        _check(f"{network} layer", self.layers, names)
        self._names = names[: 1 + max(map(names.index, self.layers))]
        with torch.device("meta"):  # Shapes only; the values are loaded below.
            self.register_buffer("mean", torch.empty(3, 1, 1))
            self.register_buffer("std", torch.empty(3, 1, 1))
            self.features = nn.Sequential(*_modules(self._names, network, self.layers, pooling, padding))
        if weights is None and network == "compact":
            weights = bundled_file("vgg-compact/model.safetensors")
        source = "the given weights" if isinstance(weights, Mapping) else str(weights or f"torchvision's {network}")
        if not isinstance(weights, Mapping):
            weights = load_tensors(weights) if weights else _download(network)
        self.fingerprint = _fingerprint(weights, pooling)
        shapes = {name: tensor.shape for name, tensor in self.state_dict().items()}
        self.load_state_dict(_state_dict(weights, shapes, network, source), assign=True)
        self.requires_grad_(False).eval()
        if normalize:
            rescale(self.features, (_dead_leaves() - self.mean) / self.std)

    def forward(self, x: Tensor, layers: Sequence[str] | None = None) -> dict[str, Tensor]:
        wanted = self.layers if layers is None else layers
        if x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"expected a batch of pictures (B, 3, H, W), got {tuple(x.shape)}")
        least = 2 ** sum(name.startswith("pool") for name in self._names)
        if min(x.shape[2:]) < least:
            got = " x ".join(map(str, x.shape[2:]))
            raise ValueError(f"{self._names[-1]} needs pictures of at least {least} x {least} pixels, got {got}")
        x = (x - self.mean) / self.std
        features: dict[str, Tensor] = {}
        for name, module in zip(self._names, self.features, strict=True):
            x = module(x)
            if name in wanted:
                features[name] = x
            if len(features) == len(wanted):
                break
        return {name: features[name] for name in wanted}


class LowRankConv2d(nn.Sequential):
    """A 3 x 3 convolution to `rank` channels followed by a 1 x 1 convolution (Zhang et al. 2016, section 3.1).

    Shape: (B, inputs, H, W) -> (B, outputs, H, W).
    """

    reduce = property(lambda self: self[0], doc="The 3 x 3 convolution.")
    expand = property(lambda self: self[1], doc="The 1 x 1 convolution.")

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__(Conv2d(inputs, rank, 3, padding=1, bias=False), nn.Conv2d(rank, outputs, 1))


def layer_names(network: Network = "vgg19") -> tuple[str, ...]:
    """The layers of a network in order: conv1_1, relu1_1, ..., pool5. Their indices are those of torchvision."""
    _check("network", [network], get_args(Network))
    names: list[str] = []
    for stage, (convolutions, _) in enumerate(_STAGES[network], start=1):
        for i in range(1, convolutions + 1):
            names += [f"conv{stage}_{i}", f"relu{stage}_{i}"]
        names.append(f"pool{stage}")
    return tuple(names)


@torch.no_grad()
def rescale(features: nn.Sequential, x: Tensor) -> None:
    """Scale the convolutions in place so that the mean output of every ReLU is 1 (Gatys et al. 2016, section 2).

    The features change by a constant factor per layer only, since ReLU and pooling commute with positive scaling.
    `x` is a batch of natural pictures, as input to the first convolution.
    """
    mean = 1.0
    for module in features:
        if isinstance(module, (nn.Conv2d, LowRankConv2d)):
            first, last = (module, module) if isinstance(module, nn.Conv2d) else (module.reduce, module.expand)
            first.weight.mul_(mean)
            x = module(x)
            mean = max(float(x.clamp(min=0).mean()), 1e-8)
            last.weight.div_(mean)
            assert last.bias is not None
            last.bias.div_(mean)
            x = x / mean
        else:
            x = module(x)


def architecture(network: Network, convolution: str) -> tuple[int, int | None]:
    """Output channels of a convolution (or its ReLU), and its rank if it is a `LowRankConv2d`, else None."""
    rank = _COMPACT_RANKS.get(convolution) if network == "compact" else None
    return _STAGES[network][int(convolution[4]) - 1][1], rank


def stride(layer: str) -> int:
    """Distance in pixels between neighboring positions of a layer: 1 for relu1_1, 8 for relu4_2."""
    stage = int(re.sub(r"\D*(\d).*", r"\1", layer))
    return 2 ** (stage if layer.startswith("pool") else stage - 1)


def _modules(
    names: Iterable[str], network: Network, kept: Sequence[str], pooling: Pooling, padding: Padding
) -> Iterator[nn.Module]:
    channels, previous = 3, ""
    for name in names:
        if name.startswith("conv"):
            width, rank = architecture(network, name)
            if rank:
                yield LowRankConv2d(channels, width, rank)
            else:
                yield Conv2d(channels, width, 3, padding=1, padding_mode="zeros" if previous else padding)
            channels = width
        elif name.startswith("relu"):
            # In place saves memory but overwrites the output of the convolution, unless that is requested.
            yield nn.ReLU(inplace=previous not in kept)
        else:
            yield nn.MaxPool2d(2) if pooling == "max" else nn.AvgPool2d(2)
        previous = name


def _fingerprint(tensors: Mapping[str, Tensor], pooling: Pooling) -> str:
    digest = hashlib.sha256(pooling.encode())
    for name in sorted(tensors):
        # Files with and without the classifier have the same fingerprint.
        if not name.startswith("classifier"):
            values = tensors[name].detach().cpu().contiguous().flatten()
            digest.update(values.view(torch.uint8).numpy().tobytes())  # NumPy itself has no bfloat16.
    return digest.hexdigest()


@functools.cache
def _dead_leaves(size: int = 256, leaves: int = 1500) -> Tensor:
    """A synthetic picture with natural statistics: overlapping discs of all sizes (Lee, Mumford & Huang 2001)."""
    draw = np.random.default_rng(0)
    picture = np.full((size, size, 3), 0.45)
    y, x = np.mgrid[:size, :size]
    # Radii from 2 px to half the picture, with density proportional to radius^-3.
    for radius in 1 / np.sqrt(draw.uniform((2 / size) ** 2, (1 / 2) ** 2, leaves)):
        at_y, at_x = draw.uniform(-radius, size + radius, 2)
        gray = draw.normal(0.45, 0.25)
        picture[(y - at_y) ** 2 + (x - at_x) ** 2 < radius**2] = gray + draw.normal(0, 0.08, 3)
    pixels = np.rint(picture.clip(0, 1) * 255).astype(np.uint8)
    return to_tensor(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1.3)))


def _download(network: Network) -> dict[str, Tensor]:
    from http.client import HTTPException

    from torchvision.models import get_weight  # type: ignore[import-untyped]

    weights = get_weight(f"{network.upper()}_Weights.IMAGENET1K_V1")
    try:
        return dict(weights.get_state_dict(progress=sys.stderr.isatty(), check_hash=True, weights_only=True))
    except (OSError, HTTPException, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        advice = "pass a local copy: --vgg-weights FILE or weights=FILE"
        raise OSError(f"could not download {weights.url} ({reason}); {advice}") from error


def _state_dict(
    tensors: Mapping[str, Tensor], shapes: dict[str, torch.Size], network: Network, source: str
) -> dict[str, Tensor]:
    """Convert the tensors of any supported file to the state dict of `VGGFeatures`."""
    cleaned = {}
    for key, tensor in tensors.items():
        key = re.sub(r"^((module|_orig_mod|features)\.)+", "", key)
        cleaned[f"features.{key}" if key[:1].isdigit() else key] = tensor
    caffe = any(re.match(r"conv\d_\d\.", key) for key in cleaned)
    if other := _other_network(cleaned, network, caffe):
        advice = f"pass network={other!r} or a file for {network}"
        raise ValueError(f"{source}: not the weights of {network}. The file contains {other}: {advice}")
    for name, values in (_CAFFE if caffe else _IMAGENET).items():
        cleaned.setdefault(name, torch.tensor(values).view(3, 1, 1))
    names = layer_names(network)
    keys = {name: name for name in shapes}
    if caffe:
        keys = {name: re.sub(r"^features\.(\d+)", lambda found: names[int(found[1])], name) for name in shapes}
    found = {key: cleaned[key] for key in keys.values() if key in cleaned}
    check_shapes(found, {keys[name]: shape for name, shape in shapes.items()}, source, network)
    state = {name: found[key].detach().float() for name, key in keys.items()}
    if caffe:
        # Caffe models expect BGR input.
        state["features.0.weight"] = state["features.0.weight"].flip(1)
    return state


def _other_network(tensors: Iterable[str], network: Network, caffe: bool) -> str:
    """The network to which a file belongs, if that is another one; empty if it fits or is unknown.

    The first layers of the networks have equal shapes, so a wrong file may contain every tensor that is needed.
    """
    matches = (re.fullmatch(r"(?:features\.)?((?:conv\d_)?\d+)\.weight", key) for key in tensors)
    found = {match[1] for match in matches if match}
    fitting = []
    for candidate in get_args(Network):
        names = enumerate(layer_names(candidate))
        convolutions = [name if caffe else str(i) for i, name in names if name.startswith("conv")]
        if found == set(convolutions[: len(found)]):
            fitting.append(candidate)
    return "" if network in fitting or not fitting else fitting[0]


def _check(what: str, wanted: Sequence[str], known: Sequence[str]) -> None:
    unknown = ", ".join(repr(name) for name in wanted if name not in known)
    if unknown or not wanted:
        raise ValueError(f"no {what} {unknown or 'given'}; choose from {', '.join(known)}")
