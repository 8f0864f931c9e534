"""Training (Zhu et al. 2017, section 4 and appendix 7.1): `train` is the whole loop, `train_step` one step of it.

Departures from the paper: the learning rate decays every step instead of every epoch, and the generators that are kept
for use are exponential moving averages of the trained ones.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from cyclegan.data import Data, load_data, load_validation
from cyclegan.diagnose import FailureChecks, check_length
from cyclegan.diffaugment import diffaugment
from cyclegan.discriminators import Discriminator, DiscriminatorPair, FeatureDiscriminator, PatchDiscriminator
from cyclegan.evaluate import Monitor, score
from cyclegan.initial import load_initial_weights, warmup
from cyclegan.losses import discriminator_loss, generator_loss, split_scores
from cyclegan.models import Generator, GeneratorPair
from cyclegan.options import DiscriminatorConfig, GeneratorConfig, TrainConfig
from cyclegan.pool import ImagePool
from cyclegan.translate import translate
from stylekit import devices, distributed
from stylekit.networks.blocks import describe_sizes
from stylekit.pictures import images
from stylekit.training.log import print0
from stylekit.training.optim import build_ema, frozen, learning_rate, load_optimizer, optimizer_step, set_learning_rate
from stylekit.training.run import Result, Run

FIXED = (
    *(field.name for field in dataclasses.fields(GeneratorConfig)),
    *("ndf", "n_layers_d", "discriminator", "direction"),
)
"""Options that a run cannot change."""

PLOTS = {
    "adversarial": ("adversarial_g", "adversarial_f", "d_x", "d_y"),
    "cycle and identity": ("cycle_x", "cycle_y", "identity_x", "identity_y"),
}
"""The panels of losses.png and the terms in each."""


def train(config: TrainConfig) -> Result:
    """Train, or resume a run, until it is finished or a signal (SIGINT, SIGTERM) stops it.

    Under torchrun, call this in every process.

    Raises:
        FileExistsError, FileNotFoundError: The folder holds a run, and `resume` is not set; or there is none to resume.
        ValueError, OSError: The data or the checkpoint cannot be used, or the run is finished.
        FloatingPointError: Training diverged; the last checkpoint predates the divergence.
    """
    with Run(config, FIXED) as run:
        if run.saved and run.saved["config"].get("one_way"):
            raise ValueError(
                f"{run.folder}: an earlier version trained this run one way; go on with `cyclegan pretrain --init "
                f"{run.folder} --name {config.name}-2`"
            )
        data = load_data(config, run)
        state = build_state(config, run.device)
        run.restore(state)
        print0(describe_sizes(state.networks))
        monitor = Monitor(config.data, run.device) if config.output.eval_every and distributed.is_main() else None
        checks = FailureChecks(config)
        for real_x, real_y in run.batches(data.loader):
            lr = learning_rate(config.schedule, run.progress) * (warmup(run.step) if config.init else 1.0)
            set_learning_rate(state.generator_optimizer, lr)
            set_learning_rate(state.discriminator_optimizer, lr)
            x, y = (images.to_signed(devices.to_device(real, run.device)) for real in (real_x, real_y))
            means = run.log(train_step(state, x, y, config, run.amp), lr)
            if means is not None and distributed.is_main():
                # The trained weights, not their average, which shows a failure thousands of steps late.
                pair = distributed.unwrap(state.generators)
                generators = {"G": pair.G, "F": pair.F}
                if finding := checks.check(generators, {"x": real_x, "y": real_y}, means, lr, run.progress):
                    run.warn(finding.title, str(finding))
            if run.samples_due:
                run.show(sample_images(state, data, config), PLOTS)
            if monitor is not None and run.evaluation_due(config.output.eval_every):
                measured = monitor.measure([state.ema_generators.G, state.ema_generators.F])
                run.record(measured, score(measured), state.networks)
            if run.checkpoint_due:
                run.save(state.state_dict() | {"pipelines": data.pipelines.to_dict()}, state.networks)
        if run.progress >= 1 and (finding := check_length(run.step, run.seconds, run.steps_per_epoch, config)):
            run.warn(finding.title, str(finding))
    return run.result


def train_step(
    state: State, real_x: Tensor, real_y: Tensor, config: TrainConfig, amp: bool = False
) -> dict[str, Tensor]:
    """Update both generators, then both discriminators; return the loss terms, detached.

    Args:
        real_x: Pictures of X, (B, 3, H, W) in [-1, 1].
        real_y: The same number of pictures of Y.
        amp: Run the networks in bfloat16; losses and optimizers stay in float32.
    """
    losses = config.losses
    autocast = torch.autocast(real_x.device.type, torch.bfloat16, enabled=amp)
    augment = diffaugment if config.discriminator.diffaugment else nn.Identity()

    # Without DDP, whose gradient hooks the frozen discriminators do not need here.
    discriminators = distributed.unwrap(state.discriminators)
    with autocast, frozen(discriminators):
        cycle = state.generators(real_x, real_y, identity=bool(losses.lambda_identity))
        generator_terms = generator_loss(
            real=(real_x, real_y),
            cycled=(cycle.cycled_x, cycle.cycled_y),
            same=(cycle.same_x, cycle.same_y) if losses.lambda_identity else None,
            scores=discriminators(augment(cycle.fake_x), augment(cycle.fake_y)),
            losses=losses,
        )
    optimizer_step(state.generator_optimizer, generator_terms)
    state.ema.update_parameters(distributed.unwrap(state.generators))

    # Old fakes keep the discriminators from chasing the generators' latest trick. Instance normalization is per
    # picture, so real and fake pictures can share a batch.
    both_x = torch.cat([real_x, state.pool_x(cycle.fake_x.detach().float())])
    both_y = torch.cat([real_y, state.pool_y(cycle.fake_y.detach().float())])
    with autocast:
        scores_x, scores_y = state.discriminators(augment(both_x), augment(both_y))
        discriminator_terms = {
            "d_x": discriminator_loss(*split_scores(scores_x), losses.gan_mode),
            "d_y": discriminator_loss(*split_scores(scores_y), losses.gan_mode),
        }
    optimizer_step(state.discriminator_optimizer, discriminator_terms)
    return {name: term.detach() for name, term in (generator_terms | discriminator_terms).items()}


@dataclass
class State:
    """Everything that changes in a training step."""

    generators: nn.Module
    discriminators: nn.Module
    ema: AveragedModel
    generator_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer
    pool_x: ImagePool
    pool_y: ImagePool

    @property
    def ema_generators(self) -> GeneratorPair:
        """The generators to use."""
        return cast(GeneratorPair, self.ema.module)

    @property
    def networks(self) -> dict[str, Generator | Discriminator]:
        """The networks to use, by folder name: the EMA of the generators, and the discriminators for fine-tuning."""
        pair = self.ema_generators
        return {"G": pair.G, "F": pair.F, **distributed.unwrap(self.discriminators).named()}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds; call it in every process, since the pools are gathered."""
        return {
            "generators": distributed.unwrap(self.generators).state_dict(),
            "discriminators": distributed.unwrap(self.discriminators).state_dict(),
            "average": self.ema.state_dict(),
            "generator_optimizer": self.generator_optimizer.state_dict(),
            "discriminator_optimizer": self.discriminator_optimizer.state_dict(),
            "pools": distributed.gather({"x": self.pool_x.state_dict(), "y": self.pool_y.state_dict()}),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        distributed.unwrap(self.generators).load_state_dict(saved["generators"])
        distributed.unwrap(self.discriminators).load_state_dict(saved["discriminators"])
        self.ema.load_state_dict(saved["average"])
        load_optimizer(self.generator_optimizer, saved["generator_optimizer"])
        load_optimizer(self.discriminator_optimizer, saved["discriminator_optimizer"])
        # With more processes than before, the additional ones start with empty pools.
        if distributed.rank() < len(saved["pools"]):
            device = next(self.generators.parameters()).device
            pools = saved["pools"][distributed.rank()]
            self.pool_x.load_state_dict(pools["x"], device)
            self.pool_y.load_state_dict(pools["y"], device)


def build_state(config: TrainConfig, device: torch.device) -> State:
    """New networks, or those of --init, with optimizers and pools; new weights follow from the seed."""
    torch.manual_seed(config.schedule.seed)
    generators = GeneratorPair(Generator(config.generator), Generator(config.generator))
    discriminators = build_discriminators(config.discriminator)
    if config.init and not config.resume:
        load_initial_weights({"G": generators.G, "F": generators.F, **discriminators.named()}, config.init)
    generators = devices.to_device(generators, device)
    discriminators = devices.to_device(discriminators, device)

    adam = functools.partial(torch.optim.Adam, lr=config.schedule.lr, betas=(0.5, 0.999), fused=True)
    return State(
        ema=build_ema(generators, config.schedule.ema_decay),
        generators=distributed.wrap_ddp(generators, device, config.machine.compile),
        discriminators=distributed.wrap_ddp(discriminators, device, config.machine.compile),
        generator_optimizer=adam(generators.parameters()),
        discriminator_optimizer=adam(discriminators.parameters()),
        pool_x=ImagePool(config.losses.pool_size),
        pool_y=ImagePool(config.losses.pool_size),
    )


def build_discriminators(config: DiscriminatorConfig) -> DiscriminatorPair:
    """D_X and D_Y, of one or both kinds."""
    patch = (
        [PatchDiscriminator(config.ndf, config.n_layers_d) for _ in "xy"] if config.discriminator != "feature" else []
    )
    feature = [FeatureDiscriminator() for _ in "xy"] if config.discriminator != "patch" else []
    return DiscriminatorPair(*patch, *feature)  # type: ignore[arg-type]


def sample_images(state: State, data: Data, config: TrainConfig) -> dict[str, list[Image.Image]]:
    """Translate the validation pictures there and back: real, fake, cycled, by column title."""
    device = next(state.ema.parameters()).device
    G, F = state.ema_generators.G, state.ema_generators.F
    columns: dict[str, list[Image.Image]] = {}
    for titles, paths, there, back in (
        (("real x", "G(x)", "F(G(x))"), data.validation_x, G, F),
        (("real y", "F(y)", "G(F(y))"), data.validation_y, F, G),
    ):
        for path in paths:
            real = load_validation(path, config.data.crop_size).to(device)
            fake = translate(real, there)
            for title, picture in zip(titles, (real, fake, translate(fake, back)), strict=True):
                columns.setdefault(title, []).append(images.to_image(picture))
    return columns
