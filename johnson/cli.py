"""The command line: `johnson stylize`, `johnson train`, `johnson styles`. Heavy imports wait until needed."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from johnson.options import StylizeConfig, TrainConfig
from stylekit import cli

if TYPE_CHECKING:
    from stylekit.files import Job, Outcome
    from stylekit.run import Result


def main() -> None:
    """Entry point of `johnson` and of `python -m johnson`."""
    commands = {
        "stylize": (stylize, "paint pictures, folders of pictures and videos"),
        "train": (train, "train a network for a new style"),
        "styles": (styles, "list the styles that come with the library"),
    }
    about = "Real-time style transfer: a network for each style paints in one pass (Johnson et al. 2016)."
    sys.exit(cli.dispatch(commands, sys.argv[1:], "johnson", about))


def train(args: Sequence[str]) -> int:
    """Train, or go on; a signal saves first."""

    def start(config: TrainConfig) -> Result:
        from johnson import train as training

        return training.train(config)

    def smaller(config: TrainConfig) -> str:
        return f"or --width {max(1, config.width // 2)}"

    return cli.train(TrainConfig, args, "johnson train", "johnson train", start, smaller)


def stylize(args: Sequence[str]) -> int:
    """Paint what is given; name what cannot be, and go on."""
    config = cli.parse(StylizeConfig, args, "johnson stylize")
    from johnson.stylize import load_network, stylize_files
    from johnson.video import FORMATS
    from stylekit import distributed
    from stylekit.files import plan

    def start(jobs: list[Job]) -> Iterable[Outcome]:
        device = distributed.choose_device(config.device)
        return stylize_files(jobs, load_network(config.style), config, device)

    jobs = plan(config.inputs, config.output, config.format, FORMATS)
    return cli.paint(jobs, start, config.output, config.sheet, config.overwrite, "johnson stylize", "painted")


def styles(args: Sequence[str]) -> int:
    """List the styles that come with the library, each with the first line of its model card."""
    from johnson.stylize import KIND

    return cli.list_networks(args, "johnson styles", "List the styles that come with the library, for --style.", KIND)
