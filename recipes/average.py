"""Average the weights of generators: `python recipes/average.py RUN RUN ... -o FOLDER`.

Networks that were fine-tuned from the same one can be averaged (Wortsman et al. 2022, model soups, arXiv 2203.05482).
What they have in common stays, such as strokes and palette; what each has for itself, such as patterns in skies, fades.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from cyclegan.models import Generator
from cyclegan.options import GeneratorConfig
from cyclegan.translate import load_generator
from stylekit import cli
from stylekit.networks import weights
from stylekit.options import check_at_least, default_is


@dataclass(frozen=True)
class AverageConfig:
    """Average the weights of generators with the same architecture."""

    networks: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="NETWORK NETWORK ...")]
    """Generators, given like --weights of `cyclegan translate`."""

    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))]
    """Folder for config.json and model.safetensors, which must not exist."""

    noise: Annotated[float | None, default_is("that of the first network", "FLOAT")] = None
    """Standard deviation of the noise channel in use."""

    def __post_init__(self) -> None:
        check_at_least(self, 0, "noise")
        if len(self.networks) < 2:
            raise ValueError("expected two networks or more")


def average(config: AverageConfig) -> None:
    """Write the mean network.

    Raises:
        FileExistsError: The output exists.
        ValueError: The networks have different architectures.
    """
    if config.output.exists():
        raise FileExistsError(f"{config.output} already exists; choose another --output")
    generators = [load_generator(name) for name in config.networks]
    states = [generator.state_dict() for generator in generators]
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in states]
    if any(other != shapes[0] for other in shapes[1:]):
        raise ValueError("the networks have different architectures; average fine-tuned copies of one network")
    mean = {name: torch.stack([state[name].float() for state in states]).mean(0) for name in states[0]}
    options = weights.config_of(generators[0])
    noise = options["noise"] if config.noise is None else config.noise
    network = Generator(GeneratorConfig(**options | {"noise": noise}))
    network.load_state_dict(mean)
    weights.save(network, config.output)


if __name__ == "__main__":
    with cli.exit_on_error("average.py"):
        average(cli.parse(AverageConfig, "average.py", sys.argv[1:]))
