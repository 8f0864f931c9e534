"""Failure checks during training: what is wrong with a run, how it shows, and which option helps."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from cyclegan.options import PretrainConfig, TrainConfig, UnpairedConfig
from stylekit import devices, distributed
from stylekit.measures.patterns import added_pattern
from stylekit.networks.tiling import private_copy
from stylekit.pictures.color import luma
from stylekit.pictures.images import to_signed, to_unit

CHANCE = {"lsgan": 0.25, "vanilla": math.log(2)}
"""d_x and d_y of a discriminator that gives every picture the same, best score, by adversarial loss."""

ENOUGH_PICTURES, ENOUGH_EPOCHS = 10_000, 5
"""What a usable network needs at least: the bundled landscape2vangogh-cycle took 9,262 pictures, 5.8 epochs."""

STEPS = 200
"""Steps between two checks, at least."""

PAUSE, REPEAT = 600.0, 3600.0
"""Seconds between two reports, and between two of the same finding."""

GRAY_LEVEL = 1 / 255


@dataclass(frozen=True)
class Finding:
    """A failure mode of a training run, how it shows, and what to do about it."""

    failure_mode: str
    evidence: str
    network: str = ""
    remedy: str = ""

    @property
    def title(self) -> str:
        """The failure mode and the network that has it; findings with the same title are the same."""
        return f"{self.failure_mode} in {self.network}" if self.network else self.failure_mode

    def __str__(self) -> str:
        return f"{self.title}: {self.evidence}; {self.remedy}" if self.remedy else f"{self.title}: {self.evidence}"


class FailureChecks:
    """Checks a run every `STEPS` steps or so, and decides which finding to report, so that a log is not flooded.

    A finding is reported if two consecutive checks agree, since a single batch may be unusual; at most one every
    `PAUSE` seconds, and the same one only every `REPEAT` seconds. A resumed run can start with a new object.
    """

    def __init__(self, config: TrainConfig | PretrainConfig) -> None:
        self.gan_mode = config.losses.gan_mode if isinstance(config, TrainConfig) else "lsgan"
        self.remedies = cycle_remedies(config) if isinstance(config, TrainConfig) else pretrain_remedies(config)
        self.enough = math.ceil(STEPS / config.output.print_freq)
        self._lines: list[Mapping[str, float]] = []
        self._last_seen: set[str] = set()
        self._reported_at: dict[str, float] = {}

    def check(
        self,
        generators: Mapping[str, nn.Module],
        pictures: Mapping[str, Tensor],
        terms: Mapping[str, float],
        lr: float,
        progress: float,
    ) -> Finding | None:
        """Take in the means of a log line; if enough have come, `diagnose` the run. Return what to report."""
        self._lines.append(terms)
        if len(self._lines) < self.enough:
            return None
        means = {name: sum(line[name] for line in self._lines) / len(self._lines) for name in terms}
        self._lines.clear()
        findings = diagnose(generators, pictures, means, lr, progress, self.gan_mode, self.remedies)
        return self.select(findings, time.monotonic())

    def select(self, findings: Sequence[Finding], now: float) -> Finding | None:
        """Record the findings of one check, most severe first, at a time in seconds; return the one to report."""
        seen, self._last_seen = self._last_seen, {finding.title for finding in findings}
        if now - max(self._reported_at.values(), default=-math.inf) < PAUSE:
            return None
        for finding in findings:
            if finding.title in seen and now - self._reported_at.get(finding.title, -math.inf) >= REPEAT:
                self._reported_at[finding.title] = now
                return finding
        return None


@torch.no_grad()
def diagnose(
    generators: Mapping[str, nn.Module],
    pictures: Mapping[str, Tensor],
    terms: Mapping[str, float],
    lr: float,
    progress: float,
    gan_mode: str,
    remedies: Mapping[str, str],
) -> list[Finding]:
    """Check a run between two steps; return what is wrong, most severe first.

    The networks and all random states stay as they are. It costs a third of a training step on one picture. The moving
    average is not checked: it contains its initial weights for thousands of steps and shows a failure that much later.

    Args:
        generators: "G" (X -> Y) and, if it is trained, "F" (Y -> X), without DDP.
        pictures: The current batches "x" and "y", (B, 3, H, W) in [0, 1]; at most two pictures of each are used.
        terms: Loss terms, averaged over some hundred steps. Only with "cycle_x" among them, the way back is trained and
            can read hidden information.
        lr, progress: Learning rate of the last step, and fraction of the run that is done, in [0, 1].
        gan_mode: The adversarial loss.
        remedies: What to do, by the title or the failure mode of a finding (see `cycle_remedies`).
    """
    device = next(generators["G"].parameters()).device
    x, y = (_two_pictures(devices.to_device(pictures[domain], device)) for domain in "xy")
    findings = [check_learning_rate(lr, progress)]
    # In eval mode: dropout and noise would draw random numbers.
    copies = {name: private_copy(generator) for name, generator in generators.items()}
    for name, before, target, back in (("G", x, y, "F"), ("F", y, x, "G")):
        if name in copies:
            found = check_generator(copies[name], before, target, copies[back] if "cycle_x" in terms else None)
            findings += [finding and replace(finding, network=name) for finding in found]
    for name in sorted(terms.keys() & {"d_x", "d_y"}):
        finding = check_discriminator(terms[name], CHANCE[gan_mode])
        findings.append(finding and replace(finding, network=name.upper()))
    return [replace(f, remedy=remedies.get(f.title, remedies.get(f.failure_mode, ""))) for f in findings if f]


# Remedies: only these functions read options. A remedy names no option that the training does not have.


def cycle_remedies(config: TrainConfig) -> dict[str, str]:
    """What to change if training with the cycle fails, with the option's present value, for `diagnose`."""
    losses, identity = config.losses, config.losses.lambda_identity
    more_identity = f"--lambda-identity {max(1, 2 * identity):g} (now {identity:g})"
    remedies = _shared_remedies(config, config.discriminator.ndf, more_identity)
    if losses.gan_mode == "vanilla":
        remedies["all-powerful discriminator"] = "start a new run with --gan-mode lsgan (now vanilla)"
    for network, flag, weight in (("G", "--lambda-x", losses.lambda_x), ("F", "--lambda-y", losses.lambda_y)):
        more = f"{flag} {max(10, 2 * weight):g} (now {weight:g})"
        less = f"continue with --resume {flag} {weight / 2:g} (now {weight:g})"
        less_identity = f"continue with --resume --lambda-identity {identity / 5:g} (now {identity:g})"
        remedies[f"mode collapse in {network}"] = f"start a new run with {more} or a smaller --lr"
        remedies[f"hidden information in {network}"] = less
        remedies[f"no translation in {network}"] = less_identity if identity else less
    return remedies


