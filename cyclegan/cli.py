"""The command line: `cyclegan train`, `cyclegan translate`, `cyclegan weights`. Heavy imports wait until needed."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from cyclegan.options import TrainConfig, TranslateConfig
from stylekit import cli

if TYPE_CHECKING:
    from stylekit.files import Job, Outcome
    from stylekit.run import Result


def main() -> None:
    """Entry point of `cyclegan` and of `python -m cyclegan`."""
    commands = {
        "train": (train, "train two generators on two folders of pictures"),
        "translate": (translate, "translate pictures and folders of pictures"),
        "weights": (weights, "list the networks that come with the library"),
    }
    about = "Unpaired image-to-image translation with cycle-consistent adversarial networks (Zhu et al. 2017)."
    sys.exit(cli.dispatch(commands, sys.argv[1:], "cyclegan", about))


def train_main() -> None:
    """Entry point of train.py."""
    sys.exit(cli.run(lambda: train(sys.argv[1:], "train.py"), "train.py"))


def train(args: Sequence[str], prog: str = "cyclegan train") -> int:
    """Train, or go on; a signal saves first."""

    def start(config: TrainConfig) -> Result:
        from cyclegan import train as training

        return training.train(config)

    def smaller(config: TrainConfig) -> str:
        return f"--n-blocks 6 or --ngf {max(1, config.ngf // 2)}"

    again = "python train.py" if prog == "train.py" else prog
    return cli.train(TrainConfig, args, prog, again, start, smaller)


def translate(args: Sequence[str]) -> int:
    """Translate what is given; name what cannot be, and go on."""
    config = cli.parse(TranslateConfig, args, "cyclegan translate")
    from cyclegan.translate import load_generator, translate_files
    from stylekit import distributed
    from stylekit.files import plan

    def start(jobs: list[Job]) -> Iterable[Outcome]:
        device = distributed.choose_device(config.device)
        generator = load_generator(config.weights, config.direction)
        return translate_files(jobs, generator, device, config.size, config.tile)

    jobs = plan(config.inputs, config.output, config.format)
    return cli.paint(jobs, start, config.output, config.sheet, config.overwrite, "cyclegan translate", "translated")


def weights(args: Sequence[str]) -> int:
    """List the shipped networks, each with the first line of its model card."""
    return cli.list_networks(args, "cyclegan weights", "List the networks that come with the library, for --weights.")
