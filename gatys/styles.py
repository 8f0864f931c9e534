"""Styles without paintings: what Gatys et al. (2016) call a style is a set of Gram matrices, and these fit into a file.

A preset holds them for a painting, or as the mean over many, at several sizes: seen from further away, the same
painting has another style.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gatys.losses import gram_matrix
from gatys.options import STYLE_LAYERS
from stylekit import checkpoint, images, weights
from stylekit.vgg import VGGFeatures

SIZES = (128, 256, 512, 1024)
"""Longer sides, in pixels, that paintings of a preset are seen at; none is enlarged."""
LOST = 2e-3
"""How much of the squared norm of a Gram matrix a file may lack: a fiftieth of what the compact network errs by."""


@dataclass(frozen=True)
class Preset:
    """The Gram matrices of a style.

    Args:
        grams: By size and layer, (1, N, N) as `gram_matrix` returns them; at least one size.
        fingerprint: Of the network that saw the paintings (`VGGFeatures.fingerprint`).
    """

    grams: dict[int, dict[str, Tensor]]
    fingerprint: str

    def at(self, size: float) -> dict[str, Tensor]:
        """The Gram matrices for a painting whose longer side has `size` pixels: between those of the two next sizes.

        Beyond the smallest and the largest size, these are taken.
        """
        sizes = sorted(self.grams)
        size = min(max(size, sizes[0]), sizes[-1])
        above = next(s for s in sizes if s >= size)
        below = max((s for s in sizes if s <= size), default=above)
        share = math.log(size / below) / math.log(above / below) if above > below else 0.0
        return {layer: torch.lerp(gram, self.grams[above][layer], share) for layer, gram in self.grams[below].items()}


@torch.no_grad()
def make_preset(pictures: Iterable[Image.Image], network: VGGFeatures) -> Preset:
    """The style of a painting, or the mean over many, which is a painter's style rather than a painting's.

    Args:
        pictures: Paintings; sizes larger than one of them are made from the others.
        network: With `normalize=True`, and all layers that are to be asked for.

    Raises:
        ValueError: There is no picture.
    """
    sums: dict[int, dict[str, Tensor]] = {}
    counts: dict[int, int] = {}
    device = network.mean.device
    for picture in pictures:
        # A painting that is smaller than all sizes counts as the smallest.
        fitting = [size for size in SIZES if size <= max(picture.size)] or [SIZES[0]]
        for size in fitting:
            seen = network(images.to_tensor(images.resize(picture, size)).to(device))
            total = sums.setdefault(size, {})
            for layer, features in seen.items():
                gram = gram_matrix(features).cpu()
                total[layer] = total[layer] + gram if layer in total else gram
            counts[size] = counts.get(size, 0) + 1
    if not sums:
        raise ValueError("a style needs at least one painting")
    mean = {size: {layer: gram / counts[size] for layer, gram in sums[size].items()} for size in sorted(sums)}
    return Preset(mean, network.fingerprint)


def save_preset(preset: Preset, path: str | Path) -> None:
    """Write a preset, in float16: of each Gram matrix G a factor A of low rank, G = A A^T / N.

    A style has few dimensions: as many are kept as hold all but LOST of the matrix.

    Raises:
        OSError: The file cannot be written.
    """
    tensors = {}
    for size, grams in preset.grams.items():
        for layer, gram in grams.items():
            # Times N, the values are around 1, where float16 is at its best.
            values, vectors = torch.linalg.eigh(gram[0].double() * gram.shape[-1])
            lost = values.square().cumsum(0) / values.square().sum().clamp(min=1e-30)
            kept = max(1, int((lost > LOST).sum()))
            factor = vectors[:, -kept:] * values[-kept:].clamp(min=0).sqrt()
            tensors[f"{size}.{layer}"] = factor.half().contiguous()
    with checkpoint.atomic(path) as file:
        file.write(save(tensors, {"fingerprint": preset.fingerprint}))


def load_preset(name: str | Path) -> Preset:
    """Read a preset: a file, or by name one that comes with the library.

    Raises:
        FileNotFoundError: There is no such style; the message lists those that the library ships.
        ValueError: The file is damaged, or holds no style.
    """
    path = Path(name)
    if not path.is_file():
        known = shipped_presets()
        if str(name) not in known:
            raise FileNotFoundError(
                f"no style {name}; expected a file of `gatys make-style`, or one of {', '.join(known) or 'none here'}"
            )
        path = known[str(name)]
    try:
        with safe_open(path, "pt") as file:
            fingerprint = (file.metadata() or {})["fingerprint"]
            grams: dict[int, dict[str, Tensor]] = {}
            for key in list(file.keys()):
                size, layer = key.split(".")
                grams.setdefault(int(size), {})[layer] = _gram(file.get_tensor(key))
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: damaged, or no style that `gatys make-style` wrote") from error
    if not grams or any(grams[size].keys() != next(iter(grams.values())).keys() for size in grams):
        raise ValueError(f"{path}: holds no style, or only a part of one")
    return Preset(grams, fingerprint)


def check_preset(preset: Preset, network: VGGFeatures, layers: Sequence[str]) -> None:
    """Make sure that a preset can be compared with what a network sees.

    Raises:
        ValueError: It was made with another network, or lacks a layer.
    """
    if preset.fingerprint != network.fingerprint:
        raise ValueError(
            "this style was made with another VGG network, or another pooling, than is asked for; "
            "make it anew by `gatys make-style`, or use the painting itself"
        )
    known = next(iter(preset.grams.values()))
    if missing := [layer for layer in layers if layer not in known]:
        raise ValueError(f"--style-layers: this style has no {', '.join(missing)}; it has {', '.join(known)}")


def shipped_presets() -> dict[str, Path]:
    """The styles that come with the library, by name."""
    return weights.shipped_files("styles", ".safetensors")


def style_network(network: str, vgg_weights: str | None, pooling: str) -> VGGFeatures:
    """The network as `make_preset` needs it: all layers that the paper compares styles at."""
    return VGGFeatures(STYLE_LAYERS, network, vgg_weights, pooling, "replicate", normalize=True)  # type: ignore[arg-type]


def _gram(factor: Tensor) -> Tensor:
    if factor.ndim != 2:
        raise ValueError("not a matrix")
    return (factor.float() @ factor.float().mT / len(factor))[None]
