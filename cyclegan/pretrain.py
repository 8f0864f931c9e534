"""Training without the cycle: `pretrain` is the whole loop, `pretrain_step` one step of it.

This is not in the paper. One generator learns G: X -> Y from its discriminators and from the mean style of Y, while VGG
features and local colors keep what is in the picture (`cyclegan.perceptual`). It takes less than half of the time of
the cycle, and its networks are a start for both generators of `cyclegan train --init`: with `--direction BtoA` X and Y
change places, and what a run saves as G becomes the F of the cycle.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from cyclegan.data import Data, load_data, load_validation
from cyclegan.diagnose import FailureChecks, check_length
from cyclegan.diffaugment import diffaugment
from cyclegan.discriminators import Discriminator, Discriminators, FeatureDiscriminator, PatchDiscriminator
from cyclegan.evaluate import Monitor, score
from cyclegan.initial import load_initial_weights, warmup
from cyclegan.losses import discriminator_loss, split_scores
from cyclegan.models import Generator
from cyclegan.options import GeneratorConfig, PretrainConfig
from cyclegan.perceptual import STYLE_LAYERS, MeanStyle, perceptual_loss
from cyclegan.pool import ImagePool
from cyclegan.translate import translate
from stylekit import devices, distributed
from stylekit.measures.patterns import MeanWeave
from stylekit.networks.blocks import describe_sizes
from stylekit.networks.vgg import VGGFeatures
from stylekit.pictures import images
from stylekit.training.log import print0
from stylekit.training.optim import build_ema, frozen, learning_rate, load_optimizer, optimizer_step, set_learning_rate
from stylekit.training.run import Result, Run

FIXED = (*(field.name for field in dataclasses.fields(GeneratorConfig)), "ndf", "direction")
"""Options that a run cannot change."""

DISCRIMINATOR_LR = 0.5
"""Learning rate of the discriminators, relative to that of the generator, which also learns from features."""

PLOTS = {
    "adversarial": ("adversarial", "d_y"),
    "content, style and weave": ("content", "style", "weave"),
    "tone and color": ("tone", "color"),
}
"""The panels of losses.png and the terms in each."""


def pretrain(config: PretrainConfig) -> Result:
    """Train, or resume a run, until it is finished or a signal stops it. Raises what `cyclegan.train.train` raises.

    Under torchrun, call this in every process.
    """
    with Run(config, FIXED) as run:
        data = load_data(config, run)
        state = build_state(config, run.device)
        run.restore(state)
        print0(describe_sizes(state.networks))
        evaluates = config.output.eval_every and distributed.is_main()
        monitor = Monitor(config.data, run.device, both=False) if evaluates else None
        checks = FailureChecks(config)
        for real_x, real_y in run.batches(data.loader):
            lr = learning_rate(config.schedule, run.progress) * (warmup(run.step) if config.init else 1.0)
            set_learning_rate(state.generator_optimizer, lr)
            set_learning_rate(state.discriminator_optimizer, DISCRIMINATOR_LR * lr)
            x, y = devices.to_device(real_x, run.device), devices.to_device(real_y, run.device)
            means = run.log(pretrain_step(state, x, y, config, run.amp), lr)
            if means is not None and distributed.is_main():
                # The trained weights, not their average, which shows a failure thousands of steps late.
                pictures = {"x": real_x, "y": real_y}
                if finding := checks.check({"G": state.generator}, pictures, means, lr, run.progress):
                    run.warn(finding.title, str(finding))
            if run.samples_due:
                run.show(sample_images(state, data, config), PLOTS)
            if monitor is not None and run.evaluation_due(config.output.eval_every):
                run.record(measured := monitor.measure([state.ema_generator]), score(measured), state.networks)
            if run.checkpoint_due:
                run.save(state.state_dict() | {"pipelines": data.pipelines.to_dict()}, state.networks)
        if run.progress >= 1 and (finding := check_length(run.step, run.seconds, run.steps_per_epoch, config)):
            run.warn(finding.title, str(finding))
    return run.result


def pretrain_step(state: State, x: Tensor, y: Tensor, config: PretrainConfig, amp: bool = False) -> dict[str, Tensor]:
    """Update the generator, then its discriminators; return the loss terms, detached.

    Args:
        x: Pictures of X, (B, 3, H, W) in [0, 1].
        y: The same number of pictures of Y.
        amp: Run the networks in bfloat16; losses and optimizers stay in float32.
    """
    real_x, real_y = images.to_signed(x), images.to_signed(y)
    autocast = torch.autocast(x.device.type, torch.bfloat16, enabled=amp)

    # Without DDP, whose gradient hooks the frozen discriminators do not need here.
    discriminators = distributed.unwrap(state.discriminators)
    with autocast, frozen(discriminators):
        fake_y = state.generator(real_x)
        scores = discriminators(diffaugment(fake_y))
        x_features, y_features = state.vgg(x), state.vgg(y)
        fake_features = state.vgg(images.to_unit(fake_y))
    state.style_x.update(x, x_features)
    state.style_y.update(y, y_features)
    weave = state.weave.loss(x, images.to_unit(fake_y.float())) if config.losses.lambda_weave else None
    features = x_features, fake_features
    terms = perceptual_loss(real_x, fake_y, features, state.style_x, state.style_y, weave, scores, config.losses)
    optimizer_step(state.generator_optimizer, terms)
    state.ema.update_parameters(distributed.unwrap(state.generator))

    # Old fakes keep the discriminators from chasing the generator's latest trick.
    both_y = torch.cat([real_y, state.pool(fake_y.detach().float())])
    with autocast:
        d_y = discriminator_loss(*split_scores(state.discriminators(diffaugment(both_y))))
    optimizer_step(state.discriminator_optimizer, {"d_y": d_y})
    return {name: term.detach() for name, term in (terms | {"d_y": d_y}).items()}


@dataclass
class State:
    """Everything that changes in a training step, and the frozen network of its losses."""

    generator: nn.Module
    discriminators: nn.Module
    ema: AveragedModel
    generator_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer
    vgg: VGGFeatures
    pool: ImagePool = field(default_factory=ImagePool)
    style_x: MeanStyle = field(default_factory=MeanStyle)
    style_y: MeanStyle = field(default_factory=MeanStyle)
    weave: MeanWeave = field(default_factory=MeanWeave)
    """The mean power spectrum of what the generator paints in smooth areas: regular patterns are its peaks."""

    @property
    def ema_generator(self) -> Generator:
        """The generator to use."""
        return cast(Generator, self.ema.module)

    @property
    def networks(self) -> dict[str, Generator | Discriminator]:
        """The networks to use, by folder name: the EMA of the generator, and its discriminators for fine-tuning."""
        patch, features = distributed.unwrap(self.discriminators)
        return {"G": self.ema_generator, "D_Y": patch, "D_Y_features": features}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds; call it in every process, since pools and means are gathered."""
        means = {name: getattr(self, name).state_dict() for name in ("pool", "style_x", "style_y", "weave")}
        return {
            "generator": distributed.unwrap(self.generator).state_dict(),
            "discriminators": distributed.unwrap(self.discriminators).state_dict(),
            "ema": self.ema.state_dict(),
            "generator_optimizer": self.generator_optimizer.state_dict(),
            "discriminator_optimizer": self.discriminator_optimizer.state_dict(),
            "ranks": distributed.gather(means),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        distributed.unwrap(self.generator).load_state_dict(saved["generator"])
        distributed.unwrap(self.discriminators).load_state_dict(saved["discriminators"])
        self.ema.load_state_dict(saved["ema"])
        load_optimizer(self.generator_optimizer, saved["generator_optimizer"])
        load_optimizer(self.discriminator_optimizer, saved["discriminator_optimizer"])
        # With more processes than before, the additional ones start with an empty pool and new means.
        if distributed.rank() < len(saved["ranks"]):
            device = next(self.generator.parameters()).device
            for name, part in saved["ranks"][distributed.rank()].items():
                getattr(self, name).load_state_dict(part, device)


def build_state(config: PretrainConfig, device: torch.device) -> State:
    """New networks, or those of --init, with optimizers; new weights follow from the seed."""
    torch.manual_seed(config.schedule.seed)
    generator = Generator(config.generator)
    patch, features = PatchDiscriminator(config.ndf), FeatureDiscriminator()
    if config.init is not None and not config.resume:
        load_initial_weights({"G": generator, "D_Y": patch, "D_Y_features": features}, [config.init])
    generator = devices.to_device(generator, device)
    discriminators = devices.to_device(Discriminators([patch, features]), device)
    vgg = VGGFeatures(STYLE_LAYERS, "compact", padding="replicate", normalize=True)

    adam = functools.partial(torch.optim.Adam, lr=config.schedule.lr, betas=(0.5, 0.999), fused=True)
    return State(
        ema=build_ema(generator, config.schedule.ema_decay),
        generator=distributed.wrap_ddp(generator, device, config.machine.compile),
        discriminators=distributed.wrap_ddp(discriminators, device, config.machine.compile),
        generator_optimizer=adam(generator.parameters()),
        discriminator_optimizer=adam(discriminators.parameters()),
        vgg=devices.to_device(vgg, device),
    )


def sample_images(state: State, data: Data, config: PretrainConfig) -> dict[str, list[Image.Image]]:
    """The validation pictures before and after, by column title."""
    device = next(state.ema.parameters()).device
    columns: dict[str, list[Image.Image]] = {"real x": [], "G(x)": []}
    for path in data.validation_x:
        real = load_validation(path, config.data.crop_size).to(device)
        columns["real x"].append(images.to_image(real))
        columns["G(x)"].append(images.to_image(translate(real, state.ema_generator)))
    return columns
