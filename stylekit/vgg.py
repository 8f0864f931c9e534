"""VGG as a judge of pictures: what its named layers see (Simonyan & Zisserman 2015; Gatys et al. 2016).

`vgg16` and `vgg19` are the published networks. `compact` is ours: the first thirteen convolutions of VGG-19, the early
ones with fewer channels, the late ones of low rank, trained to see what VGG-19 sees (`stylekit.distill`); its weights
come with the library.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor, nn

from stylekit.checkpoint import load_tensors
from stylekit.images import to_tensor
from stylekit.weights import shipped_file

Network = Literal["compact", "vgg16", "vgg19"]
Pooling = Literal["max", "average"]
Padding = Literal["zeros", "replicate"]

# Convolutions of each stage, between one pooling and the next, and their channels (Simonyan & Zisserman 2015, table 1,
# columns D and E).
_CONVOLUTIONS: dict[Network, tuple[int, ...]] = {
    "compact": (2, 2, 4, 4, 1),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
_CHANNELS: dict[Network, tuple[int, ...]] = {
    "compact": (32, 64, 128, 512, 512),
    "vgg16": (64, 128, 256, 512, 512),
    "vgg19": (64, 128, 256, 512, 512),
}
# What the late layers see lies in few dimensions before the ReLU, but not behind it: channels taken out are missed
# there, a convolution of low rank is not. The deeper, the more dimensions.
_RANKS: dict[Network, dict[str, int]] = {
    "compact": {"conv4_1": 128, "conv4_2": 128, "conv4_3": 192, "conv4_4": 256, "conv5_1": 256},
    "vgg16": {},
    "vgg19": {},
}

# What a network was trained to see: RGB in [0, 1], minus a mean, divided by a deviation.
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_CAFFE = {"mean": (0.48501961, 0.45795686, 0.40760392), "std": (1 / 255, 1 / 255, 1 / 255)}


class VGGFeatures(nn.Module):
    """The activations of named layers of a VGG network (Simonyan & Zisserman 2015), for pictures in [0, 1].

    The network is built only as deep as the deepest layer asked for. It is frozen, but gradients reach the picture.

    Departures, both off unless asked for: average pooling, which Gatys et al. (2016) found slightly more appealing,
    and a first convolution that repeats the border of the picture, since zeros there look like a frame to the network.

    Shape: (B, 3, H, W) in [0, 1] -> a dict from layer name to (B, C, h, w), in the order asked for. Each pooling on the
    way halves height and width, rounding down. `features(x, ["relu1_1"])` gives some of the layers only, and runs no
    deeper than they need.

    Args:
        layers: Names such as "relu1_1", "conv4_2" or "pool3"; `layer_names` lists them. One name may stand alone.
        network: "vgg19", "vgg16" or "compact".
        weights: Tensors by name, or a file with them, read without running any code in it: a model of torchvision,
            whole or only its convolutions, in any floating-point type; a state dict of this class; or the Caffe weights
            under the names that Gatys et al. released them with (`conv1_1.weight`). None takes torchvision's ImageNet
            weights, downloaded the first time; for "compact" those that the library ships.
        pooling: "max", as published, or "average".
        padding: Of the first convolution: "zeros", as published, or "replicate". The others always see zeros.
        normalize: Scale every layer so that its mean activation over natural pictures is 1: weights from different
            sources, which differ tenfold and more, then give losses of one size. Gatys et al. (2016, section 2) do this
            for every filter; we do it for a layer as a whole, which does not amplify filters that hardly ever speak.

    Raises:
        ValueError: A name is none of those listed; or the file is damaged, is for the other network, lacks a tensor, or
            holds one of another shape. From the forward pass: the input is no batch of RGB pictures, or too small.
        FileNotFoundError: There is no such file.
        OSError: The download failed.
    """

    mean: Tensor
    std: Tensor
    fingerprint: str
    """A hash of all weights in the source, whatever the depth, and of the pooling."""

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
        with torch.device("meta"):  # Shapes only: the values come from the weights.
            self.register_buffer("mean", torch.empty(3, 1, 1))
            self.register_buffer("std", torch.empty(3, 1, 1))
            self.features = nn.Sequential(*_modules(self._names, network, self.layers, pooling, padding))
        tensors, source = _tensors(network, weights)
        self.fingerprint = _fingerprint(tensors, pooling)
        shapes = {name: tensor.shape for name, tensor in self.state_dict().items()}
        self.load_state_dict(_state_dict(tensors, shapes, network, source), assign=True)
        self.requires_grad_(False).eval()
        if normalize:
            rescale(self.features, (_dead_leaves() - self.mean) / self.std)

    def forward(self, x: Tensor, layers: Sequence[str] | None = None) -> dict[str, Tensor]:
        wanted = self.layers if layers is None else layers
        if x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"a batch of pictures is (B, 3, H, W), got {tuple(x.shape)}")
        least = 2 ** sum(name.startswith("pool") for name in self._names)
        if min(x.shape[2:]) < least:
            got = " x ".join(map(str, x.shape[2:]))
            raise ValueError(f"{self._names[-1]} needs pictures of at least {least} x {least} pixels, got {got}")
        x = (x - self.mean) / self.std
        seen: dict[str, Tensor] = {}
        for name, module in zip(self._names, self.features, strict=True):
            x = module(x)
            if name in wanted:
                seen[name] = x
            if len(seen) == len(wanted):
                break
        return {name: seen[name] for name in wanted}


class LowRankConv2d(nn.Sequential):
    """A 3 x 3 convolution to few channels, and a 1 x 1 convolution from these to many (Zhang et al. 2016, section 3.1).

    Shape: (B, inputs, H, W) -> (B, outputs, H, W).
    """

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__(nn.Conv2d(inputs, rank, 3, padding=1, bias=False), nn.Conv2d(rank, outputs, 1))

    @property
    def reduce(self) -> nn.Conv2d:
        """The 3 x 3 convolution."""
        return cast(nn.Conv2d, self[0])

    @property
    def expand(self) -> nn.Conv2d:
        """The 1 x 1 convolution."""
        return cast(nn.Conv2d, self[1])


def layer_names(network: Network = "vgg19") -> tuple[str, ...]:
    """The layers of a network, first to last: conv1_1, relu1_1, ..., pool5. Each stands where torchvision has it.

    Raises:
        ValueError: There is no such network.
    """
    _check("network", [network], get_args(Network))
    names: list[str] = []
    for stage, convolutions in enumerate(_CONVOLUTIONS[network], start=1):
        for i in range(1, convolutions + 1):
            names += [f"conv{stage}_{i}", f"relu{stage}_{i}"]
        names.append(f"pool{stage}")
    return tuple(names)


@torch.no_grad()
def rescale(features: nn.Sequential, x: Tensor) -> None:
    """Scale the convolutions in place, such that the mean of every ReLU is 1.

    What the network sees does not change, as there are only convolutions, ReLUs and poolings (Gatys et al. 2016,
    section 2).

    Args:
        features: Convolutions, each followed by a ReLU, and poolings.
        x: A batch of natural pictures, as the first convolution takes them.
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
    """How many channels a convolution gives, and its rank if it is a `LowRankConv2d`."""
    return _CHANNELS[network][int(convolution[4]) - 1], _RANKS[network].get(convolution)


