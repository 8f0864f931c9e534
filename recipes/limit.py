"""Remove the blots of a Johnson network: `python recipes/limit.py RUN --photographs FOLDER -o FOLDER`.

A network can hide the contrast of its features behind one huge value, which instance normalization divides by; in the
picture it is a black or white blot (Karras et al. 2020, StyleGAN2, section 2). If the features are limited, but still
normalized with the statistics of the network without a limit, the blots vanish and all else stays. On average over
photographs, those statistics differ from those of the limited features by a factor and a shift for each channel. This
moves both into the scales and shifts of the normalizations.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import tyro
from torch import Tensor

from johnson.models import TransformerNet
from johnson.stylize import load_network
from stylekit import cli
from stylekit.networks import weights
from stylekit.networks.blocks import InstanceNorm2d, Statistics
from stylekit.networks.noise import random_noise
from stylekit.options import check_at_least, check_positive
from stylekit.pictures import images
from stylekit.training.data import evenly_spaced

EPS = InstanceNorm2d(1).eps


@dataclass(frozen=True)
class LimitConfig:
    """Limit the features of a network, and scale them so that its pictures stay the same, but for blots."""

    network: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NETWORK")]
    """A network without a limit, given like --style of `johnson stylize`."""

    photographs: Path
    """Folder of photographs."""

    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))]
    """Folder for config.json and model.safetensors, which must not exist."""

    limit: float = 3.0
    """Largest absolute value of normalized features."""

    count: int = 24
    """Number of photographs."""

    size: int = 400
    """Longer side of the photographs."""

    def __post_init__(self) -> None:
        check_positive(self, "limit")
        check_at_least(self, 1, "count")
        check_at_least(self, 16, "size")


def limit(config: LimitConfig) -> None:
    """Write the limited network.

    Raises:
        FileExistsError: The output exists.
        FileNotFoundError: There are no photographs.
        ValueError: The network has a limit already.
    """
    if config.output.exists():
        raise FileExistsError(f"{config.output} already exists; choose another --output")
    paths = images.find(config.photographs)
    if not paths:
        raise FileNotFoundError(f"no pictures in {config.photographs}")
    network = load_network(config.network)
    options = dict(cast("dict[str, Any]", network._hub_mixin_config))
    if options.get("limit"):
        raise ValueError(f"{config.network} has a limit of {options['limit']:g} already")
    limited = TransformerNet(**options | {"limit": config.limit}).eval()
    limited.load_state_dict(network.state_dict())
    differences = [_compare(network, limited, path, config.size) for path in evenly_spaced(paths, config.count)]
    with torch.no_grad():
        for norm, *found in zip(_norms(limited), *differences, strict=True):
            factor = torch.stack([factor for factor, _ in found]).median(0).values
            shift = torch.stack([shift for _, shift in found]).median(0).values
            norm.bias += norm.weight * shift
            norm.weight *= factor
    weights.save(limited, config.output)


def _compare(network: TransformerNet, limited: TransformerNet, path: Path, size: int) -> list[Statistics]:
    """Factor and shift, (C,) each, from the statistics of each normalization in `limited` to those in `network`.

    `limited` runs with the statistics of `network`.
    """
    photograph = images.to_tensor(images.resize(images.load(path), size))
    height, width = (side // 4 * 4 for side in photograph.shape[2:])
    noise = random_noise(1, height, width, 1, photograph.device)
    wanted: list[Statistics] = []
    differences: list[Statistics] = []

    def record(x: Tensor) -> Statistics:
        variance, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
        wanted.append((mean, variance))
        return mean, variance

    def replay(x: Tensor) -> Statistics:
        variance, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
        wanted_mean, wanted_variance = wanted[len(differences)]
        deviation = (wanted_variance + EPS).sqrt()
        factor = (variance + EPS).sqrt() / deviation
        differences.append((factor.flatten(), ((mean - wanted_mean) / deviation).flatten()))
        return wanted_mean, wanted_variance

    with torch.no_grad():
        for copy, measure in ((network, record), (limited, replay)):
            for norm in _norms(copy):
                norm.measure = measure
            copy(photograph[..., :height, :width], noise)
            for norm in _norms(copy):
                norm.measure = None
    return differences


def _norms(network: TransformerNet) -> list[InstanceNorm2d]:
    """In the order of their execution."""
    return [module for module in network.modules() if isinstance(module, InstanceNorm2d)]


if __name__ == "__main__":
    with cli.exit_on_error("limit.py"):
        limit(cli.parse(LimitConfig, "limit.py", sys.argv[1:]))
