"""Training (Zhu et al. 2017, section 4 and appendix 7.1): both generators, then both discriminators, step by step.

Departures from the paper: the learning rate falls linearly step by step instead of epoch by epoch; the generators that
are kept for use are exponential moving averages of those that are trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from cyclegan.data import (
    Pair,
    Pipelines,
    UnpairedImages,
    build_pipelines,
    find_domain,
    find_training_pictures,
    pipelines_from_dict,
)
from cyclegan.losses import discriminator_loss, generator_loss
from cyclegan.models import DiscriminatorPair, Generator, GeneratorPair, PatchDiscriminator
from cyclegan.options import TrainConfig
from cyclegan.pool import ImagePool
from cyclegan.translate import translate
from stylekit import distributed, images, run
from stylekit.data import EpochBatches, make_loader, read_pictures, some_of
from stylekit.log import say
from stylekit.training import descend, frozen, unwrap

ARCHITECTURE = ("ngf", "ndf", "n_blocks", "n_layers_d", "upsample", "dropout")
"""Options that a run cannot change."""

PLOTS = {
    "adversarial": ("adversarial_g", "adversarial_f", "d_x", "d_y"),
    "cycle and identity": ("cycle_x", "cycle_y", "identity_x", "identity_y"),
}
"""The panels of losses.png."""


@dataclass
class State:
    """Everything that changes in a training step."""

    generators: nn.Module
    discriminators: nn.Module
    average: AveragedModel
    generator_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer
    pool_x: ImagePool
    pool_y: ImagePool


def train_step(
    state: State, real_x: Tensor, real_y: Tensor, config: TrainConfig, amp: bool = False
) -> dict[str, Tensor]:
    """Update both generators, then both discriminators; return the loss terms, detached.

    Args:
        real_x: Pictures of X, (B, 3, H, W) in [-1, 1].
        real_y: As many of Y.
        amp: Run the networks in bfloat16; losses and optimisers stay in float32.
    """
    autocast = torch.autocast(real_x.device.type, torch.bfloat16, enabled=amp)

    with autocast, frozen(judges := unwrap(state.discriminators)):
        cycle = state.generators(real_x, real_y, identity=config.lambda_identity > 0)
        scores = judges(cycle.fake_x, cycle.fake_y)
        generator_terms = generator_loss(cycle, real_x, real_y, scores, config)
    descend(state.generator_optimizer, generator_terms)
    state.average.update_parameters(unwrap(state.generators))

    # Old fakes keep the discriminators from chasing the generators' latest trick.
    fake_x = state.pool_x(cycle.fake_x.detach().float())
    fake_y = state.pool_y(cycle.fake_y.detach().float())
    with autocast:
        # Instance normalisation treats every picture alone: real and fake can share a batch.
        scores_x, scores_y = state.discriminators(torch.cat([real_x, fake_x]), torch.cat([real_y, fake_y]))
        (real_scores_x, fake_scores_x), (real_scores_y, fake_scores_y) = scores_x.chunk(2), scores_y.chunk(2)
        discriminator_terms = discriminator_loss(
            (real_scores_x, real_scores_y), (fake_scores_x, fake_scores_y), config.gan_loss
        )
    descend(state.discriminator_optimizer, discriminator_terms)

    return {name: term.detach() for name, term in (generator_terms | discriminator_terms).items()}


def build_state(config: TrainConfig, device: torch.device) -> State:
    """Fresh networks, optimisers and pools; the weights follow from the seed."""
    torch.manual_seed(config.seed)

    def generator() -> Generator:
        return Generator(config.ngf, config.n_blocks, config.upsample, config.dropout)

    def discriminator() -> PatchDiscriminator:
        return PatchDiscriminator(config.ndf, config.n_layers_d)

    generators = run.ready(GeneratorPair(generator(), generator()), device)
    discriminators = run.ready(DiscriminatorPair(discriminator(), discriminator()), device)

    def adam(pair: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(pair.parameters(), config.lr, betas=(config.beta1, 0.999), fused=True)

    seed = config.seed * 1000 + distributed.rank()
    return State(
        average=run.averaged(generators, config.ema_decay),
        generators=run.wrapped(generators, device, config),
        discriminators=run.wrapped(discriminators, device, config),
        generator_optimizer=adam(generators),
        discriminator_optimizer=adam(discriminators),
        pool_x=ImagePool(config.pool_size, seed=2 * seed),
        pool_y=ImagePool(config.pool_size, seed=2 * seed + 1),
    )


@dataclass
class Data:
    """What a run trains on and shows."""

    loader: DataLoader[Pair]
    batches: EpochBatches
    validation_x: list[Path]
    validation_y: list[Path]


def load_data(config: TrainConfig, pipelines: Pipelines, device: torch.device) -> Data:
    """Read every picture once, to find the bad ones before training does; keep them in memory if they fit.

    Raises:
        FileNotFoundError: A folder is missing or holds no picture.
        ValueError: More than 1 % of the pictures are bad, or there are too few for one batch.
    """
    paths = find_training_pictures(config.dataroot)
    (good_x, good_y), cache = read_pictures(paths, (" of domain A", " of domain B"), config)
    data = UnpairedImages(good_x, good_y, pipelines, config.seed, config.serial_batches, cache)
    loader, batches = make_loader(data, len(data), config, device, config.serial_batches)
    say(f"X: {len(good_x)} pictures, Y: {len(good_y)}{', kept in memory' if cache else ''}")

    def validation(domain: str, training: list[Path]) -> list[Path]:
        """A few from all over the test folder; from the training folder if there is none."""
        return some_of(find_domain(config.dataroot, "test", domain) or training, config.n_samples)

    return Data(loader, batches, validation("A", good_x), validation("B", good_y))


def train(config: TrainConfig) -> run.Result:
    """Train, or go on with a run; see `stylekit.run.train` for how it ends and what it raises."""

    def prepare(device: torch.device, saved: dict[str, Any] | None) -> _CycleGAN:
        pipelines = (
            pipelines_from_dict(saved["pipelines"], config.crop_size)
            if saved and not config.differences(saved["config"], "augment", "load_size", "crop_size")
            else build_pipelines(config.augment, config.load_size, config.crop_size)
        )
        return _CycleGAN(config, device, load_data(config, pipelines, device), pipelines)

    entries = {"pipelines": dict, "generators": dict, "average": dict, "pools": list}
    return run.train(config, ARCHITECTURE, entries, prepare)


class _CycleGAN:
    """What a run asks of the method: `stylekit.run.Method`."""

    plots: Mapping[str, Sequence[str]] = PLOTS

    def __init__(self, config: TrainConfig, device: torch.device, data: Data, pipelines: Pipelines) -> None:
        self.config = config
        self.device = device
        self.data = data
        self.loader: DataLoader[Any] = data.loader
        self.batches = data.batches
        self.pipelines = pipelines
        self.state = build_state(config, device)
        self.optimizers: Sequence[torch.optim.Optimizer] = (
            self.state.generator_optimizer,
            self.state.discriminator_optimizer,
        )
        self.networks: Sequence[nn.Module] = (self.state.generators, self.state.discriminators)

    def describe(self) -> str:
        pair, judges = unwrap(self.state.generators), unwrap(self.state.discriminators)
        return f"G and F: {run.count(pair.G)} each, D_X and D_Y: {run.count(judges.D_X)} each"

    def step(self, batch: Pair, amp: bool) -> dict[str, Tensor]:
        real_x, real_y = (images.to_signed(run.to_device(pictures, self.device)) for pictures in batch)
        return train_step(self.state, real_x, real_y, self.config, amp)

    def state_dict(self) -> dict[str, Any]:
        state = self.state
        return {
            "pipelines": self.pipelines.to_dict(),
            "generators": unwrap(state.generators).state_dict(),
            "discriminators": unwrap(state.discriminators).state_dict(),
            "average": state.average.state_dict(),
            "generator_optimizer": state.generator_optimizer.state_dict(),
            "discriminator_optimizer": state.discriminator_optimizer.state_dict(),
            "pools": distributed.gather({"x": state.pool_x.state_dict(), "y": state.pool_y.state_dict()}),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        state = self.state
        unwrap(state.generators).load_state_dict(saved["generators"])
        unwrap(state.discriminators).load_state_dict(saved["discriminators"])
        state.average.load_state_dict(saved["average"])
        state.generator_optimizer.load_state_dict(saved["generator_optimizer"])
        state.discriminator_optimizer.load_state_dict(saved["discriminator_optimizer"])
        # With more processes than before, the new ones start with empty pools.
        if distributed.rank() < len(saved["pools"]):
            pools = saved["pools"][distributed.rank()]
            state.pool_x.load_state_dict(pools["x"], self.device)
            state.pool_y.load_state_dict(pools["y"], self.device)

    def released(self) -> dict[str, nn.Module]:
        average = cast(GeneratorPair, self.state.average.module)
        return {"G": average.G, "F": average.F}

    def paint(self) -> dict[str, list[Image.Image]]:
        """Real, fake, cycled, the two domains side by side."""
        average = cast(GeneratorPair, self.state.average.module)
        there_and_back = (
            (("real x", "G(x)", "F(G(x))"), self.data.validation_x, average.G, average.F),
            (("real y", "F(y)", "G(F(y))"), self.data.validation_y, average.F, average.G),
        )
        columns: dict[str, list[Image.Image]] = {}
        for titles, paths, there, back in there_and_back:
            for path in paths:
                real = images.resize(images.load(path), max(256, self.config.crop_size))
                fake = translate(images.to_tensor(real).to(self.device), there)
                cycled = translate(fake, back)
                for title, picture in zip(titles, (real, images.to_image(fake), images.to_image(cycled)), strict=True):
                    columns.setdefault(title, []).append(picture)
        return columns
