"""Styles without paintings: presets are files of Gram matrices, which Gatys et al. (2016) call a style.

A preset holds the Gram matrices of a painting, or the mean over several, at several sizes, because the style of a
painting depends on the size at which the network evaluates it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gatys.losses import gram_matrix
from gatys.options import STYLE_LAYERS
from stylekit.atomic import atomic_write
from stylekit.networks import weights
from stylekit.networks.vgg import VGGFeatures
from stylekit.options import did_you_mean
from stylekit.pictures import images

SIZES = (128, 256, 512, 1024)
"""Longer sides in pixels at which the paintings of a preset are evaluated; paintings are never enlarged."""
MAX_CHANNELS = 512
"""No layer of a VGG network has more; a larger matrix would take gigabytes."""
DISCARDED = 2e-3
"""Fraction of the squared norm of a Gram matrix that a file may discard: 1/50 of the error of the compact network."""


@dataclass(frozen=True)
class Preset:
    """The Gram matrices of a style.

    Args:
        grams: Results of `gram_matrix`, (1, N, N), by size and then by layer; at least one size.
        fingerprint: Identifies the network that the matrices belong to (`VGGFeatures.fingerprint`).
    """

    grams: dict[int, dict[str, Tensor]]
    fingerprint: str

    def at(self, size: float) -> dict[str, Tensor]:
        """The Gram matrices for a painting whose longer side is `size` pixels, interpolated between the stored sizes.

        Outside the range of stored sizes, the nearest one is used.
        """
        sizes = sorted(self.grams)
        size = min(max(size, sizes[0]), sizes[-1])
        above = next(s for s in sizes if s >= size)
        below = max((s for s in sizes if s <= size), default=above)
        fraction = math.log(size / below) / math.log(above / below) if above > below else 0.0
        return {
            layer: torch.lerp(gram, self.grams[above][layer], fraction) for layer, gram in self.grams[below].items()
        }


Style = Tensor | Preset
"""A painting, (1, 3, H, W) in [0, 1], or a preset."""


def mean_grams(grams: Iterable[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """The weighted mean of several styles, which are Gram matrices by layer, (1, N, N); weights are not all 0."""
    mean: dict[str, Tensor] = {}
    for style, weight in zip(grams, weights, strict=True):
        for layer, gram in style.items():
            weighted = weight / sum(weights) * gram
            mean[layer] = mean[layer] + weighted if layer in mean else weighted
    return mean


@torch.no_grad()
def make_preset(pictures: Iterable[Image.Image], network: VGGFeatures) -> Preset:
    """The style of a painting, or the mean of several. Each contributes only to the sizes that it reaches.

    The network must be built with `normalize=True` and all layers that the preset should contain.
    """
    means: dict[int, dict[str, Tensor]] = {}
    counts: dict[int, int] = {}
    device = network.mean.device
    for picture in pictures:
        # A painting that is smaller than all sizes is used for the smallest.
        sizes = [size for size in SIZES if size <= max(picture.size)] or [SIZES[0]]
        for size in sizes:
            layers = network(images.to_tensor(images.resize(picture, size)).to(device))
            grams = {layer: gram_matrix(features).cpu() for layer, features in layers.items()}
            count = counts.get(size, 0)
            means[size] = mean_grams([means[size], grams], [count, 1]) if count else grams
            counts[size] = count + 1
    if not means:
        raise ValueError("expected at least one painting")
    return Preset(dict(sorted(means.items())), network.fingerprint)


def save_preset(preset: Preset, path: str | Path) -> None:
    """Write a preset as float16 factors A of its Gram matrices A A^T / N, of the lowest rank that DISCARDED allows."""
    tensors = {}
    for size, grams in preset.grams.items():
        for layer, gram in grams.items():
            # Multiplied by N, the values are around 1, where float16 is precise.
            values, vectors = torch.linalg.eigh(gram[0].double() * gram.shape[-1])
            discarded = values.square().cumsum(0) / values.square().sum().clamp(min=1e-30)
            kept = max(1, int((discarded > DISCARDED).sum()))
            tensors[f"{size}.{layer}"] = (vectors[:, -kept:] * values[-kept:].clamp(min=0).sqrt()).half().contiguous()
    with atomic_write(path) as file:
        file.write(save(tensors, {"fingerprint": preset.fingerprint}))


def load_preset(name: str | Path) -> Preset:
    """Read a preset from a file, or a bundled one by name.

    Raises:
        FileNotFoundError: The style does not exist; the message lists the bundled ones.
        ValueError: The file is damaged or is not a preset.
    """
    path = Path(name)
    if not path.is_file():
        known = bundled_presets()
        if str(name) not in known:
            raise FileNotFoundError(
                f"no style {name}{did_you_mean(str(name), known)}; expected a picture, a file written by "
                f"`gatys make-style`, or one of {', '.join(known)}"
            )
        path = known[str(name)]
    try:
        with safe_open(path, "pt") as file:
            fingerprint = (file.metadata() or {})["fingerprint"]
            grams: dict[int, dict[str, Tensor]] = {}
            for key in list(file.keys()):
                size, layer = key.split(".")
                grams.setdefault(int(size), {})[layer] = _gram(file.get_tensor(key))
        if not grams or min(grams) < 1 or any(found.keys() != grams[min(grams)].keys() for found in grams.values()):
            raise ValueError("expected the same layers at every size")
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: damaged, or not written by `gatys make-style`") from error
    return Preset(grams, fingerprint)


def check_preset(preset: Preset, network: VGGFeatures, layers: Sequence[str]) -> None:
    """Raise ValueError unless a preset was made with this network and has these layers, which the network has, too."""
    if preset.fingerprint != network.fingerprint:
        raise ValueError(
            "this style was made with another VGG network or pooling; "
            "recreate it with `gatys make-style`, or use the painting itself"
        )
    known = next(iter(preset.grams.values()))
    if missing := [layer for layer in layers if layer not in known]:
        raise ValueError(f"--style-layers: this style has no {', '.join(missing)}; it has {', '.join(known)}")
    for layer, features in network(torch.zeros(1, 3, 32, 32).to(network.mean), layers).items():
        shape = (1, features.shape[1], features.shape[1])
        for grams in preset.grams.values():
            gram = grams[layer]
            if not isinstance(gram, Tensor) or gram.shape != shape or not gram.isfinite().all():
                raise ValueError(f"this style is damaged: its {layer} does not fit the network; recreate it")


def bundled_presets() -> dict[str, Path]:
    """The bundled styles by name."""
    return {path.stem: path for path in sorted((weights.BUNDLED / "styles").glob("*.safetensors"))}


def style_network(network: str, vgg_weights: str | None, pooling: str) -> VGGFeatures:
    """The network for `make_preset`, with the style layers of the paper."""
    return VGGFeatures(STYLE_LAYERS, network, vgg_weights, pooling, "replicate", normalize=True)  # type: ignore[arg-type]


def _gram(factor: Tensor) -> Tensor:
    if factor.ndim != 2 or max(factor.shape) > MAX_CHANNELS:
        raise ValueError(f"expected a matrix of at most {MAX_CHANNELS} x {MAX_CHANNELS}, got {tuple(factor.shape)}")
    gram = (factor.float() @ factor.float().mT / len(factor))[None]
    if not gram.isfinite().all():
        raise ValueError("infinite or NaN")
    return gram
