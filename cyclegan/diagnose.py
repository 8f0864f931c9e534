"""Diagnosis of a CycleGAN during training: which pictures are checked for which disease, and the option that helps.

The checks are those of `stylekit.training.diagnostics`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cyclegan.options import TrainConfig
from stylekit import devices, distributed
from stylekit.pictures.images import to_signed, to_unit
from stylekit.training import diagnostics
from stylekit.training.diagnostics import Finding

CHANCE = {"lsgan": 0.25, "vanilla": math.log(2)}
"""d_x and d_y of a discriminator that gives every picture the same, best score."""

ENOUGH_PICTURES, ENOUGH_EPOCHS = 10_000, 5
"""What a usable network needs at least: the bundled landscape2vangogh-cycle took 9,262 pictures, 5.8 epochs."""


@torch.no_grad()
def diagnose(
    generators: nn.Module,
    real_x: Tensor,
    real_y: Tensor,
    terms: Mapping[str, float],
    lr: float,
    progress: float,
    config: TrainConfig,
) -> list[Finding]:
    """Examine a run between two steps; return what is wrong, most severe first.

    The networks and all random states stay as they are. It costs a third of a training step on one picture.

    The trained generators are examined rather than their moving average: the average contains its initial weights for
    thousands of steps and shows a disease that much later.

    Args:
        generators: The `GeneratorPair`, with or without DDP.
        real_x: The current batch of X, (B, 3, H, W) in [0, 1]; at most two pictures are used.
        real_y: The current batch of Y.
        terms: Loss terms, averaged over the steps since the last diagnosis: some hundred.
        lr: Learning rate of the last step.
        progress: Fraction of the run that is done, in [0, 1].
    """
    pair = distributed.unwrap(generators)
    device = next(pair.parameters()).device
    x, y = (_two_pictures(devices.to_device(pictures, device)) for pictures in (real_x, real_y))
    with _eval_mode(pair):
        # Without the cycle, the way back is not trained and hides nothing.
        cycled = "cycle_x" in terms
        findings = _examine("G", pair.G, x, y, pair.F if cycled else None)
        if not config.one_way:
            findings += _examine("F", pair.F, y, x, pair.G if cycled else None)
    for name in sorted(terms.keys() & {"d_x", "d_y"}):
        if finding := diagnostics.check_discriminator(terms[name], CHANCE[config.gan_loss]):
            findings.append(finding.with_cure("", name.upper()))
    if finding := diagnostics.check_learning_rate(lr, progress):
        findings.insert(0, finding)
    return [finding.with_cure(cure(finding, config), finding.network) for finding in findings]


def diagnose_length(
    steps: int, seconds: float, steps_per_epoch: int, pictures_per_step: int, config: TrainConfig
) -> Finding | None:
    """Examine a finished run: whether it was far too short for its data. Fine-tuning (`--init`) may be short.

    Args:
        steps: All steps of the run.
        seconds: Training time of these steps.
        pictures_per_step: Of each domain, in all processes.
    """
    enough = max(math.ceil(ENOUGH_PICTURES / pictures_per_step), ENOUGH_EPOCHS * steps_per_epoch)
    finding = diagnostics.check_length(steps, enough)
    if finding is None or config.init:
        return None
    flags = []
    if (config.n_epochs + config.n_epochs_decay) * steps_per_epoch < enough:
        flags.append(f"--n-epochs {max(1, math.ceil(enough / steps_per_epoch) - config.n_epochs_decay)}")
    if config.max_steps and config.max_steps < enough:
        flags.append(f"--max-steps {enough}")
    if config.max_minutes and config.max_minutes < (minutes := seconds / 60 * enough / max(1, steps)):
        flags.append(f"--max-minutes {math.ceil(minutes)}")
    return finding.with_cure(f"continue with --resume {' '.join(flags)}")


def cure(finding: Finding, config: TrainConfig) -> str:
    """What to change, with the option's present value. `--resume` where the run can be saved, else a new run."""
    lambda_name = "lambda_x" if finding.network == "G" else "lambda_y"
    flag, weight = f"--{lambda_name.replace('_', '-')}", getattr(config, lambda_name)
    identity = config.lambda_identity
    match finding.disease:
        case "mode collapse":
            return f"start a new run with {flag} {max(10, 2 * weight):g} (now {weight:g}) or a smaller --lr"
        case "color inversion":
            advice = f"--lambda-identity {max(1, 2 * identity):g} (now {identity:g}) or another --seed"
            return f"this rarely heals: start a new run with {advice}"
        case "no translation":
            if identity:
                return f"continue with --resume --lambda-identity {identity / 5:g} (now {identity:g})"
            return f"continue with --resume {flag} {weight / 2:g} (now {weight:g})"
        case "hidden information":
            return f"continue with --resume {flag} {weight / 2:g} (now {weight:g})"
        case "checkerboard or weave":
            if config.upsample == "transposed":
                return "start a new run with --upsample resize (now transposed)"
            if not config.antialias:
                return "start a new run with --antialias"
            if not config.noise:
                return "start a new run with --noise 0.2"
            return f"continue with --resume --load-size {round(1.5 * config.load_size)} (now {config.load_size})"
        case "all-powerful discriminator":
            if config.gan_loss == "vanilla":
                return "start a new run with --gan-loss lsgan (now vanilla)"
            weaker = max(1, config.ndf // 2)
            return f"use more pictures, or start a new run with --ndf {weaker} (now {config.ndf})"
        case "dead discriminator":
            stronger = 2 * config.ndf
            return f"check that trainA and trainB differ; start a new run with --ndf {stronger} (now {config.ndf})"
        case "no learning rate":
            return f"continue with --resume --lr-policy constant --lr {max(config.lr, 1e-4):g}"
    raise ValueError(f"unknown disease {finding.disease!r}")


def _examine(name: str, there: nn.Module, before: Tensor, target: Tensor, back: nn.Module | None) -> list[Finding]:
    """The findings on one generator, by two different pictures.

    Args:
        name: Of the generator `there`.
        target: Two real pictures of the domain that `there` translates into.
        back: The generator for the other direction, if it is trained to restore the picture.
    """
    after = to_unit(there(to_signed(before)))
    if collapse := diagnostics.check_collapse(before, after):
        # The other checks compare the output with the input, which it no longer depends on.
        return [collapse.with_cure("", name)]
    findings = [diagnostics.check_inversion(before, after), diagnostics.check_copy(before, after)]
    if back is not None:
        both = torch.cat([after[:1], diagnostics.add_noise(after[:1])])
        cycled, noisy_cycled = to_unit(back(to_signed(both))).chunk(2)
        findings.append(diagnostics.check_hidden_information(before[:1], cycled, noisy_cycled))
    findings.append(diagnostics.check_pattern(before, after, target))
    return [finding.with_cure("", name) for finding in findings if finding]


def _two_pictures(batch: Tensor) -> Tensor:
    """Two pictures of the batch, or its only one and the same upside down: a different picture to a network."""
    return batch[:2] if len(batch) > 1 else torch.cat([batch, batch.rot90(2, (2, 3))])


@contextmanager
def _eval_mode(network: nn.Module) -> Iterator[None]:
    """No dropout and no noise, which would draw random numbers; afterwards every module is in the mode it was in."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
