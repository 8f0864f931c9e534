"""The style of a collection: Gram matrices of VGG features (Gatys et al. 2016), averaged over its pictures."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gatys.losses import gram_matrix

CONTENT_LAYER = "relu4_1"
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", CONTENT_LAYER, "relu5_1")

WINDOW = 200
"""Number of pictures in the moving average."""


class MeanStyle:
    """The mean Gram matrix of each layer: of all pictures seen, and from `WINDOW` on a moving average."""

    def __init__(self) -> None:
        self.grams: dict[str, Tensor] = {}
        self.seen = 0

    @torch.no_grad()
    def update(self, features: Mapping[str, Tensor]) -> None:
        """Add a batch of pictures.

        Args:
            features: Of `STYLE_LAYERS`, (B, C, h, w) each.
        """
        count = len(features[CONTENT_LAYER])
        self.seen = min(self.seen + count, WINDOW)
        for layer in STYLE_LAYERS:
            gram = gram_matrix(features[layer].float()).mean(0)
            self.grams[layer] = gram.lerp(self.grams.get(layer, gram), 1 - count / max(self.seen, count))

    def loss(self, features: Mapping[str, Tensor]) -> Tensor:
        """Squared distance of the Gram matrices of a batch from the mean, relative to it, averaged over the layers.

        The mean over the batch is compared: a single crop of a plain sky need not hold every stroke of the painter.

        Returns:
            A scalar: 0 for the style of the collection, 1 for flat pictures.
        """
        terms = []
        for layer, mean in self.grams.items():
            difference = gram_matrix(features[layer].float()).mean(0) - mean
            terms.append(difference.square().sum() / mean.square().sum())
        return torch.stack(terms).mean()

    def state_dict(self) -> dict[str, Tensor | int]:
        """What a checkpoint holds."""
        return {**self.grams, "seen": self.seen}

    def load_state_dict(self, saved: Mapping[str, Tensor | int], device: torch.device) -> None:
        self.seen = int(saved["seen"])
        self.grams = {name: value.to(device) for name, value in saved.items() if isinstance(value, Tensor)}
