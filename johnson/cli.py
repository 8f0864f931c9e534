"""The command line: `johnson stylize`, `train`, `evaluate`, `export`, `styles`. Heavy imports are inside functions."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from johnson.options import EvaluateConfig, ExportConfig, StylesConfig, StylizeConfig, TrainConfig
from stylekit import cli

COMMANDS = {
    "stylize": StylizeConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
    "styles": StylesConfig,
}


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of `johnson` and `python -m johnson`; returns the exit code.

    Args:
        args: Command line; None takes sys.argv.
    """
    about = "Real-time style transfer: one network per style paints in a single pass (Johnson et al. 2016)."
    with cli.exit_on_error("johnson"):
        config = cli.parse_command(COMMANDS, "johnson", about, args)
        if isinstance(config, TrainConfig):
            return train(config)
        if isinstance(config, EvaluateConfig):
            return evaluate(config)
        if isinstance(config, ExportConfig):
            return export(config)
        return stylize(config) if isinstance(config, StylizeConfig) else cli.list_networks("johnson")


def train(config: TrainConfig) -> int:
    """Train or resume a run; a signal saves before it stops."""
    from johnson import train as training
    from stylekit import devices

    config = cli.sweep_name(config)
    devices.set_threads(config.machine.threads)
    with cli.training_hint(config, f"or --width {max(1, config.network.width // 2)}"):
        result = training.train(config)
    return cli.report_training(result, config, "johnson train")


def stylize(config: StylizeConfig) -> int:
    """Stylize pictures, folders and videos; report those that fail and continue."""
    from johnson.stylize import load_network, stylize

    return cli.process_pictures(config, lambda: load_network(config.style), stylize, "johnson stylize", "painted")


def evaluate(config: EvaluateConfig) -> int:
    """Measure a network; print a table and write it as JSON."""
    from johnson import evaluate as evaluation
    from stylekit import devices
    from stylekit.measures.table import table

    devices.set_threads(config.threads)
    result = evaluation.evaluate(config)
    result.save(config.output)
    for error in result.errors:
        print(f"johnson evaluate: {error}", file=sys.stderr)
    counts = result.counts
    print(
        f"{result.weights}: {counts['photographs']} photographs, style: {' '.join(result.style)}; weave in "
        f"{counts['weave']}, halo in {counts['halo']}"
    )
    print(f"{table(result.metrics, evaluation.BASELINES)}\n{config.output}")
    return 1 if result.errors else 0


def export(config: ExportConfig) -> int:
    """Export a network; compare the file with `stylize`."""
    from johnson.stylize import forward, load_network, stylize

    return cli.export_network(load_network(config.weights), forward, stylize, config, "johnson export")