def pretrain_remedies(config: PretrainConfig) -> dict[str, str]:
    """The same for training without the cycle."""
    content, color = config.losses.lambda_content, config.losses.lambda_color
    more_content = f"--lambda-content {max(0.4, 2 * content):g} (now {content:g})"
    more_color = f"--lambda-color {max(4, 2 * color):g} (now {color:g})"
    return _shared_remedies(config, config.ndf, more_color) | {
        "mode collapse": f"start a new run with {more_content} or a smaller --lr",
        "no translation": f"continue with --resume --lambda-content {content / 2:g} (now {content:g})",
    }


def _shared_remedies(config: UnpairedConfig, ndf: int, more_color: str) -> dict[str, str]:
    """`--resume` where the run can be saved, else a new run."""
    generator, load_size = config.generator, config.data.load_size
    if generator.upsample == "transposed":
        pattern = "start a new run with --upsample resize (now transposed)"
    elif not generator.antialias:
        pattern = "start a new run with --antialias"
    elif not generator.noise:
        pattern = "start a new run with --noise 0.2"
    else:
        pattern = f"continue with --resume --load-size {round(1.5 * load_size)} (now {load_size})"
    weaker, stronger = f"--ndf {max(1, ndf // 2)} (now {ndf})", f"--ndf {2 * ndf} (now {ndf})"
    return {
        "checkerboard or weave": pattern,
        "no learning rate": f"continue with --resume --lr-policy constant --lr {max(config.schedule.lr, 1e-4):g}",
        "color inversion": f"this rarely heals: start a new run with {more_color} or another --seed",
        "dead discriminator": f"check that trainA and trainB differ; start a new run with {stronger}",
        "all-powerful discriminator": f"use more pictures, or start a new run with {weaker}",
    }


def check_length(
    steps: int, seconds: float, steps_per_epoch: int, config: TrainConfig | PretrainConfig
) -> Finding | None:
    """A finished run, of `steps` in `seconds`, that is far too short for its data. Fine-tuning (`--init`) may be."""
    schedule = config.schedule
    pictures_per_step = config.data.batch_size * distributed.world_size()
    enough = max(math.ceil(ENOUGH_PICTURES / pictures_per_step), ENOUGH_EPOCHS * steps_per_epoch)
    if config.init or steps >= enough / 5:
        return None
    flags = []
    if (schedule.n_epochs + schedule.n_epochs_decay) * steps_per_epoch < enough:
        flags.append(f"--n-epochs {max(1, math.ceil(enough / steps_per_epoch) - schedule.n_epochs_decay)}")
    if schedule.max_steps and schedule.max_steps < enough:
        flags.append(f"--max-steps {enough}")
    if schedule.max_minutes and schedule.max_minutes < (minutes := seconds / 60 * enough / max(1, steps)):
        flags.append(f"--max-minutes {math.ceil(minutes)}")
    what = "1 step" if steps == 1 else f"{steps:,} steps"
    evidence = f"finished after {what}, which is not enough for a usable network; expect to need about {enough:,}"
    return Finding("short run", evidence, remedy=f"continue with --resume {' '.join(flags)}")


# Checks on a generator, on the pictures that it receives and returns, (B, 3, H, W) in [0, 1], and on numbers.


