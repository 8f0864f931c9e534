"""Training (Zhu et al. 2017, section 4 and appendix 7.1): `train` is the whole loop, `train_step` one step of it.

Departures from the paper: the learning rate decays every step instead of every epoch, and the generators that are kept
for use are exponential moving averages of the trained ones. On request (--one-sided-steps) a first stage trains without
the cycle, with the same discriminators.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
from cyclegan.diagnose import Finding, FindingFilter, check_length, cycle_remedies, diagnose, one_way_remedies
from cyclegan.diffaugment import diffaugment
from cyclegan.discriminators import DiscriminatorPair, FeatureDiscriminator, PatchDiscriminator, Scores
from cyclegan.evaluate import Monitor, score
from cyclegan.losses import discriminator_loss, generator_loss, one_sided_loss
from cyclegan.models import Generator, GeneratorPair
from cyclegan.options import TrainConfig
from cyclegan.pool import ImagePool
from cyclegan.style import CONTENT_LAYER, STYLE_LAYERS, MeanStyle
from cyclegan.translate import translate
from stylekit import devices, distributed
from stylekit.measures.patterns import MeanWeave
from stylekit.networks import weights
from stylekit.networks.blocks import count_parameters
from stylekit.networks.vgg import VGGFeatures
from stylekit.pictures import images
from stylekit.training.data import evenly_spaced, make_loader, read_pictures
from stylekit.training.log import print0
from stylekit.training.optim import build_ema, frozen, load_optimizer, optimizer_step, set_learning_rate
from stylekit.training.run import Result, Run

GENERATOR = (
    "ngf",
    "n_blocks",
    "upsample",
    "dropout",
    "antialias",
    "noise",
    "noise_size",
    "limit",
    "keep_colors",
    "keep_black",
)
"""Options that are arguments of the generators."""

ARCHITECTURE = (*GENERATOR, "ndf", "n_layers_d", "discriminator")
"""Options that a run cannot change."""

ONE_WAY_UNUSED = frozenset({"F", "D_X", "D_X_features"})
"""Networks that --one-way leaves untrained."""

PLOTS = {
    "adversarial": ("adversarial_g", "adversarial_f", "d_x", "d_y"),
    "cycle and identity": ("cycle_x", "cycle_y", "identity_x", "identity_y"),
    "content, style and weave": ("content_g", "content_f", "style_g", "style_f", "weave_g", "weave_f"),
    "tone and color": ("tone_g", "tone_f", "color_g", "color_f"),
}
"""The panels of losses.png and the terms in each."""


def train(config: TrainConfig) -> Result:
    """Train, or resume a run, until it is finished or a signal (SIGINT, SIGTERM) stops it.

    Under torchrun, call this in every process.

    Raises:
        FileExistsError: The folder holds a run, and `resume` is not set.
        FileNotFoundError: There is no data, or no run to resume.
        ValueError: Too many pictures are unreadable; the checkpoint is damaged or of another network; the run is
            finished; or the extra `eval` is missing.
        OSError: A file cannot be written; the last checkpoint is untouched.
        FloatingPointError: Training diverged; the last checkpoint predates the divergence.
        torch.OutOfMemoryError: The device has too little memory for these options.
    """
    with Run(config, fixed=ARCHITECTURE) as run:
        pipelines = run.saved_entry("pipelines", dict, depends_on=("augment", "load_size", "crop_size"))
        data = load_data(config, run.device, pipelines)
        state = build_state(config, run.device)
        run.restore(state)
        print0(describe(state))
        monitor = None
        if config.eval_every and distributed.is_main():
            directions, size = config.directions[: 1 if config.one_way else 2], max(256, config.load_size)
            monitor = Monitor(config.dataroot, directions, config.eval_pictures, size, run.device)
        run.start(data.loader)
        _write_outputs(run, state, data, config, monitor)
        findings = FindingFilter()
        for real_x, real_y in run.batches(data.loader):
            warmup = min(1.0, (run.step + 1) / (config.warmup_steps + 1))
            lr = set_learning_rate([state.generator_optimizer], config, run.progress, warmup)
            slower = (config.lr_d or config.lr) / config.lr
            set_learning_rate([state.discriminator_optimizer], config, run.progress, warmup * slower)
            batch = _to_network(real_x, run.device), _to_network(real_y, run.device)
            step = one_sided_step if config.is_one_sided(run.step) else train_step
            terms = step(state, *batch, config, run.amp)
            run.end_step(terms, lr)
            if run.diagnosis_due:
                pictures = {"x": real_x, "y": real_y}
                found = _diagnose(state, pictures, run.mean_terms(), lr, run.progress, config)
                if finding := findings.select(found, run.seconds):
                    run.warn(finding.title, str(finding))
            _write_outputs(run, state, data, config, monitor)
        if run.progress >= 1:
            count = config.batch_size * distributed.world_size()
            if short := check_length(run.step, run.seconds, run.steps_per_epoch, count, config):
                run.warn(short.title, str(short))
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
    # Without DDP, whose gradient hooks the frozen discriminators do not need here.
    discriminators = distributed.unwrap(state.discriminators)
    with _autocast(real_x, amp), frozen(discriminators):
        cycle = state.generators(real_x, real_y, identity=bool(config.lambda_identity))
        generator_terms = generator_loss(
            real=(real_x, real_y),
            cycled=(cycle.cycled_x, cycle.cycled_y),
            same=(cycle.same_x, cycle.same_y) if config.lambda_identity else None,
            scores=discriminators(_augment(cycle.fake_x, config), _augment(cycle.fake_y, config)),
            gan_loss=config.gan_loss,
            lambda_x=config.lambda_x,
            lambda_y=config.lambda_y,
            lambda_identity=config.lambda_identity,
        )
    optimizer_step(state.generator_optimizer, generator_terms)
    state.ema.update_parameters(distributed.unwrap(state.generators))
    fakes = cycle.fake_x, cycle.fake_y
    discriminator_terms = _update_discriminators(state, (real_x, real_y), fakes, config, amp)
    return {name: term.detach() for name, term in (generator_terms | discriminator_terms).items()}


def one_sided_step(
    state: State, real_x: Tensor, real_y: Tensor, config: TrainConfig, amp: bool = False
) -> dict[str, Tensor]:
    """As `train_step`, but without the cycle: features and local colors keep what is in the picture.

    With `config.one_way`, F and D_X stay as they are.
    """
    discriminators = distributed.unwrap(state.discriminators)
    with _autocast(real_x, amp), frozen(discriminators):
        fake_y, fake_x = state.generators(real_x, None if config.one_way else real_y, cycle=False)
        scores_x, scores_y = discriminators(_augment(fake_x, config), _augment(fake_y, config))
        x, y = _features(state, real_x), _features(state, real_y)
        state.style_x.update(images.to_unit(real_x), x)
        state.style_y.update(images.to_unit(real_y), y)
        styles = state.style_x, state.style_y
        generator_terms = _one_sided_terms(state, "g", (real_x, x), fake_y, styles, scores_y, config)
        if fake_x is not None:
            generator_terms |= _one_sided_terms(state, "f", (real_y, y), fake_x, styles[::-1], scores_x, config)
    optimizer_step(state.generator_optimizer, generator_terms)
    state.ema.update_parameters(distributed.unwrap(state.generators))
    discriminator_terms = _update_discriminators(state, (real_x, real_y), (fake_x, fake_y), config, amp)
    return {name: term.detach() for name, term in (generator_terms | discriminator_terms).items()}


def _one_sided_terms(
    state: State,
    name: str,
    real: tuple[Tensor, dict[str, Tensor]],
    fake: Tensor,
    styles: tuple[MeanStyle, MeanStyle],
    scores: Scores,
    config: TrainConfig,
) -> dict[str, Tensor]:
    """The loss terms of one generator, "g" or "f".

    Args:
        real: Pictures and their features.
        styles: Of the collection of `real`, and of that which `fake` should belong to.
    """
    picture, before = real
    source, style = styles
    colors = images.to_signed(style.paint(images.to_unit(picture), source, config.palette))
    after = _features(state, fake)
    weave = state.weaves[name].loss(images.to_unit(picture), images.to_unit(fake)) if config.lambda_weave else None
    terms = one_sided_loss(
        real=picture,
        colors=colors,
        fake=fake,
        content=(before[CONTENT_LAYER], after[CONTENT_LAYER]),
        style=style.loss(after),
        weave=weave,
        scores=scores,
        gan_loss=config.gan_loss,
        lambda_content=config.lambda_content,
        lambda_tone=config.lambda_tone,
        lambda_color=config.lambda_color,
        lambda_style=config.lambda_style,
        lambda_weave=config.lambda_weave,
    )
    return {f"{term}_{name}": value for term, value in terms.items()}


def _features(state: State, pictures: Tensor) -> dict[str, Tensor]:
    """The features of content and style."""
    assert state.vgg is not None
    return state.vgg(images.to_unit(pictures))


def _update_discriminators(
    state: State,
    real: tuple[Tensor, Tensor],
    fake: tuple[Tensor | None, Tensor],
    config: TrainConfig,
    amp: bool,
) -> dict[str, Tensor]:
    """Update the discriminators on real pictures and on fakes from the pools; without a fake of X, only those of Y."""

    def inputs(real: Tensor, fake: Tensor | None, pool: ImagePool) -> Tensor | None:
        # Old fakes keep the discriminators from chasing the generators' latest trick. Instance normalization is per
        # picture, so real and fake pictures can share a batch.
        return None if fake is None else torch.cat([real, pool(fake.detach().float())])

    both_x, both_y = inputs(real[0], fake[0], state.pool_x), inputs(real[1], fake[1], state.pool_y)
    with _autocast(real[0], amp):
        scores_x, scores_y = state.discriminators(_augment(both_x, config), _augment(both_y, config))
        terms = {"d_y": discriminator_loss(*_halves(scores_y), config.gan_loss)}
        if both_x is not None:
            terms = {"d_x": discriminator_loss(*_halves(scores_x), config.gan_loss)} | terms
    optimizer_step(state.discriminator_optimizer, terms)
    return terms


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
    style_x: MeanStyle = field(default_factory=MeanStyle)
    style_y: MeanStyle = field(default_factory=MeanStyle)
    weaves: dict[str, MeanWeave] = field(default_factory=lambda: {name: MeanWeave() for name in "gf"})
    """What G and F paint in smooth areas."""
    vgg: VGGFeatures | None = None
    """The frozen network of the content and the style loss; only the one-sided stage has one."""
    unused: frozenset[str] = frozenset()
    """Names of the networks that --one-way leaves untrained."""

    @property
    def ema_generators(self) -> GeneratorPair:
        """The generators to use."""
        return cast(GeneratorPair, self.ema.module)

    @property
    def released_networks(self) -> dict[str, Generator | PatchDiscriminator | FeatureDiscriminator]:
        """What a run releases, by folder name: the EMA of the generators, and the discriminators for fine-tuning."""
        pair = distributed.unwrap(self.discriminators)
        networks = {"G": self.ema_generators.G, "F": self.ema_generators.F} | _discriminators(pair)
        return {name: network for name, network in networks.items() if name not in self.unused}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds; call it in every process, since the pools are gathered."""
        return {
            "generators": distributed.unwrap(self.generators).state_dict(),
            "discriminators": distributed.unwrap(self.discriminators).state_dict(),
            "average": self.ema.state_dict(),
            "generator_optimizer": self.generator_optimizer.state_dict(),
            "discriminator_optimizer": self.discriminator_optimizer.state_dict(),
            "pools": distributed.gather({"x": self.pool_x.state_dict(), "y": self.pool_y.state_dict()}),
            "styles": distributed.gather({"x": self.style_x.state_dict(), "y": self.style_y.state_dict()}),
            "weaves": distributed.gather({name: weave.state_dict() for name, weave in self.weaves.items()}),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        distributed.unwrap(self.generators).load_state_dict(saved["generators"])
        distributed.unwrap(self.discriminators).load_state_dict(saved["discriminators"])
        self.ema.load_state_dict(saved["average"])
        load_optimizer(self.generator_optimizer, saved["generator_optimizer"])
        load_optimizer(self.discriminator_optimizer, saved["discriminator_optimizer"])
        # With more processes than before, the additional ones start with empty pools and new means.
        if distributed.rank() < len(saved["pools"]):
            device = next(self.generators.parameters()).device
            pools = saved["pools"][distributed.rank()]
            self.pool_x.load_state_dict(pools["x"], device)
            self.pool_y.load_state_dict(pools["y"], device)
            if "styles" in saved:  # A run of an earlier version has none.
                styles = saved["styles"][distributed.rank()]
                self.style_x.load_state_dict(styles["x"], device)
                self.style_y.load_state_dict(styles["y"], device)
            if "weaves" in saved:
                for name, weave in self.weaves.items():
                    weave.load_state_dict(saved["weaves"][distributed.rank()][name], device)


def build_state(config: TrainConfig, device: torch.device) -> State:
    """New networks, or those of --init, with optimizers and pools; new weights follow from the seed.

    Raises:
        FileNotFoundError, ValueError, OSError: The networks of --init cannot be read, or have another architecture.
    """
    torch.manual_seed(config.seed)

    def generator() -> Generator:
        return Generator(**{name: getattr(config, name) for name in GENERATOR})

    generators = GeneratorPair(generator(), generator())
    discriminators = _build_discriminators(config)
    if config.init and not config.resume:
        _load_initial_weights(generators, discriminators, config)
    generators = devices.to_device(generators, device)
    discriminators = devices.to_device(discriminators, device)
    unused = ONE_WAY_UNUSED if config.one_way else frozenset()
    for name, network in ({"F": generators.F} | _discriminators(discriminators)).items():
        network.requires_grad_(name not in unused)

    def adam(pair: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(pair.parameters(), config.lr, betas=(config.beta1, 0.999), fused=True)

    seed = config.seed * 1000 + distributed.rank()
    return State(
        ema=build_ema(generators, config.ema_decay),
        generators=distributed.wrap_ddp(generators, device, config.compile),
        discriminators=distributed.wrap_ddp(discriminators, device, config.compile),
        generator_optimizer=adam(generators),
        discriminator_optimizer=adam(discriminators),
        pool_x=ImagePool(config.pool_size, seed=2 * seed),
        pool_y=ImagePool(config.pool_size, seed=2 * seed + 1),
        vgg=_content_network(device) if config.is_one_sided(0) else None,
        unused=unused,
    )


@dataclass
class Data:
    """Training batches and validation pictures."""

    loader: DataLoader[Pair]
    pipelines: Pipelines
    validation_x: list[Path]
    validation_y: list[Path]


def load_data(config: TrainConfig, device: torch.device, saved_pipelines: dict[str, Any] | None = None) -> Data:
    """Read every picture once, to find unreadable ones before training does; cache them if they fit in memory.

    Args:
        saved_pipelines: The augmentation of a resumed run; None builds what `config.augment` names.

    Raises:
        FileNotFoundError: A folder is missing or has no pictures.
        ValueError: More than 1 % of the pictures are unreadable, or there are too few for one batch.
    """
    if saved_pipelines is None:
        pipelines = build_pipelines(config.augment, config.load_size, config.crop_size)
    else:
        pipelines = pipelines_from_dict(saved_pipelines, config.crop_size)
    domain_x, domain_y = ("A", "B") if config.direction == "AtoB" else ("B", "A")
    paths = find_training_pictures(config.dataroot, (domain_x, domain_y))
    (good_x, good_y), cache = read_pictures(paths, (f" of domain {domain_x}", f" of domain {domain_y}"), config)
    data = UnpairedImages(good_x, good_y, pipelines, config.seed, config.serial_batches, cache)
    loader = make_loader(data, len(data), config, device, config.serial_batches)
    print0(f"X: {len(good_x)} pictures, Y: {len(good_y)} pictures{', cached in memory' if cache else ''}")

    def validation(domain: str, training: list[Path]) -> list[Path]:
        """Pictures of the test folder, or of the training folder if there is none."""
        return evenly_spaced(find_domain(config.dataroot, "test", domain) or training, config.n_samples)

    return Data(loader, pipelines, validation(domain_x, good_x), validation(domain_y, good_y))


def describe(state: State) -> str:
    """The size of the networks, in one line."""
    sizes = [f"{name}: {count_parameters(network):,}" for name, network in state.released_networks.items()]
    return f"parameters of {', '.join(sizes)}"


def sample_images(state: State, data: Data, config: TrainConfig) -> dict[str, list[Image.Image]]:
    """Translate the validation pictures there and back: real, fake, cycled, by column title; --one-way: only there."""
    device = next(state.ema.parameters()).device
    G, F = state.ema_generators.G, state.ema_generators.F
    columns: dict[str, list[Image.Image]] = {}
    x = (("real x", "G(x)", "F(G(x))"), data.validation_x, G, F)
    y = (("real y", "F(y)", "G(F(y))"), data.validation_y, F, G)
    for titles, paths, there, back in (x,) if config.one_way else (x, y):
        for path in paths:
            real = images.resize(images.load(path), max(256, config.crop_size))
            pictures = [images.to_tensor(real).to(device)]
            for network in (there,) if config.one_way else (there, back):
                pictures.append(translate(pictures[-1], network))
            for title, picture in zip(titles, pictures, strict=False):
                columns.setdefault(title, []).append(images.to_image(picture))
    return columns


def _diagnose(
    state: State,
    pictures: Mapping[str, Tensor],
    terms: Mapping[str, float],
    lr: float,
    progress: float,
    config: TrainConfig,
) -> list[Finding]:
    pair = distributed.unwrap(state.generators)
    generators = {"G": pair.G} if config.one_way else {"G": pair.G, "F": pair.F}
    remedies = cycle_remedies(config) if "cycle_x" in terms else one_way_remedies(config)
    return diagnose(generators, pictures, terms, lr, progress, config.gan_loss, remedies)


def _write_outputs(run: Run, state: State, data: Data, config: TrainConfig, monitor: Monitor | None) -> None:
    """Write what is due after a step: the checkpoint first, then what a resumed run can make from it."""
    if run.checkpoint_due:
        run.save(state.state_dict() | {"pipelines": data.pipelines.to_dict()}, state.released_networks)
    if run.samples_due:
        run.show(sample_images(state, data, config), PLOTS)
    if monitor is not None and run.evaluation_due(config.eval_every):
        G, F = state.ema_generators.G, state.ema_generators.F
        metrics = monitor.measure([G] if config.one_way else [G, F])
        run.record(metrics, score(metrics), state.released_networks)


def _load_initial_weights(generators: GeneratorPair, discriminators: DiscriminatorPair, config: TrainConfig) -> None:
    """Copy the weights of --init; networks that it does not have start anew."""
    networks: dict[str, nn.Module] = {"G": generators.G, "F": generators.F, **_discriminators(discriminators)}
    networks = {name: network for name, network in networks.items() if not (config.one_way and name in ONE_WAY_UNUSED)}
    given = "--init " + " ".join(config.init)
    sources = _initial_networks(config.init, given)
    copies: dict[str, weights.Copy] = {}
    for name, network in networks.items():
        source = sources.get(name)
        if isinstance(network, FeatureDiscriminator):  # Alone it is D_Y; beside a PatchGAN, D_Y_features.
            source = sources.get(f"{name}_features", source)
        if source is None or _is_other_discriminator(source, network):
            continue
        initial = weights.load(type(network), source, "a network of CycleGAN", "a training run with G and F")
        # The options of the run describe G. F may have been trained with noise of other grains.
        amounts = ("noise",) if name == "G" else ("noise", "noise_size")
        copies[name] = weights.Copy(initial, network, amounts)
    weights.copy_weights(copies.values(), given)
    new = [name for name in networks if name not in copies]
    print0(f"{given}: {', '.join(copies)}" + (f"; new: {', '.join(new)}" if new else ""))


def _is_other_discriminator(source: Path | str, network: nn.Module) -> bool:
    """Whether a folder has a PatchGAN where heads on features are wanted, or the other way round."""
    other = '"width"' if isinstance(network, PatchDiscriminator) else '"ndf"'
    config = Path(source) / "config.json"
    is_discriminator = isinstance(network, PatchDiscriminator | FeatureDiscriminator)
    return is_discriminator and config.is_file() and other in config.read_text(encoding="utf-8", errors="replace")


def _initial_networks(names: Sequence[str], given: str) -> dict[str, Path | str]:
    """Where the networks of --init are: all of a run; or G, then F, with the discriminators of what they paint.

    A one-way run and the folder of a network, such as a bundled one, have those as D_Y and D_Y_features.
    """
    found = [weights.find(name) for name in names]
    folders = [source for source in found if isinstance(source, Path)]
    if any((folder / "G").is_dir() and (folder / "F").is_dir() for folder in folders):
        if len(found) > 1:
            raise ValueError(f"{given}: a training run has both generators; give it alone")
        return {path.name: path for path in folders[0].iterdir() if path.is_dir()}
    networks: dict[str, Path | str] = {}
    for generator, domain, source in zip("GF", "YX", found, strict=False):
        networks[generator] = source
        if source in folders:
            folder = Path(source)
            networks[generator] = folder / "G" if (folder / "G").is_dir() else folder
            networks |= {path.name.replace("D_Y", f"D_{domain}"): path for path in folder.glob("D_Y*")}
    return networks


def _build_discriminators(config: TrainConfig) -> DiscriminatorPair:
    patch = (
        [PatchDiscriminator(config.ndf, config.n_layers_d) for _ in "xy"] if config.discriminator != "feature" else []
    )
    feature = [FeatureDiscriminator() for _ in "xy"] if config.discriminator != "patch" else []
    return DiscriminatorPair(*patch, *feature)  # type: ignore[arg-type]


def _discriminators(pair: DiscriminatorPair) -> dict[str, PatchDiscriminator | FeatureDiscriminator]:
    """The discriminators by folder name: D_X, D_Y and, if there are two of each, D_X_features, D_Y_features."""
    named = {"D_X": pair.D_X, "D_Y": pair.D_Y, "D_X_features": pair.extra_x, "D_Y_features": pair.extra_y}
    return {name: network for name, network in named.items() if network is not None}


def _autocast(pictures: Tensor, amp: bool) -> torch.autocast:
    return torch.autocast(pictures.device.type, torch.bfloat16, enabled=amp)


def _augment(pictures: Tensor | None, config: TrainConfig) -> Tensor | None:
    """What the discriminators see."""
    return diffaugment(pictures) if config.diffaugment and pictures is not None else pictures


def _halves(scores: Scores) -> tuple[Scores, Scores]:
    """Split the batch: the first half of every discriminator's scores, and the second."""
    halves = [part.chunk(2) for part in scores]
    return tuple(first for first, _ in halves), tuple(second for _, second in halves)


@functools.cache
def _content_network(device: torch.device) -> VGGFeatures:
    return devices.to_device(VGGFeatures(STYLE_LAYERS, "compact", padding="replicate", normalize=True), device)


def _to_network(pictures: Tensor, device: torch.device) -> Tensor:
    return images.to_signed(devices.to_device(pictures, device))
