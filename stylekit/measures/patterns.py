"""Artifacts that networks add to a picture: regular patterns, such as a cloth texture, and halos.

A regular pattern is a peak in the power spectrum of small windows. The metric `weave`, the loss `MeanWeave` and the
training check `added_pattern` share this analysis; they differ in the windows they use.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from stylekit.pictures.color import local_mean, luma, luma_and_chroma

WINDOW = 48  # Side of the windows whose spectra are computed, in pixels.
STEP = 12  # Distance of the windows of `weave` and `added_pattern`, in pixels.
LOSS_STEP = 16  # Distance of the windows of `MeanWeave`, in pixels.
VISIBLE = 1 / 255  # Amplitude of a barely visible pattern on a flat surface: one gray level.
SMOOTH = 3 / 255  # Root mean square of the details of 3 to 10 px up to which a window is smooth.
MEMORY = 200  # Number of smooth windows in the moving average of `MeanWeave`.
TOLERATED = 0.15  # Height of peaks in the mean over many windows of irregular strokes.
EDGE = 0.08  # Slope of the luma, per pixel, from which an edge is strong.


def weave(after: Tensor, before: Tensor) -> float:
    """Visibility of a regular pattern, such as a cloth texture, that was added to smooth areas.

    The highest peak (`peaks`) in the mean power spectrum of the output's luma, over all windows in which the input is
    smooth. Output and input are (1, 3, H, W) in [0, 1]. The result is at least 0; 1 is barely visible. It is NaN if
    fewer than eight windows are smooth.
    """
    if min(after.shape[2:]) < WINDOW:
        return float("nan")
    old, new = (power_spectra(luma(image.detach().float().cpu())[:, 0], STEP) for image in (before, after))
    smooth = detail(old) <= SMOOTH
    if smooth.sum() < 8:
        return float("nan")
    return max(0.0, float(peaks(new[smooth].mean(0)).max()))


class MeanWeave:
    """A loss against regular patterns: the peaks in the mean power spectrum of what a network paints in smooth areas.

    The mean is a moving average over training steps: strokes in one sky may be parallel and evenly spaced, but if they
    are so in all skies, the network adds the same pattern to everything. Discriminators hardly notice, since training
    crops are small, and Gram matrices cannot tell regular from irregular strokes. Chroma counts as much as luma: red
    and green stripes of the same luma look like a rainbow.
    """

    def __init__(self) -> None:
        self.power: Tensor | None = None

    def loss(self, before: Tensor, after: Tensor) -> Tensor:
        """Add a batch to the mean spectrum and return the norm of its peaks (`peaks`) above `TOLERATED`.

        `before` and `after` are (B, 3, H, W) in [0, 1]; the windows of `after` where `before` is smooth are added. The
        result is a scalar, 0 if there are none.
        """
        if min(before.shape[2:]) < WINDOW:
            return after.new_zeros(())
        relative = detail(power_spectra(luma(before)[:, 0], LOSS_STEP)) / SMOOTH
        smooth = (2 - relative.square() / 2).clamp(0, 1)  # Weights fall to 0 at twice `SMOOTH`.
        count = smooth.sum()
        if count < 1:
            return after.new_zeros(())
        now = (smooth[:, None, None] * _channel_spectra(after.float(), LOSS_STEP)).sum(1) / count
        power = now if self.power is None else self.power.lerp(now, float(count / (count + MEMORY)))
        self.power = power.detach()
        return functional.relu(peaks(power) - TOLERATED).norm()

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint holds: the mean spectra of luma and of both chroma channels."""
        return {} if self.power is None else {"power": self.power}

    def load_state_dict(self, saved: Mapping[str, Tensor], device: torch.device) -> None:
        self.power = saved["power"].to(device) if "power" in saved else None


def added_pattern(before: Tensor, after: Tensor, target: Tensor | None = None) -> tuple[float, float]:
    """The strongest regular pattern that a network adds to a few pictures of any content.

    It is measured in the windows where the input has the least detail, since strokes and edges hide it elsewhere. Peaks
    that are also in the inputs or in real pictures of the target domain, such as a fence or a canvas, do not count.

    Args:
        before, after: The inputs and outputs, (B, 3, H, W) in [0, 1], H and W at least `WINDOW`.
        target: Real pictures of the target domain, of the same size.

    Returns:
        The height of the peak, as in `peaks`, above that of real pictures, and the period of the pattern in pixels.
    """

    def found(pictures: Tensor, chosen_by: Tensor) -> Tensor:
        spread = detail(power_spectra(luma(chosen_by)[:, 0], STEP))
        calm = spread.argsort()[: max(4, int(0.4 * len(spread)))]
        # A period of 2 px along both axes is one of 2^(1/2) px along the diagonal.
        return peaks(_channel_spectra(pictures, STEP)[:, calm].mean(1), 2**0.5)

    usual = found(before, before).clamp(min=0)
    if target is not None:
        usual = torch.maximum(usual, found(target, target))
    height, place = (found(after, before) - usual).amax(0).max(0)
    rows, columns = torch.fft.fftfreq(WINDOW).abs()[:, None], torch.fft.rfftfreq(WINDOW)
    frequencies = torch.cat([torch.maximum(rows, columns)[ring] for ring in _rings(2**0.5)])
    return float(height), 1 / float(frequencies[place])


