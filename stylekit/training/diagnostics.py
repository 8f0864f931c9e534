"""Diagnosis of a training run: pure checks on pictures and numbers, and a `Doctor` that limits how often they report.

Each check returns a `Finding`, which says what was measured, or None. The caller adds the network and the cure, since
only the method knows its options. Nothing here draws from a global random number generator or reads a clock.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

GRAY_LEVEL = 1 / 255


@dataclass(frozen=True)
class Finding:
    """A disease of a training run, how it shows, and what to do about it."""

    disease: str
    evidence: str
    network: str = ""
    cure: str = ""

    @property
    def title(self) -> str:
        """The disease and the network that has it; findings with the same title are the same."""
        return f"{self.disease} in {self.network}" if self.network else self.disease

    def __str__(self) -> str:
        return f"{self.title}: {self.evidence}; {self.cure}" if self.cure else f"{self.title}: {self.evidence}"

    def with_cure(self, cure: str, network: str = "") -> Finding:
        """The same finding with its cure and the network that has it."""
        return dataclasses.replace(self, cure=cure, network=network)


class Doctor:
    """Decides which finding to report and when, so that a log is not flooded.

    A finding is reported if consecutive examinations confirm it, at most one in `pause` seconds, and the same one only
    every `repeat` seconds. It keeps no other state, so a resumed run can start with a new Doctor.

    Args:
        pause: Seconds between two reports.
        repeat: Seconds between two reports of the same finding.
        confirmations: Consecutive examinations that must agree: a single batch may be unusual.
    """

    def __init__(self, pause: float = 600.0, repeat: float = 3600.0, confirmations: int = 2) -> None:
        self.pause = pause
        self.repeat = repeat
        self.confirmations = confirmations
        self._times_seen: dict[str, int] = {}
        self._reported_at: dict[str, float] = {}

    def examine(self, findings: Sequence[Finding], now: float) -> Finding | None:
        """Record one examination; return the finding to report, or None.

        Args:
            findings: All findings of the examination, most severe first.
            now: Time in seconds, from any clock that never goes back.
        """
        self._times_seen = {f.title: self._times_seen.get(f.title, 0) + 1 for f in findings}
        if self._reported_at and now - max(self._reported_at.values()) < self.pause:
            return None
        for finding in findings:
            recent = now - self._reported_at.get(finding.title, float("-inf")) < self.repeat
            if self._times_seen[finding.title] >= self.confirmations and not recent:
                self._reported_at[finding.title] = now
                return finding
        return None


# Checks on the pictures that a network receives and returns: (B, 3, H, W) in [0, 1], B pictures each.


def check_inversion(before: Tensor, after: Tensor, threshold: float = -0.2) -> Finding | None:
    """Color inversion: the output is dark where the input is bright.

    Args:
        threshold: Of the luminance correlation. Zero would be crossed by chance in pictures of little contrast.
    """
    correlation = luminance_correlation(before, after)
    if correlation is not None and correlation < threshold:
        return Finding("color inversion", f"luminances of input and output have correlation {correlation:.2f}")
    return None


def luminance_correlation(before: Tensor, after: Tensor) -> float | None:
    """Mean correlation of the luminances of inputs and outputs; None if every picture is flat.

    Blocks of 4 x 4 pixels are averaged first: texture says nothing about inversion.
    """
    x, y = (functional.avg_pool2d(_luminance(pictures), 4).flatten(1) for pictures in (before, after))
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    # The standard deviations must exceed two gray levels.
    contrasted = (x.square().mean(1) > (2 * GRAY_LEVEL) ** 2) & (y.square().mean(1) > (2 * GRAY_LEVEL) ** 2)
    if not contrasted.any():
        return None
    return functional.cosine_similarity(x[contrasted], y[contrasted]).mean().item()


def check_copy(before: Tensor, after: Tensor, threshold: float = 4.0) -> Finding | None:
    """The network does nothing: its output equals its input.

    Args:
        threshold: Of the mean absolute difference, in gray levels. A difference of 4 is hard to see.
    """
    difference = (after - before).abs().mean().item() / GRAY_LEVEL
    if difference < threshold:
        evidence = f"the output differs from the input by {difference:.1f} gray levels on average"
        return Finding("no translation", evidence)
    return None


def check_collapse(before: Tensor, after: Tensor, threshold: float = 0.1) -> Finding | None:
    """Mode collapse: the outputs for different inputs are nearly equal.

    Args:
        before: At least two pictures.
        threshold: Of the mean difference between outputs, relative to that between inputs.
    """
    spread_before, spread_after = _spread(before), _spread(after)
    # Inputs that resemble each other prove nothing.
    if spread_before >= 8 * GRAY_LEVEL and spread_after < threshold * spread_before:
        percent = 100 * spread_after / spread_before
        evidence = f"different inputs give almost the same output ({percent:.0f} % of their spread)"
        return Finding("mode collapse", evidence)
    return None


def check_hidden_information(before: Tensor, cycled: Tensor, noisy_cycled: Tensor) -> Finding | None:
    """Steganography (Chu et al. 2017): the picture is hidden in invisible detail of its translation.

    Translating back then reads that detail instead of what is visible, and fails if a little noise covers it.

    Args:
        before: The pictures.
        cycled: The pictures translated there and back.
        noisy_cycled: The same with one gray level of noise added in between (`add_noise`).
    """
    clean, noisy = ((pictures - before).abs().mean().item() for pictures in (cycled, noisy_cycled))
    # Without hidden information, noise of one level changes the result by about one level.
    if noisy >= 1.5 * clean and noisy - clean >= 4 * GRAY_LEVEL:
        levels = f"{clean / GRAY_LEVEL:.0f} to {noisy / GRAY_LEVEL:.0f} gray levels"
        evidence = f"one gray level of noise in its output raises the cycle error from {levels}"
        return Finding("hidden information", evidence)
    return None


def add_noise(pictures: Tensor) -> Tensor:
    """Add one gray level of noise, +1/255 or -1/255 per value. It is always the same for the same shape."""
    signs = torch.randint(0, 2, pictures.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return pictures + GRAY_LEVEL * signs.to(pictures)


def check_pattern(
    before: Tensor, after: Tensor, target: Tensor | None = None, threshold: float = 6.0
) -> Finding | None:
    """A checkerboard or weave: a regular pattern in the output with a period of 2 to 10 px.

    In the power spectrum the pattern is a peak that stands out of its ring, the frequencies of similar magnitude. It
    is measured where the input is smooth, since strokes and edges hide it elsewhere. Peaks that the inputs or real
    pictures of the target domain have as well, such as a fence or a canvas, do not count.

    Args:
        target: Real pictures of the target domain, of the same size.
        threshold: Of the power of the peak relative to the median of its ring and to the same peak in real pictures.
            Blurred, sharpened, noisy or median-filtered photographs reach 2, those with the blocks of JPEG at quality
            20 reach 8; a checkerboard of single pixels with an amplitude of one gray level gives 8 to 60.

    Returns:
        None as well if the pictures are smaller than 64 px.
    """
    if min(before.shape[2:]) < 64:
        return None
    size = 64 if min(before.shape[2:]) >= 128 else 32
    spectrum = _log_power(_patches(after, size)[_smooth(before, size)])
    usual = _prominence(_log_power(_patches(before, size)[_smooth(before, size)]))
    if target is not None:
        usual = torch.maximum(usual, _prominence(_log_power(_patches(target, size)[_smooth(target, size)])))
    excess = _prominence(spectrum) - usual.clamp(min=0)
    strength = excess.max().exp().item()
    if strength >= threshold:
        # A peak spreads over its neighbors. The one with the most power is its center.
        peak = spectrum.where(excess > excess.max() - 1, float("-inf")).argmax()
        period = 1 / _frequencies(size)[1].flatten()[peak].item()
        evidence = f"in smooth regions a pattern that repeats every {period:.1f} px stands out {strength:.0f}-fold"
        return Finding("checkerboard or weave", evidence)
    return None


# Checks on numbers.


def check_discriminator(loss: float, chance: float) -> Finding | None:
    """A discriminator that always knows or never knows whether a picture is real: the generator learns nothing.

    Args:
        loss: Mean over the last few hundred steps; that of a single step proves nothing.
        chance: The loss of a discriminator that cannot distinguish real pictures from fakes.
    """
    if loss <= 0.05 * chance:
        return Finding("all-powerful discriminator", f"its mean loss is {loss:.4f}: it recognizes every fake")
    if loss >= 0.98 * chance:
        return Finding("dead discriminator", f"its mean loss is {loss:.3f}, no better than chance ({chance:.3f})")
    return None


def check_learning_rate(lr: float, progress: float) -> Finding | None:
    """A learning rate of zero with work left: the remaining steps change nothing.

    Args:
        progress: Fraction of the run that is done. In the last percent a rate of zero is how schedules end.
    """
    if lr > 1e-12 or progress > 0.99:
        return None
    return Finding("no learning rate", f"the learning rate is {lr:g} with {100 * (1 - progress):.0f} % of the run left")


def check_length(steps: int, enough: int) -> Finding | None:
    """A finished run that is far too short.

    Args:
        enough: Number of steps after which a usable network can be expected; a fifth of it is far too short.
    """
    if steps >= enough / 5:
        return None
    what = "1 step" if steps == 1 else f"{steps:,} steps"
    evidence = f"finished after {what}, which is not enough for a usable network; expect to need about {enough:,}"
    return Finding("short run", evidence)


def _luminance(pictures: Tensor) -> Tensor:
    """ITU-R BT.601, (B, 1, H, W)."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=pictures.device).view(1, 3, 1, 1)
    return (pictures * weights).sum(1, keepdim=True)


