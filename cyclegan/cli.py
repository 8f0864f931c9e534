"""The command line: `cyclegan fetch`, `check`, `train`, `translate` and others. Heavy imports are inside functions."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cyclegan import options
from cyclegan.official import read_flags
from stylekit import cli


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of `cyclegan` and `python -m cyclegan`; returns the exit code."""
    commands: cli.Commands = {
        "train": (options.TrainConfig, train),
        "pretrain": (options.PretrainConfig, pretrain),
        "translate": (options.TranslateConfig, translate),
        "evaluate": (options.EvaluateConfig, evaluate),
        "export": (options.ExportConfig, export),
        "weights": (options.WeightsConfig, lambda config: cli.list_networks()),
        "fetch": (options.FetchConfig, fetch),
        "check": (options.CheckConfig, check),
    }
    about = "Unpaired image-to-image translation with cycle-consistent adversarial networks (Zhu et al. 2017)."
    args = list(sys.argv[1:] if args is None else args)
    with cli.exit_on_error("cyclegan"):
        args[1:] = read_flags(args[1:], args[0] if args else "")
        command, config = cli.parse_command(commands, "cyclegan", about, args)
        return command(config)


def train_main(args: Sequence[str] | None = None) -> int:
    """Entry point of train.py."""
    args = list(sys.argv[1:] if args is None else args)
    with cli.exit_on_error("train.py"):
        return train(cli.parse(options.TrainConfig, "train.py", read_flags(args, "train")), "python train.py")


def train(config: options.TrainConfig, command: str = "cyclegan train") -> int:
    """Train or resume a run; a signal saves before it stops."""
    from cyclegan.train import train

    return cli.run_training(train, config, _smaller(config), command)


def pretrain(config: options.PretrainConfig) -> int:
    """Train one generator without the cycle; a signal saves before it stops."""
    from cyclegan.pretrain import pretrain

    return cli.run_training(pretrain, config, _smaller(config), "cyclegan pretrain")


def _smaller(config: options.UnpairedConfig) -> str:
    return f"--n-blocks 6 or --ngf {max(1, config.generator.ngf // 2)}"


def translate(config: options.TranslateConfig) -> int:
    """Translate files and folders; report pictures that fail and continue."""
    from cyclegan.translate import load_generator, translate

    def load() -> dict[object, float]:
        return {load_generator(config.weights, config.direction): 1.0}

    return cli.process_pictures(config, load, translate, "cyclegan translate", "translated")


def evaluate(config: options.EvaluateConfig) -> int:
    """Measure a generator; print a table and write it as JSON."""
    from cyclegan.evaluate import evaluate
    from stylekit import devices

    devices.set_threads(config.threads)
    result = evaluate(config)
    x, y = ("A", "B") if result.config.direction == "x2y" else ("B", "A")
    counts, measured = result.counts, result.config.weights or result.config.outputs
    about = f"{measured}: X, {counts['x']} pictures of {x}, against Y, {counts['y']} of {y}"
    about += f"; real Y: {counts['y_held_out']} of them against the others"
    return cli.report_evaluation(result, about, ("real Y", "untranslated X"), "cyclegan evaluate")


def export(config: options.ExportConfig) -> int:
    """Export a generator; compare the file with `translate`."""
    from cyclegan.translate import forward, load_generator, translate

    network = load_generator(config.weights, config.direction)
    return cli.export_network(network, forward, lambda x, n: translate(x, n, draft=False), config, "cyclegan export")


def fetch(config: options.FetchConfig) -> int:
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


def check(config: options.CheckConfig) -> int:
    """Check a data set; print what was found and write a contact sheet."""
    from cyclegan import check as checking

    return checking.report(checking.check(config))
