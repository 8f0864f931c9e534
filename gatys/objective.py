"""The objective of Gatys et al. (2016, eq. 7) and its gradient, computed in tiles where memory is short."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from gatys.losses import content_loss, gram_matrix, style_loss, total_variation
from gatys.optim import HISTORY
from gatys.options import StylizeConfig
from stylekit.devices import free_memory
from stylekit.networks.tiling import spans
from stylekit.networks.vgg import LowRankConv2d, VGGFeatures, stride

MARGIN = 96
"""Radius of the receptive field of relu5_1 in pixels (70 from convolutions, 15 from pooling), rounded up to a multiple
of 16. Inside a tile with this margin, the features equal those of the whole image."""


class Region(NamedTuple):
    """A region of the image and its target style."""

    mask: Tensor | None
    """(1, 1, H, W) in [0, 1], of any size; None for the whole image."""
    grams: Mapping[str, Tensor]
    """Gram matrices by layer, (1, N, N)."""


class Objective:
    """The weighted loss terms of an image and the gradient of their sum (eq. 7).

    The content loss is divided by N * M, so a weight means the same for all sizes and networks.

    Tiling does not change the result. A Gram matrix is a sum over positions: one pass over the tiles accumulates it,
    and a second pass backpropagates its gradient through each tile.

    Args:
        network: Provides the content and style layers of `config`.
        content: The photograph, (1, 3, H, W) in [0, 1].
        regions: At least one.
        config: Weights and layers.
        tile: Side of the tiles in pixels; None evaluates the whole image at once.
    """

    def __init__(
        self,
        network: VGGFeatures,
        content: Tensor,
        regions: Sequence[Region],
        config: StylizeConfig,
        tile: int | None = None,
    ) -> None:
        self.config = config
        content = _pad_to_minimum(content)
        self.tiles = _Tiles(network, content.shape[2], content.shape[3], tile)
        with torch.no_grad():
            self.content = [self.tiles.features(content, i)[config.content_layer].clone() for i in self.tiles.indices]
        self.activations = sum(part.numel() for part in self.content)
        self.targets = [region.grams for region in regions]
        self.parts = [self.tiles.split_mask(region.mask, config.style_layers, content) for region in regions]

    def __call__(self, image: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The weighted terms for an image of the size of the content, detached, and the gradient of their sum.

        Raises:
            FloatingPointError: The loss is infinite or NaN.
        """
        leaf = image.detach().requires_grad_()
        smoothness = {}
        if self.config.tv:
            smoothness["tv"] = self.config.tv * total_variation(leaf)
            smoothness["tv"].backward()
        terms = self._backward_whole(leaf) if len(self.tiles.indices) == 1 else self._backward_tiled(leaf)
        terms = {name: term.detach() for name, term in (terms | smoothness).items()}
        if not _sum(terms.values()).isfinite():
            raise FloatingPointError("the loss is infinite or NaN; try a smaller --lr, or --optimizer adam")
        return terms, cast(Tensor, leaf.grad)

    def _backward_whole(self, leaf: Tensor) -> dict[str, Tensor]:
        features = self.tiles.features(_pad_to_minimum(leaf), 0)
        terms = {"content": self._content_term(features, 0)} | self._style_terms(self._partial_grams(features, 0))
        _sum(terms.values()).backward()
        return terms

    def _backward_tiled(self, leaf: Tensor) -> dict[str, Tensor]:
        padded = _pad_to_minimum(leaf)
        with torch.no_grad():
            partial = [self._partial_grams(self.tiles.features(padded, i), i) for i in self.tiles.indices]
        layers = self.config.style_layers
        grams = [
            {n: _sum(gram[n] for gram in tiles).requires_grad_() for n in layers}
            for tiles in zip(*partial, strict=True)
        ]
        terms = self._style_terms(grams)
        _sum(terms.values()).backward()

        image = padded.detach().requires_grad_()
        content = []
        gradients = [gram.grad for region in grams for gram in region.values()]
        for i in self.tiles.indices:
            features = self.tiles.features(image, i)
            content.append(self._content_term(features, i))
            parts = [gram for region in self._partial_grams(features, i) for gram in region.values()]
            torch.autograd.backward([content[-1], *parts], [None, *gradients])
            content[-1] = content[-1].detach()
        padded.backward(image.grad)
        return {"content": _sum(content)} | terms

    def _content_term(self, features: Mapping[str, Tensor], i: int) -> Tensor:
        return self.config.alpha / self.activations * content_loss(features[self.config.content_layer], self.content[i])

    def _partial_grams(self, features: Mapping[str, Tensor], i: int) -> list[dict[str, Tensor]]:
        """The contribution of a tile to the Gram matrices of each region."""
        return [_partial_grams(features, parts[i]) for parts in self.parts]

    def _style_terms(self, grams: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        weight, pairs = self.config.beta / len(self.config.style_layers), list(zip(grams, self.targets, strict=True))
        return {
            layer: weight * _sum(style_loss(gram[layer], target[layer]) for gram, target in pairs)
            for layer in self.config.style_layers
        }


@torch.no_grad()
def gram_matrices(
    network: VGGFeatures, image: Tensor, layers: Sequence[str], mask: Tensor | None = None, tile: int | None = None
) -> dict[str, Tensor]:
    """The style of a painting or of a region of it: Gram matrices by layer, (1, N, N).

    The image is (1, 3, H, W) in [0, 1]; the mask (1, 1, H, W) in [0, 1], of any size; a tile as in `Objective`.
    """
    image = _pad_to_minimum(image)
    tiles = _Tiles(network, image.shape[2], image.shape[3], tile)
    parts = tiles.split_mask(mask, layers, image)
    partial = [_partial_grams(tiles.features(image, i), parts[i]) for i in tiles.indices]
    return {layer: _sum(grams[layer] for grams in partial) for layer in layers}


def tile_size(network: VGGFeatures, size: tuple[int, int], config: StylizeConfig) -> int | None:
    """Side of the largest tiles that fit into memory; None if the whole image fits."""
    budget = config.memory * 2**30 if config.memory else 0.5 * free_memory(network.mean.device)
    pixels, per_pixel = size[0] * size[1], bytes_per_pixel(network)
    # Ten images (the image itself, its gradient, ...), plus the history of L-BFGS.
    budget -= 12 * pixels * (10 + (2 * HISTORY if config.optimizer == "lbfgs" else 0))
    if pixels * per_pixel <= budget:
        return None
    return max(128, int(math.sqrt(max(0.0, budget) / per_pixel) - 2 * MARGIN) // 16 * 16)


def bytes_per_pixel(network: VGGFeatures) -> float:
    """Estimated bytes per pixel of a tile that the forward pass keeps for the backward pass."""
    channels, positions, kept, widest = 3, 1.0, 0.0, 0.0
    for module in network.features:
        if isinstance(module, (nn.Conv2d, LowRankConv2d)):
            # The first half of a low-rank convolution is linear, so its output is not kept.
            channels = (module if isinstance(module, nn.Conv2d) else module.expand).out_channels
            kept += 4 * channels * positions
            widest = max(widest, 4 * channels * positions)
        elif not isinstance(module, nn.ReLU):
            # Pooling keeps its output and 64-bit indices.
            positions /= 4
            kept += 12 * channels * positions
    return kept + 3 * widest


_MaskPart = tuple[Tensor | None, float]
"""What of a region's mask lies in a tile: the mask, (h, w), and its fraction of the sum of the whole mask."""


class _Tiles:
    """The tiles of an image and their features."""

    def __init__(self, network: VGGFeatures, height: int, width: int, side: int | None) -> None:
        self.network = network
        # At multiples of 16 the pooling windows of tile and image align.
        self.spans = list(product(*(spans(length, side or length, MARGIN, 16) for length in (height, width))))
        self.indices = range(len(self.spans))

    def features(self, image: Tensor, i: int) -> dict[str, Tensor]:
        """The features of a tile, without its margin."""
        y, x = self.spans[i]
        features = self.network(image[..., y.outer_start : y.outer_end, x.outer_start : x.outer_end])
        return {name: f[..., y.inner(1 / stride(name)), x.inner(1 / stride(name))] for name, f in features.items()}

    def split_mask(self, mask: Tensor | None, layers: Sequence[str], image: Tensor) -> list[dict[str, _MaskPart]]:
        """The mask within each tile, by layer. All fractions are 0 if the region is too small to cover a position."""
        if mask is None:
            weights = torch.ones_like(image[:, :1])
        else:
            size = image.shape[2:]
            weights = functional.interpolate(mask.to(image), size, mode="bilinear", antialias=True).clamp(0, 1)
        parts: list[dict[str, _MaskPart]] = [{} for _ in self.spans]
        for layer in layers:
            scale = 1 / stride(layer)
            pooled = functional.avg_pool2d(weights, stride(layer))[0, 0]
            pieces = [pooled[y.scaled(scale), x.scaled(scale)] for y, x in self.spans]
            total = max(float(pooled.double().sum()), 1e-8)
            for part, piece in zip(parts, pieces, strict=True):
                part[layer] = (None if mask is None else piece), float(piece.double().sum()) / total
        return parts


def _partial_grams(features: Mapping[str, Tensor], parts: Mapping[str, _MaskPart]) -> dict[str, Tensor]:
    return {layer: fraction * gram_matrix(features[layer], mask) for layer, (mask, fraction) in parts.items()}


def _pad_to_minimum(image: Tensor, side: int = 16) -> Tensor:
    """Repeat the border of a tiny image, since relu5_1 needs at least 16 pixels."""
    height, width = image.shape[2:]
    if min(height, width) >= side:
        return image
    return functional.pad(image, (0, max(0, side - width), 0, max(0, side - height)), mode="replicate")


def _sum(tensors: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).sum(0)