def _spread(pictures: Tensor) -> float:
    """Mean absolute difference over all pairs of different pictures."""
    b = len(pictures)
    differences = [(pictures[i] - pictures[j]).abs().mean() for i in range(b) for j in range(i)]
    return torch.stack(differences).mean().item()


def _patches(pictures: Tensor, size: int) -> Tensor:
    """Overlapping square patches, (N, 3, size, size)."""
    stride = size // 4
    return pictures.unfold(2, size, stride).unfold(3, size, stride).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)


def _smooth(pictures: Tensor, size: int) -> Tensor:
    """Indices of the 40 % of the patches that have the least contrast."""
    contrast = _patches(pictures, size).var((1, 2, 3))
    return contrast.argsort()[: max(4, int(0.4 * len(contrast)))]


def _log_power(patches: Tensor) -> Tensor:
    """Mean logarithmic power spectrum of patches, (size, size / 2 + 1).

    The mean of logarithms gives every patch the same weight, however strong its contrast is.
    """
    size = patches.shape[-1]
    window = torch.hann_window(size, device=patches.device)
    patches = (patches - patches.mean((-1, -2), keepdim=True)) * window[:, None] * window
    power = torch.fft.rfft2(patches).abs().square().mean(1)
    # A sinusoid of amplitude a has the power (a size^2 / 8)^2. Less than a quarter of a gray level is invisible.
    floor = (0.25 * GRAY_LEVEL * size**2 / 8) ** 2
    return (power + floor).log().mean(0).cpu()


