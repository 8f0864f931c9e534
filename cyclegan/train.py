"""Training (Zhu et al. 2017, section 4 and appendix 7.1): both generators, then both discriminators, step by step.

Departures from the paper: the learning rate falls linearly step by step instead of epoch by epoch; the generators that
are kept for use are exponential moving averages of those that are trained.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm import tqdm

from cyclegan.data import (
    EpochBatches,
    Pair,
    Pipelines,
    UnpairedImages,
    build_pipelines,
    cache_fits,
    check_pictures,
    find_domain,
    find_training_pictures,
    pipelines_from_dict,
)
from cyclegan.losses import discriminator_loss, generator_loss
from cyclegan.models import DiscriminatorPair, Generator, GeneratorPair, PatchDiscriminator
from cyclegan.options import TrainConfig
from cyclegan.pool import ImagePool
from cyclegan.translate import translate
from stylekit import checkpoint, distributed, images
from stylekit.log import Log, WandbOptions, plot_losses, say
from stylekit.training import (
    check_finite,
    clock,
    collect_signals,
    descend,
    frozen,
    ignore_signals,
    iterate,
    linear_decay,
    save_network,
    unwrap,
    use_bfloat16,
)

M = TypeVar("M", bound=nn.Module)

ARCHITECTURE = ("ngf", "ndf", "n_blocks", "n_layers_d", "upsample", "dropout")
"""Options that a run cannot change."""

PLOTS = {
    "adversarial": ("adversarial_g", "adversarial_f", "d_x", "d_y"),
    "cycle and identity": ("cycle_x", "cycle_y", "identity_x", "identity_y"),
}
"""The panels of losses.png."""


@dataclass
class State:
    """Everything that changes during training."""

    generators: nn.Module
    discriminators: nn.Module
    average: AveragedModel
    generator_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer
    pool_x: ImagePool
    pool_y: ImagePool
    step: int = 0
    """Steps done."""
    epoch: int = 0
    """Epochs done."""
    step_in_epoch: int = 0
    """Steps done of the epoch after these."""
    seconds: float = 0.0
    """Time spent training."""


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    folder: Path
    step: int
    signal: int | None
    """The signal that stopped it; None if it came to its end."""


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

    def ready(pair: M) -> M:
        return pair.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    generators = ready(GeneratorPair(generator(), generator()))
    discriminators = ready(DiscriminatorPair(discriminator(), discriminator()))
    average = AveragedModel(generators, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
    average.requires_grad_(False)

    def wrapped(pair: nn.Module) -> nn.Module:
        if distributed.world_size() > 1:
            pair = DistributedDataParallel(pair, device_ids=[device] if device.type == "cuda" else None)
        return cast(nn.Module, torch.compile(pair)) if config.compile else pair

    def adam(pair: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(pair.parameters(), config.lr, betas=(config.beta1, 0.999), fused=True)

    seed = config.seed * 1000 + distributed.rank()
    return State(
        generators=wrapped(generators),
        discriminators=wrapped(discriminators),
        average=average,
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
    paths = [found[: config.max_dataset_size] for found in find_training_pictures(config.dataroot)]
    together = paths[0] + paths[1]
    keep = config.cache == "on" or (config.cache == "auto" and cache_fits(together, distributed.local_world_size()))
    cache, bad = check_pictures(together, decode=keep, progress=distributed.is_main())
    for reason in bad.values():
        say(f"left out: {reason}")
    good_x, good_y = ([path for path in found if path not in bad] for found in paths)
    for domain, good, found in (("A", good_x, paths[0]), ("B", good_y, paths[1])):
        if not good or len(found) - len(good) > max(1, 0.01 * len(found)):
            raise ValueError(
                f"{len(found) - len(good)} of {len(found)} pictures of domain {domain} cannot be read, among them "
                f"{next(path for path in found if path in bad)}; at most 1 % may be bad: remove or replace them"
            )
    data = UnpairedImages(good_x, good_y, pipelines, config.seed, config.serial_batches, cache)
    world = distributed.world_size()
    batches = EpochBatches(len(data), config.batch_size, config.seed, config.serial_batches, distributed.rank(), world)
    if len(batches) == 0:
        raise ValueError(
            f"{len(data)} pictures do not fill one batch of --batch-size {config.batch_size}"
            + (f" on {world} processes" if world > 1 else "")
            + f"; try --batch-size {max(1, len(data) // world)}"
        )
    loader = DataLoader(
        data,
        batch_sampler=batches,
        num_workers=min(config.num_workers, distributed.cores()),
        pin_memory=device.type == "cuda",
        worker_init_fn=ignore_signals,
    )
    say(f"X: {len(good_x)} pictures, Y: {len(good_y)}{', kept in memory' if cache else ''}")

    def validation(domain: str, training: list[Path]) -> list[Path]:
        """A few from all over the test folder; from the training folder if there is none."""
        candidates = find_domain(config.dataroot, "test", domain) or training
        count = min(config.n_samples, len(candidates))
        return [candidates[i * len(candidates) // count] for i in range(count)]

    return Data(loader, batches, validation("A", good_x), validation("B", good_y))


def train(config: TrainConfig) -> Result:
    """Train, or go on with a run, until it ends or a signal (SIGINT, SIGTERM) asks to stop.

    Under torchrun, call it in every process.

    Raises:
        FileExistsError: The folder holds a run already, and `resume` is not set.
        FileNotFoundError: There is no data; or there is nothing to resume.
        ValueError: Too many pictures are bad; the checkpoint is damaged or of another network; the run is finished.
        OSError: Something cannot be written; the last checkpoint is still whole.
        FloatingPointError: A loss or a weight is no longer finite; the last checkpoint is from before that.
        torch.OutOfMemoryError: The device is too small for these options.
    """
    folder = config.checkpoints_dir / config.name
    device = distributed.choose_device(config.device)
    saved = _read_run(folder, config)
    pipelines = (
        pipelines_from_dict(saved["pipelines"], config.crop_size)
        if saved and not _differences(saved["config"], config, "augment", "load_size", "crop_size")
        else build_pipelines(config.augment, config.load_size, config.crop_size)
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"cannot make the folder {folder} ({error.strerror}); choose another --checkpoints-dir"
        ) from error
    with distributed.process_group(device):
        data = load_data(config, pipelines, device)
        state = build_state(config, device)
        run_id = _load_state(state, saved, folder, device) if saved else None
        run = _Run(config, folder, device, state, data, pipelines)
        run.announce(saved)
        wandb = WandbOptions(config.wandb_project, config.name, config.wandb_entity, config.wandb_mode)
        run.log = Log(folder, _plain(config), state.step, wandb if config.wandb else None, run_id)
        try:
            with collect_signals() as caught:
                run.go(caught)
        except BaseException:
            run.log.close(exit_code=1)
            raise
        run.log.close()
        return Result(folder, state.step, None if run.finished else caught[0])


class _Run:
    """The loop around `train_step`: data in; checkpoints, pictures and numbers out."""

    log: Log

    def __init__(
        self, config: TrainConfig, folder: Path, device: torch.device, state: State, data: Data, pipelines: Pipelines
    ) -> None:
        self.config = config
        self.folder = folder
        self.device = device
        self.state = state
        self.data = data
        self.pipelines = pipelines
        self.amp = use_bfloat16(config.amp, device)
        self.steps_per_epoch = len(data.batches)
        epochs = config.n_epochs + config.n_epochs_decay
        self.total_steps = min(self.steps_per_epoch * epochs, config.max_steps or self.steps_per_epoch * epochs)
        self.pending: list[dict[str, Tensor]] = []
        """Terms of steps that the log has not seen."""

    @property
    def progress(self) -> float:
        """How much of the run is done, in [0, 1], by steps or by time, whichever is further."""
        by_time = self.state.seconds / 60 / self.config.max_minutes if self.config.max_minutes else 0.0
        return min(1.0, max(self.state.step / self.total_steps, by_time))

    @property
    def finished(self) -> bool:
        return self.progress >= 1

    def announce(self, saved: dict[str, Any] | None) -> None:
        """Say what is about to happen, and keep the options beside the run.

        Raises:
            ValueError: There is nothing left to do.
        """
        config, state = self.config, self.state
        if saved:
            if self.finished:
                limits = [f"--n-epochs {config.n_epochs} --n-epochs-decay {config.n_epochs_decay}"]
                limits += [f"--max-steps {config.max_steps}"] if config.max_steps else []
                limits += [f"--max-minutes {config.max_minutes:g}"] if config.max_minutes else []
                raise ValueError(
                    f"the run {config.name} is finished: {state.step} steps, {state.epoch} epochs, with "
                    f"{' '.join(limits)}; raise what has ended it to go on, as in --resume "
                    f"--n-epochs {config.n_epochs + max(1, config.n_epochs_decay)}"
                )
            say(f"resuming {self.folder} at epoch {state.epoch + 1}, step {state.step}")
            if differences := _differences(saved["config"], config):
                say("options that differ from the saved ones: " + ", ".join(differences))
        pair, judges = unwrap(state.generators), unwrap(state.discriminators)
        where = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device)
        processes = f" x {distributed.world_size()}" if distributed.world_size() > 1 else ""
        say(
            f"G and F: {_count(pair.G):,} parameters each, D_X and D_Y: {_count(judges.D_X):,} each, "
            f"in {'bfloat16' if self.amp else 'float32'} on {where}{processes}"
        )
        minutes = f", at most {config.max_minutes:g} minutes" if config.max_minutes else ""
        say(f"{self.steps_per_epoch} steps an epoch, {self.total_steps} in all{minutes}; all is kept in {self.folder}")
        if distributed.is_main():
            with checkpoint.atomic(self.folder / "config.json") as file:
                file.write((json.dumps(_plain(config), indent=2) + "\n").encode())

    def go(self, caught: list[int]) -> None:
        """Train to the end, or until a signal."""
        state = self.state
        bar = tqdm(
            total=self.total_steps,
            initial=state.step,
            unit="step",
            dynamic_ncols=True,
            disable=None if distributed.is_main() else True,
        )
        self.data.batches.epoch, self.data.batches.start = state.epoch, state.step_in_epoch
        # One iterator for all epochs: workers start once, and prepare the next epoch while this one ends.
        with bar, iterate(self.data.loader) as pairs:
            while not self.finished and not caught:
                self.run_epoch(pairs, bar, caught)
                if state.step_in_epoch >= self.steps_per_epoch:
                    state.epoch, state.step_in_epoch = state.epoch + 1, 0
                self.save(show=self.finished or state.step_in_epoch == 0)
        if self.finished:
            say(
                f"finished after {state.step} steps, {clock(state.seconds)}: G and F in {self.folder} are ready for use"
            )

    def run_epoch(self, pairs: Iterator[Pair], bar: Any, caught: list[int]) -> None:
        """The rest of one epoch, or as much of it as there is time for."""
        config, state = self.config, self.state
        decay = config.n_epochs_decay / (config.n_epochs + config.n_epochs_decay)
        begun = time.monotonic() - state.seconds
        logged_step, logged_seconds = state.step, state.seconds
        while state.step_in_epoch < self.steps_per_epoch:
            lr = config.lr * linear_decay(self.progress, decay)
            for optimizer in (state.generator_optimizer, state.discriminator_optimizer):
                for group in optimizer.param_groups:
                    group["lr"] = lr
            real_x, real_y = (self.to_device(pictures) for pictures in next(pairs))
            self.pending.append(train_step(state, real_x, real_y, config, self.amp))
            state.step += 1
            state.step_in_epoch += 1
            # All processes must see the same clock and the same signal, or they would part.
            stop, state.seconds = distributed.largest(caught[0] if caught else 0, time.monotonic() - begun)
            if stop and not caught:
                caught.append(int(stop))
            bar.update()
            over = self.finished or bool(caught)
            if state.step % config.print_freq == 0 or over:
                speed = (state.step - logged_step) / max(1e-9, state.seconds - logged_seconds)
                self.write_metrics(speed, lr, bar)
                logged_step, logged_seconds = state.step, state.seconds
            if over:
                return
            if config.save_latest_freq and state.step % config.save_latest_freq == 0:
                self.save(show=False)

    def to_device(self, pictures: Tensor) -> Tensor:
        pictures = pictures.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        return images.to_signed(pictures)

    def write_metrics(self, steps_per_second: float, lr: float, bar: Any) -> None:
        """The mean of each term since the last call: the only place where steps wait for the device."""
        state = self.state
        names = list(self.pending[0])
        mean = torch.stack([torch.stack([terms[name] for name in names]) for terms in self.pending]).mean(0)
        self.pending.clear()
        values = dict(zip(names, distributed.mean(mean), strict=True))
        self.check(values)
        text = " ".join(f"{name}: {value:.3f}" for name, value in values.items())
        values["epoch"] = state.epoch + state.step_in_epoch / self.steps_per_epoch
        values["lr"] = lr
        values["images_per_second"] = steps_per_second * self.config.batch_size * distributed.world_size()
        if self.device.type == "cuda":
            values["memory_gb"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        self.log.metrics(state.step, {name: float(f"{value:.6g}") for name, value in values.items()})
        done = self.progress
        speed = f"{values['images_per_second']:.2f} images/s, {clock(state.seconds / done * (1 - done))} left"
        bar.set_postfix_str(speed)
        say(f"epoch {state.epoch + 1}, step {state.step}: {text} ({speed})")

    def check(self, terms: Mapping[str, float]) -> None:
        """Stop a run that has diverged, before anything of it is saved."""
        state = self.state
        try:
            check_finite(terms, unwrap(state.generators), unwrap(state.discriminators))
        except FloatingPointError as error:
            kept = (
                f"{self.folder / 'last.pt'} is from before that"
                if (self.folder / "last.pt").exists()
                else "nothing is saved"
            )
            raise FloatingPointError(
                f"training has diverged by step {state.step}: {error}; {kept}; try a smaller --lr, or --amp off"
            ) from error

    def save(self, show: bool) -> None:
        """Write last.pt, G and F; with `show`, the validation pictures and the plot as well."""
        config, state = self.config, self.state
        self.check({})
        pools = distributed.gather({"x": state.pool_x.state_dict(), "y": state.pool_y.state_dict()})
        if not distributed.is_main():
            return
        checkpoint.save(
            self.folder / "last.pt",
            config=_plain(config),
            pipelines=self.pipelines.to_dict(),
            generators=unwrap(state.generators).state_dict(),
            discriminators=unwrap(state.discriminators).state_dict(),
            average=state.average.state_dict(),
            generator_optimizer=state.generator_optimizer.state_dict(),
            discriminator_optimizer=state.discriminator_optimizer.state_dict(),
            pools=pools,
            random=torch.get_rng_state(),
            random_cuda=torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            step=state.step,
            epoch=state.epoch,
            step_in_epoch=state.step_in_epoch,
            seconds=state.seconds,
            wandb_run_id=self.log.run_id,
        )
        average = cast(GeneratorPair, state.average.module)
        for name, network in (("G", average.G), ("F", average.F)):
            save_network(network, self.folder / name)
        if show:
            self.paint(average)
            plot_losses(self.folder, PLOTS)
        keep = config.save_epoch_freq and state.step_in_epoch == 0 and state.epoch % config.save_epoch_freq == 0
        if keep:
            for name in ("G", "F"):
                copy = self.folder / "epochs" / f"{state.epoch:04d}" / name
                shutil.copytree(self.folder / name, copy, dirs_exist_ok=True)
        if keep or self.finished:
            aliases = ["latest", f"epoch-{state.epoch}"]
            metadata = {"step": state.step, "epoch": state.epoch}
            self.log.artifact(config.name, [self.folder / "G", self.folder / "F"], aliases, metadata)

    def paint(self, generators: GeneratorPair) -> None:
        """The same validation pictures every time: real, fake, cycled, the two domains side by side."""
        there_and_back = (
            (("real x", "G(x)", "F(G(x))"), self.data.validation_x, generators.G, generators.F),
            (("real y", "F(y)", "G(F(y))"), self.data.validation_y, generators.F, generators.G),
        )
        columns: dict[str, list[Image.Image]] = {}
        for titles, paths, there, back in there_and_back:
            for path in paths:
                real = images.resize(images.load(path), max(256, self.config.crop_size))
                fake = translate(images.to_tensor(real).to(self.device), there)
                cycled = translate(fake, back)
                for title, picture in zip(titles, (real, images.to_image(fake), images.to_image(cycled)), strict=True):
                    columns.setdefault(title, []).append(picture)
        if not columns:
            return
        epoch = f"epoch-{self.state.epoch:04d}"
        name = f"{epoch}-step-{self.state.step:07d}" if self.state.step_in_epoch else epoch
        rows = zip(*columns.values(), strict=False)
        images.save(images.sheet(rows, list(columns)), self.folder / "samples" / f"{name}.png")
        self.log.pictures(self.state.step, columns)


def _read_run(folder: Path, config: TrainConfig) -> dict[str, Any] | None:
    """The last state of the run to resume; None for a new run."""
    path = folder / "last.pt"
    if not config.resume:
        if path.exists():
            raise FileExistsError(f"{folder} holds a run already; go on with it by --resume, or choose another --name")
        return None
    if not path.exists():
        raise FileNotFoundError(
            f"nothing to resume: no {path}; leave out --resume, or check --name and --checkpoints-dir"
        )
    saved = checkpoint.load(path)
    if missing := {"config", "pipelines", "generators", "average", "pools", "step"} - saved.keys():
        raise ValueError(f"{path}: not a training checkpoint, it has no {', '.join(sorted(missing))}")
    if not isinstance(saved["config"], dict) or not isinstance(saved["step"], int):
        raise ValueError(f"{path}: not a training checkpoint, its options or its step are of another kind")
    if differences := _differences(saved["config"], config, *ARCHITECTURE):
        raise ValueError(f"{folder}: a run cannot change its networks: {', '.join(differences)}; choose another --name")
    return saved


def _load_state(state: State, saved: dict[str, Any], folder: Path, device: torch.device) -> str | None:
    """Put everything back as it was saved; return the run's id in Weights & Biases."""
    try:
        unwrap(state.generators).load_state_dict(saved["generators"])
        unwrap(state.discriminators).load_state_dict(saved["discriminators"])
        state.average.load_state_dict(saved["average"])
        state.generator_optimizer.load_state_dict(saved["generator_optimizer"])
        state.discriminator_optimizer.load_state_dict(saved["discriminator_optimizer"])
        state.step, state.epoch = saved["step"], saved["epoch"]
        state.step_in_epoch, state.seconds = saved["step_in_epoch"], saved["seconds"]
        # With more processes than before, the new ones start with empty pools.
        if distributed.rank() < len(saved["pools"]):
            pools = saved["pools"][distributed.rank()]
            state.pool_x.load_state_dict(pools["x"], device)
            state.pool_y.load_state_dict(pools["y"], device)
        torch.set_rng_state(saved["random"])
        if saved["random_cuda"] is not None and device.type == "cuda":
            torch.cuda.set_rng_state(saved["random_cuda"].cpu(), device)
        return cast("str | None", saved["wandb_run_id"])
    except (KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{folder / 'last.pt'}: not a checkpoint of this run ({str(error).splitlines()[0]})"
        ) from error


def _plain(config: TrainConfig) -> dict[str, Any]:
    """The options as plain values; whether this call resumes is no property of the run."""
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in dataclasses.asdict(config).items()}
    del plain["resume"]
    return plain


def _differences(saved: Mapping[str, Any], config: TrainConfig, *options: str) -> list[str]:
    """What has changed since the options were saved: all of them, or only those named."""
    now = _plain(config)
    return [
        f"--{key.replace('_', '-')} {now[key]} (was {saved.get(key)})"
        for key in options or now
        if saved.get(key) != now[key]
    ]


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
