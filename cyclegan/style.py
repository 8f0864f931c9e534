"""The style of a collection: Gram matrices of VGG features (Gatys et al. 2016) and colors, means over its pictures."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gatys.losses import gram_matrix
from stylekit.pictures.color import color_moments, match_colors

CONTENT_LAYER = "relu4_1"
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", CONTENT_LAYER, "relu5_1")

WINDOW = 200
"""Number of pictures in the moving average."""


class MeanStyle:
    """The mean Gram matrix of each layer, and colors: of all pictures seen, and from `WINDOW` on a moving average."""

    def __init__(self) -> None:
        self.grams: dict[str, Tensor] = {}
        self.colors: Tensor | None = None
        self.seen = 0

    @torch.no_grad()
    def update(self, pictures: Tensor, features: Mapping[str, Tensor]) -> None:
        """Add a batch of pictures.

        Args:
            pictures: (B, 3, H, W) in [0, 1].
            features: Of `STYLE_LAYERS`, (B, C, h, w) each.
        """
        count = len(pictures)
        self.seen = min(self.seen + count, WINDOW)
        kept = 1 - count / max(self.seen, count)
        for layer in STYLE_LAYERS:
            gram = gram_matrix(features[layer]).mean(0)
            self.grams[layer] = gram.lerp(self.grams.get(layer, gram), kept)
        colors = color_moments(pictures)
        self.colors = colors if self.colors is None else colors.lerp(self.colors, kept)

    def loss(self, features: Mapping[str, Tensor]) -> Tensor:
        """Squared distance of the Gram matrices of a batch from the mean, relative to it, averaged over the layers.

        The mean over the batch is compared: a single crop of a plain sky need not hold every stroke of the painter.

        Returns:
            A scalar: 0 for the style of the collection, 1 for flat pictures.
        """
        terms = []
        for layer, mean in self.grams.items():
            difference = gram_matrix(features[layer]).mean(0) - mean
            terms.append(difference.square().sum() / mean.square().sum())
        return torch.stack(terms).mean()

    def paint(self, pictures: Tensor, source: MeanStyle, amount: float) -> Tensor:
        """Move the colors of pictures of another collection towards those of this one.

        All pictures get the same map, so that a pale picture stays pale among others.

        Args:
            pictures: (B, 3, H, W) in [0, 1].
            source: The style of their collection.
            amount: 0 leaves them as they are; with 1, their collection has the mean and covariance of this one.
        """
        if not amount or self.colors is None or source.colors is None:
            return pictures
        return pictures.lerp(match_colors(pictures, self.colors, source.colors), amount)

    def state_dict(self) -> dict[str, Tensor | int]:
        """What a checkpoint holds."""
        colors = {} if self.colors is None else {"colors": self.colors}
        return {**self.grams, **colors, "seen": self.seen}

    def load_state_dict(self, saved: Mapping[str, Tensor | int], device: torch.device) -> None:
        self.seen = int(saved["seen"])
        tensors = {name: value for name, value in saved.items() if isinstance(value, Tensor)}
        self.colors = tensors.pop("colors").cpu() if "colors" in tensors else None
        self.grams = {name: value.to(device) for name, value in tensors.items()}