def _prominence(spectrum: Tensor) -> Tensor:
    """Logarithmic power relative to the median of the ring of similar frequencies; -inf for periods above 10 px."""
    prominence = torch.full_like(spectrum, float("-inf"))
    for ring, around in _rings(len(spectrum)):
        prominence[ring] = spectrum[ring] - spectrum[around].median()
    return prominence


@lru_cache
def _rings(size: int) -> list[tuple[Tensor, Tensor]]:
    """A mask of every ring of the spectrum with periods of at most 10 px, and one that is two frequencies wider."""
    magnitude, along_axis = _frequencies(size)
    radius = (magnitude * size).round()
    # Rings in the corners of the spectrum are too short for a median, so they are compared with the last long one.
    last = 0.6 * size
    rings = [((radius == r) & (along_axis >= 0.1), (radius - min(r, last)).abs() <= 1) for r in range(1, size)]
    return [(ring, around) for ring, around in rings if ring.any()]


@lru_cache
def _frequencies(size: int) -> tuple[Tensor, Tensor]:
    """Of every entry of `rfft2`, in cycles per pixel: the magnitude of the frequency, and its larger component."""
    rows, columns = torch.fft.fftfreq(size).abs()[:, None], torch.fft.rfftfreq(size)
    return torch.hypot(rows, columns), torch.maximum(rows, columns)