def check_generator(
    there: nn.Module, before: Tensor, target: Tensor, back: nn.Module | None = None
) -> list[Finding | None]:
    """All checks on one generator, by two different pictures, two real ones of its target domain, and the way back."""
    after = to_unit(there(to_signed(before)))
    if collapse := check_collapse(before, after):
        # The other checks compare the output with the input, which it no longer depends on.
        return [collapse]
    findings = [check_inversion(before, after), check_copy(before, after), check_pattern(before, after, target)]
    if back is not None:
        both = torch.cat([after[:1], add_noise(after[:1])])
        cycled, noisy_cycled = to_unit(back(to_signed(both))).chunk(2)
        findings.insert(2, check_hidden_information(before[:1], cycled, noisy_cycled))
    return findings


def check_inversion(before: Tensor, after: Tensor) -> Finding | None:
    """Color inversion: the output is dark where the input is bright.

    Blocks of 4 x 4 pixels are averaged first: texture says nothing about inversion. Flat pictures do not count.
    """
    x, y = (functional.avg_pool2d(luma(pictures), 4).flatten(1) for pictures in (before, after))
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    # The standard deviations must exceed two gray levels.
    contrasted = (x.square().mean(1) > (2 * GRAY_LEVEL) ** 2) & (y.square().mean(1) > (2 * GRAY_LEVEL) ** 2)
    correlation = functional.cosine_similarity(x[contrasted], y[contrasted]).mean().item()  # NaN if all are flat.
    if correlation < -0.2:  # Pictures of little contrast cross zero by chance.
        return Finding("color inversion", f"luminances of input and output have correlation {correlation:.2f}")
    return None


def check_copy(before: Tensor, after: Tensor) -> Finding | None:
    """The network does nothing: its output equals its input. A mean difference of four gray levels is hard to see."""
    levels = (after - before).abs().mean().item() / GRAY_LEVEL
    if levels < 4:
        return Finding("no translation", f"the output differs from the input by {levels:.1f} gray levels on average")
    return None


def check_collapse(before: Tensor, after: Tensor) -> Finding | None:
    """Mode collapse: the outputs for two different inputs are nearly equal."""
    spread_before, spread_after = ((pictures[0] - pictures[1]).abs().mean().item() for pictures in (before, after))
    # Inputs that resemble each other prove nothing.
    if spread_before >= 8 * GRAY_LEVEL and spread_after < 0.1 * spread_before:
        percent = 100 * spread_after / spread_before
        evidence = f"different inputs give almost the same output ({percent:.0f} % of their spread)"
        return Finding("mode collapse", evidence)
    return None


def check_hidden_information(before: Tensor, cycled: Tensor, noisy_cycled: Tensor) -> Finding | None:
    """Steganography (Chu et al. 2017): the picture is hidden in invisible detail of its translation.

    Translating back then reads that detail instead of what is visible, and fails if a little noise covers it: `cycled`
    was translated there and back, `noisy_cycled` with one gray level of noise added in between (`add_noise`).
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


def check_pattern(before: Tensor, after: Tensor, target: Tensor | None = None) -> Finding | None:
    """A checkerboard or weave: a regular pattern in calm areas of the output (see `added_pattern`).

    Blurred, sharpened, noisy or filtered photographs, and the blocks of JPEG at quality 20, have a visibility of up to
    0.4; a checkerboard of 3 gray levels in a textured photograph exceeds 1. Pictures below 96 px hold too few windows.
    """
    if min(before.shape[2:]) < 96:
        return None
    visibility, period = added_pattern(before, after, target)
    if not visibility >= 1:  # NaN is not reported here: the run stops on it.
        return None
    evidence = f"in calm areas a pattern repeats every {period:.1f} px, {visibility:.1f} times as strong as is visible"
    return Finding("checkerboard or weave", evidence)


def check_discriminator(loss: float, chance: float) -> Finding | None:
    """A discriminator that always knows or never knows whether a picture is real: the generator learns nothing.

    `loss` is the mean over some hundred steps; `chance` that of one that cannot tell real pictures from fakes.
    """
    if loss <= 0.05 * chance:
        return Finding("all-powerful discriminator", f"its mean loss is {loss:.4f}: it recognizes every fake")
    if loss >= 0.98 * chance:
        return Finding("dead discriminator", f"its mean loss is {loss:.3f}, no better than chance ({chance:.3f})")
    return None


def check_learning_rate(lr: float, progress: float) -> Finding | None:
    """A learning rate of zero with work left; in the last percent of the run, a rate of zero is how schedules end."""
    if lr > 1e-12 or progress > 0.99:
        return None
    return Finding("no learning rate", f"the learning rate is {lr:g} with {100 * (1 - progress):.0f} % of the run left")


def _two_pictures(batch: Tensor) -> Tensor:
    """Two pictures of the batch, or its only one and the same upside down: another one to a network."""
    return batch[:2] if len(batch) > 1 else torch.cat([batch, batch.rot90(2, (2, 3))])
