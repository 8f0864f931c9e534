"""Training (Johnson et al. 2016, section 3): a network learns the objective of Gatys et al. for one style.

Departures from the paper: the learning rate falls linearly over the second half; the network that is kept for use is an
exponential moving average of the one that is trained; it sees noise beside the photograph; the optimiser is Muon unless
Adam is asked for; the loss network is ours unless another is asked for, and styles are compared at the layers of Gatys
et al.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import albumentations
import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from gatys.objective import gram_matrices
from gatys.styles import check_preset, load_preset
from johnson.data import Photographs, build_pipeline, find_photographs
from johnson.losses import perceptual_loss
from johnson.models import TransformerNet
from johnson.options import TrainConfig
from johnson.stylize import load_network, stylize
from stylekit import images, run
from stylekit.data import EpochBatches, make_loader, pipeline_from_dict, read_pictures, some_of
from stylekit.log import say
from stylekit.optim import Muon
from stylekit.training import descend, unwrap
from stylekit.vgg import VGGFeatures

ARCHITECTURE = ("width", "n_blocks", "upsample", "bound", "skip", "noise")
"""Options that weights belong to. A run cannot change them, nor its optimiser."""

STYLE_OPTIONS = ("style", "style_weights", "style_size", "style_layers", "loss_network", "vgg_weights")
"""Options that the Gram matrices of the style follow from."""

VALIDATION_SIZE = 512
"""Longer side of the validation pictures, in pixels."""


@dataclass
class State:
    """Everything that changes in a training step, and what it is judged by."""

    network: nn.Module
    average: AveragedModel
    optimizer: torch.optim.Optimizer
    judge: VGGFeatures
    """The loss network, with the content layer and those of the style."""
    grams: dict[str, Tensor]
    """The style: by layer, (1, C, C)."""


def train_step(
    state: State, photographs: Tensor, noise: Tensor, config: TrainConfig, amp: bool = False
) -> dict[str, Tensor]:
    """Update the network; return the loss terms, detached.

    Args:
        photographs: (B, 3, H, W) in [0, 1].
        noise: From N(0, 1), (B, 1, H, W).
        amp: Run the networks in bfloat16; losses and the optimiser stay in float32.
    """
    with torch.autocast(photographs.device.type, torch.bfloat16, enabled=amp):
        painted = state.network(cast(TransformerNet, unwrap(state.network)).with_noise(photographs, noise))
        seen = state.judge(painted)
        with torch.no_grad():
            content = state.judge(photographs, [config.content_layer])[config.content_layer]
    # The entries of a Gram matrix are sums over all positions: bfloat16 has too few digits for them.
    seen = {layer: features.float() for layer, features in seen.items()}
    terms = perceptual_loss(painted.float(), photographs, seen, content.float(), state.grams, config)
    descend(state.optimizer, terms)
    state.average.update_parameters(unwrap(state.network))
    return {name: term.detach() for name, term in terms.items()}


def build_state(config: TrainConfig, device: torch.device, grams: Mapping[str, Tensor] | None = None) -> State:
    """A fresh network, or one to start from, its optimiser and its judge; the weights follow from the seed.

    Args:
        grams: The style, if it is known already.

    Raises:
        FileNotFoundError, ValueError, OSError: A style, the weights of the loss network or those to start from cannot
            be read, or do not fit; there is no such layer.
    """
    layers = dict.fromkeys((config.content_layer, *config.style_layers))
    judge = VGGFeatures(layers, config.loss_network, config.vgg_weights, padding="replicate", normalize=True)
    judge = run.ready(judge, device)
    grams = style_grams(config, judge) if grams is None else grams
    torch.manual_seed(config.seed)
    network = TransformerNet(config.width, config.n_blocks, config.upsample, config.bound, config.skip, config.noise)
    if config.init is not None:
        _load_start(network, config)
    network = run.ready(network, device)
    return State(
        average=run.averaged(network, config.ema_decay),
        network=run.wrapped(network, device, config),
        optimizer=build_optimizer(network.parameters(), config),
        judge=judge,
        grams={layer: gram.to(device) for layer, gram in grams.items()},
    )


def build_optimizer(parameters: Iterable[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    """What --optimizer names."""
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, config.lr, fused=True)
    return Muon(parameters, config.lr)


def style_grams(config: TrainConfig, judge: VGGFeatures) -> dict[str, Tensor]:
    """The mean of all styles: by layer, (1, C, C)."""
    device = judge.mean.device
    total: dict[str, Tensor] = {}
    weights = config.style_weights or (1.0,) * len(config.style)
    for name, weight in zip(config.style, weights, strict=True):
        for layer, gram in _grams_of(name, config, judge).items():
            share = weight / sum(weights) * gram.to(device)
            total[layer] = total[layer] + share if layer in total else share
    return total


def _grams_of(name: str, config: TrainConfig, judge: VGGFeatures) -> dict[str, Tensor]:
    """One style: of a painting, of a folder of them, or of a preset."""
    path = Path(name)
    if path.is_dir() or path.suffix.lower() in images.FORMATS:
        paths = find_photographs(path) if path.is_dir() else [path]
        paintings = (images.to_tensor(images.resize(images.load(p), config.style_size)) for p in paths)
        grams = [gram_matrices(judge, painting.to(judge.mean), config.style_layers) for painting in paintings]
        return {layer: torch.stack([gram[layer] for gram in grams]).mean(0) for layer in config.style_layers}
    preset = load_preset(name)
    check_preset(preset, judge, config.style_layers)
    grams_at = preset.at(config.style_size)
    return {layer: grams_at[layer] for layer in config.style_layers}


@dataclass
class Data:
    """What a run trains on and shows."""

    loader: DataLoader[tuple[Tensor, Tensor]]
    batches: EpochBatches
    validation: list[Path]


def load_data(config: TrainConfig, pipeline: albumentations.Compose, device: torch.device) -> Data:
    """Read every photograph once, to find the bad ones before training does; keep them in memory if they fit.

    Raises:
        FileNotFoundError: A folder is missing or holds no picture.
        ValueError: More than 1 % of the pictures are bad, or there are too few for one batch.
    """
    shown = _validation(config)
    (paths,), cache = read_pictures([find_photographs(config.dataroot)], [f" in {config.dataroot}"], config)
    data = Photographs(paths, pipeline, config.seed, cache)
    loader, batches = make_loader(data, len(data), config, device)
    say(f"{len(data)} photographs{', kept in memory' if cache else ''}")
    return Data(loader, batches, some_of(shown or paths, config.n_samples))


def train(config: TrainConfig) -> run.Result:
    """Train, or go on with a run; see `stylekit.run.train` for how it ends and what it raises."""

    def prepare(device: torch.device, saved: dict[str, Any] | None) -> _Johnson:
        def same(*options: str) -> bool:
            return saved is not None and not config.differences(saved["config"], *options)

        pipeline = (
            pipeline_from_dict(saved["pipeline"], config.crop_size)
            if saved and same("augment", "load_size", "crop_size")
            else build_pipeline(config.augment, config.load_size, config.crop_size)
        )
        # The painting may have been moved since.
        known = saved is not None and same(*STYLE_OPTIONS) and [*saved["grams"]] == [*config.style_layers]
        grams = saved["grams"] if saved and known else None
        state = build_state(config, device, grams)
        return _Johnson(config, device, state, load_data(config, pipeline, device), pipeline)

    entries = {"pipeline": dict, "network": dict, "average": dict, "grams": dict}
    return run.train(config, (*ARCHITECTURE, "optimizer"), entries, prepare)


class _Johnson:
    """What a run asks of the method: `stylekit.run.Method`."""

    def __init__(
        self,
        config: TrainConfig,
        device: torch.device,
        state: State,
        data: Data,
        pipeline: albumentations.Compose,
    ) -> None:
        self.config = config
        self.device = device
        self.state = state
        self.data = data
        self.pipeline = pipeline
        self.loader: DataLoader[Any] = data.loader
        self.batches = data.batches
        self.optimizers: Sequence[torch.optim.Optimizer] = (state.optimizer,)
        self.networks: Sequence[nn.Module] = (state.network,)
        self.average = cast(TransformerNet, state.average.module)
        self.plots: Mapping[str, Sequence[str]] = {"content": ("content", "pixel", "tv"), "style": config.style_layers}

    def describe(self) -> str:
        return f"{run.count(unwrap(self.state.network))}, judged by {self.config.loss_network}"

    def step(self, batch: tuple[Tensor, Tensor], amp: bool) -> dict[str, Tensor]:
        photographs, noise = (run.to_device(part, self.device) for part in batch)
        return train_step(self.state, photographs, noise, self.config, amp)

    def state_dict(self) -> dict[str, Any]:
        return {
            "pipeline": albumentations.to_dict(self.pipeline),
            "grams": self.state.grams,
            "network": unwrap(self.state.network).state_dict(),
            "average": self.state.average.state_dict(),
            "optimizer": self.state.optimizer.state_dict(),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        unwrap(self.state.network).load_state_dict(saved["network"])
        self.state.average.load_state_dict(saved["average"])
        self.state.optimizer.load_state_dict(saved["optimizer"])

    def released(self) -> dict[str, nn.Module]:
        return {"model": self.average}

    def paint(self) -> dict[str, list[Image.Image]]:
        """Photographs and paintings."""
        columns: dict[str, list[Image.Image]] = {}
        for path in self.data.validation:
            photograph = images.resize(images.load(path), VALIDATION_SIZE)
            painted = stylize(images.to_tensor(photograph).to(self.device), self.average)
            columns.setdefault("photograph", []).append(photograph)
            columns.setdefault("painting", []).append(images.to_image(painted))
        return columns


def _validation(config: TrainConfig) -> list[Path]:
    """What --val-dataroot names; nothing if it is not given."""
    if config.val_dataroot is None:
        return []
    if Path(config.val_dataroot).is_file():
        images.load(config.val_dataroot)
        return [Path(config.val_dataroot)]
    return find_photographs(config.val_dataroot)


def _load_start(network: TransformerNet, config: TrainConfig) -> None:
    assert config.init is not None
    start = load_network(config.init)
    has, wanted = start._hub_mixin_config, network._hub_mixin_config
    assert isinstance(has, dict) and isinstance(wanted, dict)
    different = [name for name in ARCHITECTURE if has[name] != wanted[name]]
    if has["noise"] and wanted["noise"] and "noise" in different:
        different.remove("noise")  # How much there is may change, but not whether there is any.
    if different:
        flags = " ".join(_flag(name, has[name]) for name in different)
        raise ValueError(f"--init {config.init}: another network than is to be trained; add {flags}")
    network.load_state_dict(start.state_dict())


def _flag(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name.replace('_', '-')} {value}"
