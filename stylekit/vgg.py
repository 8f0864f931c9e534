"""VGG as a judge of pictures: what its named layers see (Simonyan & Zisserman 2015; Gatys et al. 2016)."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from stylekit.checkpoint import load_tensors

Network = Literal["vgg16", "vgg19"]
Pooling = Literal["max", "average"]
Padding = Literal["zeros", "replicate"]

# Of each stage, between one pooling and the next (Simonyan & Zisserman 2015, table 1, columns D and E).
_CONVOLUTIONS: dict[Network, tuple[int, ...]] = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
_CHANNELS = (64, 128, 256, 512, 512)

# What a network was trained to see: RGB in [0, 1], minus a mean, divided by a deviation.
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_CAFFE = {"mean": (0.48501961, 0.45795686, 0.40760392), "std": (1 / 255, 1 / 255, 1 / 255)}


class VGGFeatures(nn.Module):
    """The activations of named layers of VGG-16 or VGG-19 (Simonyan & Zisserman 2015), for pictures in [0, 1].

    The network is built only as deep as the deepest layer asked for. It is frozen, but gradients reach the picture.

    Departures, both off unless asked for: average pooling, which Gatys et al. (2016) found slightly more appealing,
    and a first convolution that repeats the border of the picture, since zeros there look like a frame to the network.

    Shape: (B, 3, H, W) in [0, 1] -> a dict from layer name to (B, C, h, w), in the order asked for. Each pooling on the
    way halves height and width, rounding down.

    Args:
        layers: Names such as "relu1_1", "conv4_2" or "pool3"; `layer_names` lists them. One name may stand alone.
        network: "vgg19" or "vgg16".
        weights: A file, read without running any code in it: a model of torchvision, whole or only its convolutions, in
            any floating-point type; a state dict of this class; or the Caffe weights under the names that Gatys et al.
            released them with (`conv1_1.weight`). None takes torchvision's ImageNet weights, downloaded the first time.
        pooling: "max", as published, or "average".
        padding: Of the first convolution: "zeros", as published, or "replicate". The others always see zeros.

    Raises:
        ValueError: A name is none of those listed; or the file is damaged, is for the other network, lacks a tensor, or
            holds one of another shape. From the forward pass: the input is no batch of RGB pictures, or too small.
        FileNotFoundError: There is no such file.
        OSError: The download failed.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        layers: Iterable[str],
        network: Network = "vgg19",
        weights: str | Path | None = None,
        pooling: Pooling = "max",
        padding: Padding = "zeros",
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
            self.features = nn.Sequential(*_modules(self._names, self.layers, pooling, padding))
        tensors = _download(network) if weights is None else load_tensors(weights)
        source = f"torchvision's {network}" if weights is None else str(weights)
        shapes = {name: tensor.shape for name, tensor in self.state_dict().items()}
        self.load_state_dict(_state_dict(tensors, shapes, network, source), assign=True)
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
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
            if name in self.layers:
                seen[name] = x
        return {name: seen[name] for name in self.layers}


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


def _modules(names: Iterable[str], kept: Sequence[str], pooling: Pooling, padding: Padding) -> Iterator[nn.Module]:
    channels, previous = 3, ""
    for name in names:
        if name.startswith("conv"):
            width = _CHANNELS[int(name[4]) - 1]
            yield nn.Conv2d(channels, width, 3, padding=1, padding_mode="zeros" if previous else padding)
            channels = width
        elif name.startswith("relu"):
            # In place saves memory, but would overwrite the convolution: only where nobody looks at that.
            yield nn.ReLU(inplace=previous not in kept)
        else:
            yield nn.MaxPool2d(2) if pooling == "max" else nn.AvgPool2d(2)
        previous = name


def _download(network: Network) -> dict[str, Tensor]:
    from http.client import HTTPException

    from torchvision.models import get_weight  # type: ignore[import-untyped]

    weights = get_weight(f"{network.upper()}_Weights.IMAGENET1K_V1")
    try:
        return dict(weights.get_state_dict(progress=sys.stderr.isatty(), check_hash=True, weights_only=True))
    except (OSError, HTTPException, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise OSError(f"could not get {weights.url} ({reason}); pass weights=FILE with a copy of it") from error


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
