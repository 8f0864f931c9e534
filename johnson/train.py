"""Training (Johnson et al. 2016, section 3): `train` is the whole loop, `train_step` one step of it.

Departures from the paper: the learning rate decays linearly over the second half; the network that is kept for use is
an exponential moving average of the trained one; the network has a noise input; the optimizer is Muon by default; the
default loss network is a compact VGG, and the style layers are those of Gatys et al.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from gatys.objective import gram_matrices
from gatys.styles import Preset, check_preset, load_preset, mean_grams
from johnson.data import Photographs, find_paintings, find_photographs
from johnson.losses import perceptual_loss
from johnson.models import TransformerNet
from johnson.options import NetworkConfig, TrainConfig
from johnson.stylize import load_network, stylize
from stylekit import devices, distributed
from stylekit.measures.patterns import MeanWeave
from stylekit.networks import weights
from stylekit.networks.blocks import describe_sizes
from stylekit.networks.vgg import VGGFeatures
from stylekit.pictures import images
from stylekit.training.data import VALIDATION_PICTURES, evenly_spaced, make_loader, random_crop, read_pictures
from stylekit.training.log import print0
from stylekit.training.optim import Muon, build_ema, learning_rate, load_optimizer, optimizer_step, set_learning_rate
from stylekit.training.run import Result, Run

FIXED = (*(field.name for field in dataclasses.fields(NetworkConfig)), "optimizer")
"""Options that a run cannot change."""

STYLE_OPTIONS = ("style", "style_size", "style_layers", "loss_network", "vgg_weights")
"""Options that determine the Gram matrices of the style."""

VALIDATION_SIZE = 512
"""Longer side of the validation pictures, in pixels."""


def train(config: TrainConfig) -> Result:
    """Train, or resume a run, until it is finished or a signal (SIGINT, SIGTERM) stops it.

    Under torchrun, call this in every process.

    Raises:
        FileExistsError, FileNotFoundError: The folder holds a run, and `resume` is not set; or there is none to resume.
        ValueError, OSError: The photographs, the style or the checkpoint cannot be used, or the run is finished.
        FloatingPointError: Training diverged; the last checkpoint predates the divergence.
    """
    with Run(config, FIXED) as run:
        # A resumed run does not need its painting, which may have been moved.
        state = build_state(config, run.device, run.saved_entry("grams", dict, depends_on=STYLE_OPTIONS))
        loader, validation = load_data(config, run.device)
        run.restore(state)
        print0(f"{describe_sizes(state.networks)}, loss network: {config.losses.loss_network}")
        for photographs, noise in run.batches(loader):
            set_learning_rate(state.optimizer, lr := learning_rate(config.schedule, run.progress))
            photographs, noise = devices.to_device(photographs, run.device), devices.to_device(noise, run.device)
            run.log(train_step(state, photographs, noise, config, run.amp), lr)
            if run.samples_due:
                run.show(sample_images(state, validation), plots(config))
            if run.checkpoint_due:
                run.save(state.state_dict(), state.networks)
    return run.result


def train_step(
    state: State, photographs: Tensor, noise: Tensor, config: TrainConfig, amp: bool = False
) -> dict[str, Tensor]:
    """Update the network; return the loss terms, detached.

    Args:
        photographs: (B, 3, H, W) in [0, 1].
        noise: From N(0, 1), (B, 1, H, W).
        amp: Run the networks in bfloat16; losses and the optimizer stay in float32.
    """
    with torch.autocast(photographs.device.type, torch.bfloat16, enabled=amp):
        stylized = state.network(photographs, noise)
        features = state.loss_network(stylized)
        with torch.no_grad():
            layer = config.losses.content_layer
            content = state.loss_network(photographs, [layer])[layer]
    # Gram matrices are sums over all positions, for which bfloat16 is too coarse.
    features = {layer: activations.float() for layer, activations in features.items()}
    stylized = stylized.float()
    weave = state.weave.loss(photographs, stylized) if config.losses.weave_weight else None
    terms = perceptual_loss(stylized, photographs, features, content.float(), state.grams, config.losses, weave)
    optimizer_step(state.optimizer, terms)
    state.ema.update_parameters(distributed.unwrap(state.network))
    return {name: term.detach() for name, term in terms.items()}


@dataclass
class State:
    """Everything that changes in a training step, and what it is compared with."""

    network: nn.Module
    ema: AveragedModel
    optimizer: torch.optim.Optimizer
    loss_network: VGGFeatures
    """With the content layer and the style layers."""
    grams: dict[str, Tensor]
    """Gram matrices of the style by layer, (1, C, C)."""
    weave: MeanWeave = field(default_factory=MeanWeave)
    """The mean power spectrum of what the network paints in smooth areas: regular patterns are its peaks."""

    @property
    def networks(self) -> dict[str, TransformerNet]:
        """The network to use, by folder name."""
        return {"model": cast(TransformerNet, self.ema.module)}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds; call it in every process, since the means are gathered."""
        return {
            "grams": self.grams,
            "network": distributed.unwrap(self.network).state_dict(),
            "average": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "weaves": distributed.gather(self.weave.state_dict()),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Restore a checkpoint, but not the style, since `build_state` decides whether it applies."""
        distributed.unwrap(self.network).load_state_dict(saved["network"])
        self.ema.load_state_dict(saved["average"])
        load_optimizer(self.optimizer, saved["optimizer"])
        # A run of an earlier version has none. With more processes than before, the additional ones start anew.
        if distributed.rank() < len(saved.get("weaves", ())):
            device = next(self.network.parameters()).device
            self.weave.load_state_dict(saved["weaves"][distributed.rank()], device)


def build_state(config: TrainConfig, device: torch.device, grams: Mapping[str, Tensor] | None = None) -> State:
    """A new network, or one to fine-tune, its optimizer and loss network; the initial weights follow from the seed.

    `grams` are the style, if it is known from a checkpoint.
    """
    losses = config.losses
    layers = dict.fromkeys((losses.content_layer, *losses.style_layers))
    loss_network = VGGFeatures(layers, losses.loss_network, losses.vgg_weights, padding="replicate", normalize=True)
    loss_network = devices.to_device(loss_network, device)
    if grams is None:
        grams = style_grams(config.style, config.style_size, losses.style_layers, loss_network)
    else:
        preset = Preset({config.style_size: dict(grams)}, loss_network.fingerprint)
        check_preset(preset, loss_network, losses.style_layers)
    torch.manual_seed(config.schedule.seed)
    network = TransformerNet(config.network)
    if config.init is not None and not config.resume:
        weights.copy_weights([(load_network(config.init), network)], f"--init {config.init}")
    network, lr = devices.to_device(network, device), config.schedule.lr
    muon = config.schedule.optimizer == "muon"
    return State(
        ema=build_ema(network, config.schedule.ema_decay),
        network=distributed.wrap_ddp(network, device, config.machine.compile),
        optimizer=Muon(network.parameters(), lr) if muon else torch.optim.Adam(network.parameters(), lr, fused=True),
        loss_network=loss_network,
        grams={layer: gram.to(device) for layer, gram in grams.items()},
    )


def style_grams(
    styles: Sequence[str], size: int, layers: Sequence[str], loss_network: VGGFeatures
) -> dict[str, Tensor]:
    """The mean of paintings shrunk to `size`, folders of paintings, and presets: Gram matrices by layer, (1, C, C)."""
    return mean_grams((_grams_of(name, size, layers, loss_network) for name in styles), [1.0] * len(styles))


def _grams_of(name: str, size: int, layers: Sequence[str], loss_network: VGGFeatures) -> dict[str, Tensor]:
    device = loss_network.mean.device
    if paths := find_paintings(name):
        paintings = (images.to_tensor(images.resize(images.load(p), size)) for p in paths)
        grams = (gram_matrices(loss_network, painting.to(device), layers) for painting in paintings)
        return mean_grams(grams, [1.0] * len(paths))
    preset = load_preset(name)
    check_preset(preset, loss_network, layers)
    return {layer: gram.to(device) for layer, gram in preset.at(size).items() if layer in layers}


def load_data(config: TrainConfig, device: torch.device) -> tuple[DataLoader[tuple[Tensor, Tensor]], list[Path]]:
    """Training batches and validation pictures.

    Every photograph is read once, to find unreadable ones before training does, and cached if all fit in memory.
    """
    options = config.data
    validation = _validation_pictures(options.val_dataroot)
    (paths,), cache = read_pictures([find_photographs(options.dataroot)], [f" in {options.dataroot}"])
    data = Photographs(paths, random_crop(options.load_size, options.crop_size), config.schedule.seed, cache)
    loader = make_loader(data, len(data), config, device)
    print0(f"{len(data)} photographs{', cached in memory' if cache else ''}")
    return loader, evenly_spaced(validation or paths, VALIDATION_PICTURES)


def sample_images(state: State, validation: Sequence[Path]) -> dict[str, list[Image.Image]]:
    """The validation photographs before and after, by column title."""
    photographs = [images.resize(images.load(path), VALIDATION_SIZE) for path in validation]
    return {"photograph": photographs, "stylized": [stylize(p, state.networks["model"]) for p in photographs]}


def plots(config: TrainConfig) -> dict[str, tuple[str, ...]]:
    """The panels of losses.png and the terms in each."""
    return {"content": ("content", "pixel", "weave"), "style": config.losses.style_layers}


def _validation_pictures(given: str | None) -> list[Path]:
    """The pictures of --val-dataroot; empty if it is not given."""
    if given is None:
        return []
    if Path(given).is_file():
        images.load(given)
        return [Path(given)]
    return find_photographs(given)
