"""`--init`: training that does not start from scratch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from cyclegan.discriminators import FeatureDiscriminator, PatchDiscriminator, discriminator_class
from stylekit.networks import weights
from stylekit.training.log import print0

WARMUP_STEPS = 50


def load_initial_weights(networks: Mapping[str, nn.Module], names: Sequence[str]) -> None:
    """Copy the weights that --init names; networks that it does not have keep theirs.

    Args:
        networks: By folder name: G, F, D_X, D_Y, D_X_features, D_Y_features, or some of them.
        names: A training run; or G, then F: pre-trainings, or networks given like --weights of `cyclegan translate`.
            The discriminators beside a generator judge what it paints: D_Y for G, D_X for F.

    Raises:
        FileNotFoundError, ValueError, OSError: A network cannot be read, or has another architecture.
    """
    given = "--init " + " ".join(names)
    sources = _find_networks(names, given)
    copies = {}
    for name, network in networks.items():
        source = sources.get(name)
        if isinstance(network, FeatureDiscriminator):  # Alone it is D_Y; beside a PatchGAN, D_Y_features.
            source = sources.get(f"{name}_features", source)
        is_discriminator = isinstance(network, PatchDiscriminator | FeatureDiscriminator)
        if source is None or (is_discriminator and discriminator_class(Path(source)) is not type(network)):
            continue
        copies[name] = weights.load(type(network), source, "a network of CycleGAN", "a training run with G"), network
    weights.copy_weights(copies.values(), given)
    new = [name for name in networks if name not in copies]
    print0(f"{given}: {', '.join(copies)}" + (f"; new: {', '.join(new)}" if new else ""))


def warmup(step: int) -> float:
    """Factor of the learning rate: Adam's first steps would harm trained weights."""
    return min(1.0, (step + 1) / (WARMUP_STEPS + 1))


def _find_networks(names: Sequence[str], given: str) -> dict[str, Path | str]:
    """The folder, file or Hub id of every network, by folder name."""
    found = [weights.find(name) for name in names]
    runs = [place for place in found if isinstance(place, Path) and (place / "G").is_dir() and (place / "F").is_dir()]
    if runs:
        if len(found) > 1:
            raise ValueError(f"{given}: a training run has both generators; give it alone")
        return {path.name: path for path in runs[0].iterdir() if path.is_dir()}
    networks: dict[str, Path | str] = {}
    for generator, domain, place in zip("GF", "YX", found, strict=False):
        if isinstance(place, Path) and place.is_dir():
            # A pre-training has its generator in G/, a bundled network has no subfolder for it.
            networks[generator] = place / "G" if (place / "G").is_dir() else place
            networks |= {path.name.replace("D_Y", f"D_{domain}"): path for path in place.glob("D_Y*")}
        else:
            networks[generator] = place
    return networks