def stride(layer: str) -> int:
    """How many pixels apart the positions of a layer are: 1 for relu1_1, 8 for relu4_2."""
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
                yield nn.Conv2d(channels, width, 3, padding=1, padding_mode="zeros" if previous else padding)
            channels = width
        elif name.startswith("relu"):
            # In place saves memory, but would overwrite the convolution: only where nobody looks at that.
            yield nn.ReLU(inplace=previous not in kept)
        else:
            yield nn.MaxPool2d(2) if pooling == "max" else nn.AvgPool2d(2)
        previous = name


def _tensors(network: Network, weights: str | Path | Mapping[str, Tensor] | None) -> tuple[dict[str, Tensor], str]:
    """The tensors, and what to call them in an error."""
    if isinstance(weights, Mapping):
        return dict(weights), "the given weights"
    if weights is not None:
        return load_tensors(weights), str(weights)
    if network == "compact":
        return load_tensors(shipped_file("vgg-compact/model.safetensors")), "the shipped network"
    return _download(network), f"torchvision's {network}"


def _fingerprint(tensors: Mapping[str, Tensor], pooling: Pooling) -> str:
    digest = hashlib.sha256(pooling.encode())
    for name in sorted(tensors):
        # Not the classifier of a whole model: what pictures are called is of no concern.
        if not name.startswith("classifier"):
            digest.update(tensors[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _dead_leaves(size: int = 256, leaves: int = 1500) -> Tensor:
    """A picture with the statistics of natural ones: discs over discs, of all sizes (Lee, Mumford & Huang 2001).

    Slightly blurred, as lenses do it, it moves the layers of VGG-19 as photographs do: between 0.85 and 1.4 times as
    much.

    Shape: (1, 3, size, size) in [0, 1]; always the same.
    """
    draw = np.random.default_rng(0)
    picture = np.full((size, size, 3), 0.45)
    y, x = np.mgrid[:size, :size]
    # Radii from 2 px to half the picture, their density falling with the cube.
    for radius in 1 / np.sqrt(draw.uniform((2 / size) ** 2, (1 / 2) ** 2, leaves)):
        at_y, at_x = draw.uniform(-radius, size + radius, 2)
        grey = draw.normal(0.45, 0.25)
        picture[(y - at_y) ** 2 + (x - at_x) ** 2 < radius**2] = grey + draw.normal(0, 0.08, 3)
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
        raise OSError(
            f"could not get {weights.url} ({reason}); give a copy of it: --vgg-weights FILE, or weights=FILE in Python"
        ) from error


def _state_dict(
    tensors: dict[str, Tensor], shapes: dict[str, torch.Size], network: Network, source: str
) -> dict[str, Tensor]:
    """The tensors of a file in any of its layouts, as `VGGFeatures` names and shapes them."""
    tensors = {re.sub(r"^((module|_orig_mod|features)\.)+", "", key): tensor for key, tensor in tensors.items()}
    caffe = any(re.match(r"conv\d_\d\.", key) for key in tensors)
    names = layer_names(network)
    hint = _hint_at_other_network(tensors, network, caffe)

    for name, values in (_CAFFE if caffe else _IMAGENET).items():
        tensors.setdefault(name, torch.tensor(values).view(3, 1, 1))
    state = {}
    for name, shape in shapes.items():
        key = name.removeprefix("features.")
        if caffe:
            key = re.sub(r"^\d+", lambda index: names[int(index[0])], key)
        shown = key if caffe else name
        if key not in tensors:
            raise ValueError(f"{source}: no tensor {shown}; expected one of shape {tuple(shape)}{hint}")
        if tensors[key].shape != shape:
            raise ValueError(f"{source}: {shown} is {tuple(tensors[key].shape)}; expected {tuple(shape)}{hint}")
        state[name] = tensors[key].detach().float()
    if hint:
        raise ValueError(f"{source}: these are not the weights of {network}{hint}")
    if caffe:
        # Caffe reads pictures as BGR.
        state["features.0.weight"] = state["features.0.weight"].flip(1)
    return state


def _hint_at_other_network(tensors: Iterable[str], network: Network, caffe: bool) -> str:
    """What to do about a file that has the layers of the other network; empty if it has not.

    Both begin with the same shapes, so that the layers needed may all be there and still be the wrong ones.
    """
    found = {key.removesuffix(".weight") for key in tensors if re.fullmatch(r"(conv\d_)?\d+\.weight", key)}
    fitting = []
    for candidate in get_args(Network):
        names = enumerate(layer_names(candidate))
        convolutions = [name if caffe else str(i) for i, name in names if name.startswith("conv")]
        if found == set(convolutions[: len(found)]):
            fitting.append(candidate)
    if network in fitting or not fitting:
        return ""
    return f". The file holds {fitting[0]}: pass network={fitting[0]!r}, or a file of {network}"


def _check(what: str, wanted: Sequence[str], known: Sequence[str]) -> None:
    unknown = ", ".join(repr(name) for name in wanted if name not in known)
    if unknown or not wanted:
        raise ValueError(f"no {what} {unknown or 'was asked for'}; choose from {', '.join(known)}")