def power_spectra(channels: Tensor, step: int) -> Tensor:
    """Power spectra of Hann windows; a grating of amplitude a has a peak of a^2.

    Args:
        channels: One channel of each picture, (B, H, W), H and W at least `WINDOW`.
        step: Distance between windows in pixels.

    Returns:
        (windows of all pictures, WINDOW, WINDOW // 2 + 1) in float32.
    """
    hann = _hann().to(channels.device)
    windows = channels.float().unfold(1, WINDOW, step).unfold(2, WINDOW, step).flatten(0, 2)
    average = (windows * hann).sum((1, 2), keepdim=True) / hann.sum()
    return torch.fft.rfft2((windows - average) * hann).abs().square() * (2 / hann.sum()) ** 2


def detail(power: Tensor) -> Tensor:
    """Root mean square of the details of 3 to 10 px in each window, by its power spectrum."""
    hann, band = _hann().to(power.device), torch.stack(_rings(3.0)).any(0).to(power.device)
    # Both halves of the spectrum count in the sum of squares (Parseval's theorem).
    return (power[:, band].sum(1) * hann.sum().square() / (2 * WINDOW**2 * hann.square().sum())).sqrt()


def peaks(power: Tensor, shortest: float = 3.0) -> Tensor:
    """How far each frequency of a band stands out: (amplitude - ring) / (ring + 1 gray level).

    `ring` is the median amplitude over all orientations of the same period, without a gradient. Irregular texture
    raises it and so masks patterns, as it does for the eye (Legge & Foley 1980). 1 is a grating of one gray level on a
    flat surface, which is barely visible.

    Args:
        power: Mean power spectra, (..., WINDOW, WINDOW // 2 + 1).
        shortest: Shortest period of the band in pixels; the longest is 10.

    Returns:
        (..., frequencies of the band).
    """
    found = []
    for mask in _rings(shortest):
        amplitude = (power[..., mask.to(power.device)] + 1e-12).sqrt()  # The square root has no gradient at 0.
        ring = amplitude.detach().median(-1, keepdim=True).values
        found.append((amplitude - ring) / (ring + VISIBLE))
    return torch.cat(found, dim=-1)


def halo(after: Tensor, before: Tensor) -> float:
    """Brightening along the bright side of strong edges of the input, such as a pale rim in the sky, in gray levels.

    The change of luma 2 to 7 px away from an edge, minus that of nearby pixels that have the same brightness in the
    input but are 9 to 24 px away from all edges. A global change of brightness or contrast therefore gives 0. The
    result is a mean over all strong edges, in which one conspicuous rim counts little. It is positive for pale and
    negative for dark rims, and NaN if too few edges have calm surroundings. Output and input are (1, 3, H, W) in
    [0, 1].
    """
    old, new = (luma(image.detach().float().cpu()) for image in (before, after))
    smoothed = local_mean(old, 3)
    rows, columns = torch.zeros_like(old), torch.zeros_like(old)
    rows[..., 1:-1, :] = (smoothed[..., 2:, :] - smoothed[..., :-2, :]) / 2
    columns[..., 1:-1] = (smoothed[..., 2:] - smoothed[..., :-2]) / 2
    edges = (torch.hypot(rows, columns) >= EDGE).float()
    rim = (_dilate(edges, 7) > _dilate(edges, 1)) & (old > local_mean(old, 17))
    around = _dilate(edges, 24) - _dilate(edges, 8)

    # Pixels are compared by brightness in sixteen levels with linear weights, as in a bilateral grid.
    position = old * 15
    alike = (1 - (position - torch.arange(16).view(1, 16, 1, 1)).abs()).clamp(min=0)
    count = local_mean(alike * around, 33)
    changed = local_mean(alike * around * (new - old), 33)
    weight = (alike * count).sum(1, keepdim=True)
    expected = (alike * changed).sum(1, keepdim=True) / weight.clamp(min=1e-6)
    counted = rim & (weight > 0.05)
    if counted.sum() < 64:
        return float("nan")
    return float((new - old - expected)[counted].mean() * 255)


def _channel_spectra(pictures: Tensor, step: int) -> Tensor:
    """The spectra of luma and of the two chroma channels, (3, windows, WINDOW, WINDOW // 2 + 1)."""
    return torch.stack([power_spectra(channel, step) for channel in luma_and_chroma(pictures).unbind(1)])


def _dilate(mask: Tensor, radius: int) -> Tensor:
    mask = functional.max_pool2d(mask, (2 * radius + 1, 1), 1, (radius, 0))
    return functional.max_pool2d(mask, (1, 2 * radius + 1), 1, (0, radius))


@cache
@torch.inference_mode(False)  # The first call may come from an evaluation, the next one from training.
def _hann() -> Tensor:
    hann = torch.hann_window(WINDOW, periodic=False)
    return torch.outer(hann, hann)


@cache
@torch.inference_mode(False)
def _rings(shortest: float) -> list[Tensor]:
    """A mask for each ring of frequencies with the same rounded radius and periods from `shortest` to 10 px."""
    rows, columns = torch.fft.fftfreq(WINDOW)[:, None] * WINDOW, torch.fft.rfftfreq(WINDOW) * WINDOW
    radius = (rows.square() + columns.square()).sqrt()
    band = (radius >= WINDOW / 10) & (radius <= WINDOW / shortest)
    # Rings in the corners of the spectrum are too short for a median each.
    rounded = radius.round().clamp(max=0.6 * WINDOW)
    return [band & (rounded == r) for r in rounded[band].unique()]
