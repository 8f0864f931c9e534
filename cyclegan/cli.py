"""The command line: `cyclegan fetch`, `check`, `train`, `translate` and others. Heavy imports are inside functions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from cyclegan.official import check_flags
from cyclegan.options import (
    CheckConfig,
    EvaluateConfig,
    ExportConfig,
    FetchConfig,
    PretrainConfig,
    TrainConfig,
    TranslateConfig,
    UnpairedConfig,
    WeightsConfig,
)
from stylekit import cli

if TYPE_CHECKING:
    from stylekit.training.run import Result

C = TypeVar("C", bound=UnpairedConfig)

COMMANDS = {
    "train": TrainConfig,
    "pretrain": PretrainConfig,
    "translate": TranslateConfig,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
    "weights": WeightsConfig,
    "fetch": FetchConfig,
    "check": CheckConfig,
}


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of `cyclegan` and `python -m cyclegan`; returns the exit code.

    Args:
        args: Command line; None takes sys.argv.
    """
    about = "Unpaired image-to-image translation with cycle-consistent adversarial networks (Zhu et al. 2017)."
    args = list(sys.argv[1:] if args is None else args)
    with cli.exit_on_error("cyclegan"):
        check_flags(args[1:], args[0] if args else "")
        config = cli.parse_command(COMMANDS, "cyclegan", about, args)
        if isinstance(config, TrainConfig):
            return train(config, "cyclegan train")
        if isinstance(config, PretrainConfig):
            return pretrain(config)
        if isinstance(config, EvaluateConfig):
            return evaluate(config)
        if isinstance(config, ExportConfig):
            return export(config)
        if isinstance(config, FetchConfig):
            return fetch(config)
        if isinstance(config, CheckConfig):
            return check(config)
        return translate(config) if isinstance(config, TranslateConfig) else cli.list_networks()


def train_main(args: Sequence[str] | None = None) -> int:
    """Entry point of train.py."""
    args = list(sys.argv[1:] if args is None else args)
    with cli.exit_on_error("train.py"):
        check_flags(args, "train")
        return train(cli.parse(TrainConfig, "train.py", args), "python train.py")


def train(config: TrainConfig, command: str) -> int:
    """Train or resume a run; a signal saves before it stops."""
    from cyclegan.train import train

    return _run_training(train, config, command)


def pretrain(config: PretrainConfig) -> int:
    """Train one generator without the cycle; a signal saves before it stops."""
    from cyclegan.pretrain import pretrain

    return _run_training(pretrain, config, "cyclegan pretrain")


def _run_training(training: Callable[[C], Result], config: C, command: str) -> int:
    from stylekit import devices

    config = cli.sweep_name(config)
    devices.set_threads(config.machine.threads)
    with cli.training_hint(config, f"--n-blocks 6 or --ngf {max(1, config.generator.ngf // 2)}"):
        result = training(config)
    return cli.report_training(result, config, command)


def translate(config: TranslateConfig) -> int:
    """Translate files and folders; report pictures that fail and continue."""
    from cyclegan.translate import load_generator, translate

    return cli.process_pictures(
        config, lambda: load_generator(config.weights, config.direction), translate, "cyclegan translate", "translated"
    )


def evaluate(config: EvaluateConfig) -> int:
    """Measure a generator; print a table and write it as JSON."""
    from cyclegan import evaluate as evaluation
    from stylekit import devices
    from stylekit.measures.table import table

    devices.set_threads(config.threads)
    result = evaluation.evaluate(config)
    result.save(config.output)
    for error in result.errors:
        print(f"cyclegan evaluate: {error}", file=sys.stderr)
    x, y = ("A", "B") if result.direction == "x2y" else ("B", "A")
    counts, measured = result.counts, result.weights or result.outputs
    print(
        f"{measured}: X, {counts['x']} pictures of {x}, against Y, {counts['y']} of {y}; real Y: "
        f"{counts['y_held_out']} of them against the others; weave in {counts['weave']}, halo in {counts['halo']}"
    )
    print(f"{table(result.metrics, evaluation.BASELINES)}\n{config.output}")
    return 1 if result.errors else 0


def export(config: ExportConfig) -> int:
    """Export a generator; compare the file with `translate`."""
    from cyclegan.translate import forward, load_generator, translate

    network = load_generator(config.weights, config.direction)
    return cli.export_network(network, forward, translate, config, "cyclegan export")


def fetch(config: FetchConfig) -> int:
    """Fetch a data set, or print what would be fetched."""
    from cyclegan import fetch as fetching

    if config.dry_run:
        print("\n".join(fetching.plan(config)))
        return 0
    try:
        return fetching.report(fetching.fetch(config))
    except KeyboardInterrupt:
        print("cyclegan fetch: stopped; run the same command again to continue", file=sys.stderr)
        return 130


def check(config: CheckConfig) -> int:
    """Check a data set; print what was found and write a contact sheet."""
    from cyclegan import check as checking

    return checking.report(checking.check(config))
