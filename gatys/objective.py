"""The objective of Gatys et al. (2016, eq. 7) for one picture, and its gradient, in as much memory as there is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from gatys.losses import content_loss, gram_matrix, style_loss, total_variation
from gatys.options import StylizeConfig
from stylekit.vgg import LowRankConv2d, VGGFeatures, stride

MARGIN = 96
"""How far a VGG network sees down to relu5_1, in pixels, rounded up to a multiple of 16: 70 px by its convolutions, 15
by its poolings. A tile with so much around it has the features of the whole picture."""


class Region(NamedTuple):
    """A part of the picture, and the style that it takes."""

    mask: Tensor | None
    """(1, 1, H, W) in [0, 1], of any size; None for everything."""
    grams: Mapping[str, Tensor]
    """By layer, (1, N, N)."""


class Objective:
    """The loss of a picture, term by term, and its gradient.

    The content loss is divided by N * M, so that a weight means the same at every size and in every network.

    With several tiles the result is the same as with one: a Gram matrix is a sum over positions, so a first pass adds
    it up from all tiles, and a second one lets the gradient with respect to it flow back through each of them.

    Args:
        network: With the content and style layers of `config`.
        content: The photograph, (1, 3, H, W) in [0, 1].
        regions: Which style where; at least one.
        config: Weights and layers.
        tile: Side of the tiles in pixels; None for the whole picture at once.
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
        weights = config.layer_weights or (1.0,) * len(config.style_layers)
        self.weights = {layer: w / sum(weights) for layer, w in zip(config.style_layers, weights, strict=True)}
        content = _at_least(content)
        self.view = _View(network, content.shape[2], content.shape[3], tile)
        with torch.no_grad():
            self.content = [self.view(content, i)[config.content_layer].clone() for i in range(len(self.view))]
        self.activations = sum(part.numel() for part in self.content)
        self.targets = [region.grams for region in regions]
        self.parts = [self.view.parts(region.mask, config.style_layers, content) for region in regions]

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        """The weighted terms, whose sum is minimised; `image.grad` is set to the gradient of that sum.

        Args:
            image: (1, 3, H, W), a leaf that requires a gradient.
        """
        image.grad = None
        smooth = {}
        if self.config.tv:
            smooth["tv"] = self.config.tv * total_variation(image)
            smooth["tv"].backward()
        terms = self._whole(image) if len(self.view) == 1 else self._tile_by_tile(image)
        return {name: term.detach() for name, term in (terms | smooth).items()}

    def _whole(self, image: Tensor) -> dict[str, Tensor]:
        seen = self.view(_at_least(image), 0)
        terms = {"content": self._content(seen, 0)} | self._style(self._grams(seen, 0))
        _sum(terms.values()).backward()
        return terms

    def _tile_by_tile(self, image: Tensor) -> dict[str, Tensor]:
        tiles = range(len(self.view))
        whole = _at_least(image)
        with torch.no_grad():
            each = [self._grams(self.view(whole, i), i) for i in tiles]
        regions = range(len(self.targets))
        grams = [{layer: _sum(g[r][layer] for g in each).requires_grad_() for layer in self.weights} for r in regions]
        terms = self._style(grams)
        _sum(terms.values()).backward()

        leaf = whole.detach().requires_grad_()
        content = []
        slopes = [{layer: cast(Tensor, gram.grad) for layer, gram in region.items()} for region in grams]
        for i in tiles:
            seen = self.view(leaf, i)
            content.append(self._content(seen, i))
            parts = self._grams(seen, i)
            pull = [(parts[r][layer] * slope).sum() for r in regions for layer, slope in slopes[r].items()]
            _sum([content[-1], *pull]).backward()
            content[-1] = content[-1].detach()
        whole.backward(leaf.grad)
        return {"content": _sum(content)} | terms

    def _content(self, seen: Mapping[str, Tensor], i: int) -> Tensor:
        return self.config.alpha / self.activations * content_loss(seen[self.config.content_layer], self.content[i])

    def _grams(self, seen: Mapping[str, Tensor], i: int) -> list[dict[str, Tensor]]:
        """What a tile adds to the Gram matrices of each region."""
        return [_part_of_grams(seen, parts[i]) for parts in self.parts]

    def _style(self, grams: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        return {
            layer: self.config.beta
            * weight
            * _sum(style_loss(gram[layer], target[layer]) for gram, target in zip(grams, self.targets, strict=True))
            for layer, weight in self.weights.items()
        }


@torch.no_grad()
def gram_matrices(
    network: VGGFeatures, image: Tensor, layers: Sequence[str], mask: Tensor | None = None, tile: int | None = None
) -> dict[str, Tensor]:
    """The style of a painting, or of a region of it: by layer, (1, N, N).

    Args:
        image: (1, 3, H, W) in [0, 1].
        mask: (1, 1, H, W) in [0, 1], of any size.
        tile: Side of the tiles in pixels; None for the whole picture at once.
    """
    image = _at_least(image)
    view = _View(network, image.shape[2], image.shape[3], tile)
    parts = view.parts(mask, layers, image)
    each = [_part_of_grams(view(image, i), parts[i]) for i in range(len(view))]
    return {layer: _sum(grams[layer] for grams in each) for layer in layers}


def bytes_per_pixel(network: VGGFeatures) -> float:
    """About how much memory the gradient needs for each pixel of a tile: what is kept for the way back."""
    channels, positions, kept, widest = 3, 1.0, 0.0, 0.0
    for module in network.features:
        if isinstance(module, (nn.Conv2d, LowRankConv2d)):
            # The first half of a convolution of low rank is linear: its result is not kept.
            channels = (module if isinstance(module, nn.Conv2d) else module.expand).out_channels
            kept += 4 * channels * positions
            widest = max(widest, 4 * channels * positions)
        elif not isinstance(module, nn.ReLU):
            # A pooling keeps its result, and where it is from in 64 bits.
            positions /= 4
            kept += 12 * channels * positions
    return kept + 3 * widest


class _Tile(NamedTuple):
    """From where to where a tile goes, in pixels, along one side; and what is looked at around it."""

    start: int
    end: int
    seen_from: int
    seen_to: int

    def positions(self, step: int, length: int) -> slice:
        """Of the tile, among those of the whole picture in a layer where `step` pixels are one position."""
        return slice(self.start // step, self.end // step if self.end < length else length // step)

    def inside(self, step: int) -> slice:
        """Of the tile, among those of what is looked at."""
        end = None if self.end == self.seen_to else (self.end - self.seen_from) // step
        return slice((self.start - self.seen_from) // step, end)


class _Part(NamedTuple):
    """What of a region lies in a tile."""

    mask: Tensor | None
    """(h, w)"""
    share: float


class _View:
    """The features of a picture, tile by tile."""

    def __init__(self, network: VGGFeatures, height: int, width: int, side: int | None) -> None:
        self.network = network
        self.height = height
        self.width = width
        self.tiles = [(y, x) for y in _cuts(height, side) for x in _cuts(width, side)]

    def __len__(self) -> int:
        return len(self.tiles)

    def __call__(self, image: Tensor, i: int) -> dict[str, Tensor]:
        y, x = self.tiles[i]
        seen = self.network(image[..., y.seen_from : y.seen_to, x.seen_from : x.seen_to])
        return {name: f[..., y.inside(stride(name)), x.inside(stride(name))] for name, f in seen.items()}

    def parts(self, mask: Tensor | None, layers: Sequence[str], like: Tensor) -> list[dict[str, _Part]]:
        """By tile and layer, what of a region lies there; nothing if the region is smaller than a position."""
        if mask is not None:
            mask = mask.to(like)
            mask = functional.interpolate(mask, size=like.shape[2:], mode="bilinear", antialias=True).clamp(0, 1)
        parts: list[dict[str, _Part]] = [{} for _ in self.tiles]
        for layer in layers:
            step = stride(layer)
            small = None if mask is None else functional.avg_pool2d(mask, step)[0, 0]
            sums, cuts = [], []
            for y, x in self.tiles:
                rows, columns = y.positions(step, self.height), x.positions(step, self.width)
                cut = None if small is None else small[rows, columns]
                positions = (rows.stop - rows.start) * (columns.stop - columns.start)
                sums.append(float(positions if cut is None else cut.sum()))
                cuts.append(cut)
            for i, (amount, cut) in enumerate(zip(sums, cuts, strict=True)):
                parts[i][layer] = _Part(cut, amount / max(sum(sums), 1e-8))
        return parts


def _part_of_grams(seen: Mapping[str, Tensor], parts: Mapping[str, _Part]) -> dict[str, Tensor]:
    return {layer: part.share * gram_matrix(seen[layer], part.mask) for layer, part in parts.items()}


def _cuts(length: int, side: int | None) -> list[_Tile]:
    count = 1 if side is None else max(1, min(math.ceil(length / side), length // 16))
    # All about as large as each other, at multiples of 16: there the poolings of a tile are those of the whole.
    ends = [round(i * length / count / 16) * 16 for i in range(count)] + [length]
    return [_Tile(start, end, max(0, start - MARGIN), min(length, end + MARGIN)) for start, end in pairwise(ends)]


def _at_least(image: Tensor, side: int = 16) -> Tensor:
    """A picture of a few pixels is continued by its border: the network needs some to see anything."""
    height, width = image.shape[2:]
    if min(height, width) >= side:
        return image
    return functional.pad(image, (0, max(0, side - width), 0, max(0, side - height)), mode="replicate")


def _sum(tensors: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).sum(0)
