"""A loss against regular patterns, such as the texture of cloth, that a network adds to smooth areas."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from stylekit.networks import spectra

STEP = 16
"""Distance of the windows in pixels."""

MEMORY = 200
"""Number of smooth windows in the moving average."""

TOLERATED = 0.15
"""Peaks that even a mean over many windows of irregular strokes has."""


class MeanWeave:
    """The mean power spectrum of what a network has lately painted in smooth areas, whose peaks are a loss.

    The strokes of one sky may be parallel and equally far apart; those of all skies may not, or they become a pattern
    that the network adds to everything. Discriminators hardly see it, since the crops in training are small, and Gram
    matrices do not tell regular from irregular strokes. Chroma counts like luminance: stripes of red and green of the
    same luminance look like a rainbow.
    """

    def __init__(self) -> None:
        self.power: Tensor | None = None

    def loss(self, before: Tensor, after: Tensor) -> Tensor:
        """The root of the sum of squares of the peaks (`spectra.peaks`), of `after` where `before` is smooth.

        Args:
            before: Photographs, (B, 3, H, W) in [0, 1].
            after: What the network made of them.

        Returns:
            A scalar: 0 without smooth areas of at least 48 px.
        """
        if min(before.shape[2:]) < spectra.WINDOW:
            return after.new_zeros(())
        detail = spectra.detail(spectra.power_spectra(spectra.luminance(before)[:, 0], STEP)) / spectra.SMOOTH
        smooth = (2 - detail.square() / 2).clamp(0, 1)  # Less and less up to twice the detail.
        count = smooth.sum()
        if count < 1:
            return after.new_zeros(())
        channels = spectra.luminance_and_chroma(after.float()).unbind(1)
        windows = torch.stack([spectra.power_spectra(channel, STEP) for channel in channels])
        now = (smooth[:, None, None] * windows).sum(1) / count
        power = now if self.power is None else self.power.lerp(now, float(count / (count + MEMORY)))
        self.power = power.detach()
        return functional.relu(spectra.peaks(power) - TOLERATED).norm()

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint holds: one mean for each of luminance and chroma."""
        return {} if self.power is None else {"power": self.power}

    def load_state_dict(self, saved: Mapping[str, Tensor], device: torch.device) -> None:
        self.power = saved["power"].to(device) if "power" in saved else None
