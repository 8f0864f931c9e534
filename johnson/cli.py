"""The command line: `johnson stylize`, `train`, `evaluate`, `export`, `styles`. Heavy imports are inside functions."""

from __future__ import annotations

from collections.abc import Sequence

from johnson.options import EvaluateConfig, ExportConfig, StylesConfig, StylizeConfig, TrainConfig
from stylekit import cli
from stylekit.options import parse_weights


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of `johnson` and `python -m johnson`; returns the exit code."""
    commands: cli.Commands = {
        "stylize": (StylizeConfig, stylize),
        "train": (TrainConfig, train),
        "evaluate": (EvaluateConfig, evaluate),
        "export": (ExportConfig, export),
        "styles": (StylesConfig, lambda config: cli.list_networks("johnson")),
    }
    about = "Real-time style transfer: one network per style paints in a single pass (Johnson et al. 2016)."
    with cli.exit_on_error("johnson"):
        command, config = cli.parse_command(commands, "johnson", about, args)
        return command(config)


def train(config: TrainConfig) -> int:
    """Train or resume a run; a signal saves before it stops."""
    from johnson.train import train

    smaller = f"or --width {max(1, config.network.width // 2)}"
    return cli.run_training(train, config, smaller, "johnson train")


def stylize(config: StylizeConfig) -> int:
    """Stylize pictures, folders and videos; report those that fail and continue."""
    from johnson.models import TransformerNet
    from johnson.stylize import load_network, stylize
    from stylekit.networks.inference import load_networks

    def load() -> dict[TransformerNet, float]:
        return load_networks(parse_weights("--style", config.style), TransformerNet, load_network)

    return cli.process_pictures(config, load, stylize, "johnson stylize", "painted")


def evaluate(config: EvaluateConfig) -> int:
    """Measure a network; print a table and write it as JSON."""
    from johnson.evaluate import evaluate
    from stylekit import devices

    devices.set_threads(config.threads)
    result = evaluate(config)
    about = f"{config.weights}: {result.counts['photographs']} photographs, style: {' '.join(result.config.style)}"
    return cli.report_evaluation(result, about, ("painting", "untouched photograph"), "johnson evaluate")


def export(config: ExportConfig) -> int:
    """Export a network; compare the file with `stylize`."""
    from johnson.stylize import forward, load_network, stylize

    return cli.export_network(load_network(config.weights), forward, stylize, config, "johnson export")
