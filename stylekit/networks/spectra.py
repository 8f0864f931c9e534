"""Regular patterns, such as the texture of cloth, as peaks in the power spectrum of pictures: a figure and a loss."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

WINDOW = 48
"""Side of the windows whose spectra are computed, in pixels."""

VISIBLE = 1 / 255
"""Amplitude of a pattern on a flat surface that is just visible: one gray level."""

SMOOTH = 3 / 255
"""A window is smooth if details of 3 to 10 px have at most this root mean square."""


YCBCR = ((0.299, 0.587, 0.114), (-0.169, -0.331, 0.5), (0.5, -0.419, -0.081))
"""Luminance and the two chroma channels (ITU-R BT.601) as sums of red, green and blue."""


def luminance(pictures: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 1, H, W)."""
    return (pictures * pictures.new_tensor(YCBCR[0])[:, None, None]).sum(1, keepdim=True)


def luminance_and_chroma(pictures: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 3, H, W)."""
    # Not torch.einsum, which autocast rounds to bfloat16.
    return (pictures[:, None] * pictures.new_tensor(YCBCR)[:, :, None, None]).sum(2)


def power_spectra(channels: Tensor, step: int) -> Tensor:
    """Power spectra in windows with a Hann weight; a grating of amplitude a has a peak of a^2.

    Args:
        channels: One channel of each picture, (B, H, W), H and W at least `WINDOW`.
        step: Distance of the windows in pixels.

    Returns:
        (windows, WINDOW, WINDOW // 2 + 1) in float32.
    """
    hann = _hann().to(channels.device)
    windows = channels.float().unfold(1, WINDOW, step).unfold(2, WINDOW, step).flatten(0, 2)
    average = (windows * hann).sum((1, 2), keepdim=True) / hann.sum()
    return torch.fft.rfft2((windows - average) * hann).abs().square() * (2 / hann.sum()) ** 2


def detail(power: Tensor) -> Tensor:
    """Root mean square of the details of 3 to 10 px in each window.

    Args:
        power: The result of `power_spectra`.
    """
    hann, band = _hann().to(power.device), (_rings() > 0).to(power.device)
    # Both halves of the spectrum count in the sum of squares (Parseval's theorem).
    return (power[:, band].sum(1) * hann.sum().square() / (2 * WINDOW**2 * hann.square().sum())).sqrt()


def peaks(power: Tensor) -> Tensor:
    """How far each frequency with a period of 3 to 10 px stands out: (amplitude - ring) / (ring + 1 gray level).

    `ring` is the median amplitude of the frequencies of the same period in all orientations, without a gradient.
    Irregular texture raises it, which masks patterns, as it does for the eye (Legge & Foley 1980). 1 is a grating of
    one gray level on a flat surface, which is just visible.

    Args:
        power: Means of power spectra, (..., WINDOW, WINDOW // 2 + 1).

    Returns:
        (..., frequencies).
    """
    rings = _rings().to(power.device)
    found = []
    for radius in rings[rings > 0].unique():
        amplitude = (power[..., rings == radius] + 1e-12).sqrt()  # The square root has no gradient at 0.
        ring = amplitude.detach().median(-1, keepdim=True).values
        found.append((amplitude - ring) / (ring + VISIBLE))
    return torch.cat(found, dim=-1)


@functools.cache
@torch.inference_mode(False)  # The first call may come from an evaluation, the next one from training.
def _hann() -> Tensor:
    hann = torch.hann_window(WINDOW, periodic=False)
    return torch.outer(hann, hann)


@functools.cache
@torch.inference_mode(False)
def _rings() -> Tensor:
    """The rounded radius of each frequency, in periods per window; 0 outside the band of periods from 3 to 10 px."""
    rows, columns = torch.fft.fftfreq(WINDOW)[:, None] * WINDOW, torch.fft.rfftfreq(WINDOW) * WINDOW
    radius = (rows.square() + columns.square()).sqrt()
    return radius.round() * ((radius >= WINDOW / 10) & (radius <= WINDOW / 3))
