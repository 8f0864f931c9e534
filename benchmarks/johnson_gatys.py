"""One pass of a trained network against the optimization that it replaces: loss and time.

python benchmarks/johnson_gatys.py FOLDER [--style starry-night] [--count 20] [--size 256] [--sizes 256 512] [-o JSON]

FOLDER holds photographs on which the network was not trained. The loss is that of `johnson train` with default weights,
without the pixel loss, which Gatys does not have. Gatys minimizes it at a single scale, from the photograph and from
noise; the result is measured without the margin that is added during the optimization.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from gatys.options import StylizeConfig
from gatys.styles import load_preset
from gatys.stylize import Step, build_network
from gatys.stylize import stylize as optimize
from johnson.data import find_photographs
from johnson.losses import perceptual_loss
from johnson.options import TrainConfig
from johnson.stylize import load_network, stylize
from stylekit.pictures import images
from stylekit.training.data import evenly_spaced

STEPS = (10, 25, 50, 100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--style", default="starry-night")
    parser.add_argument("--weights", default=None, help="the network; default: the one named like the style")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--size", type=int, default=256, help="longer side at which the losses are compared")
    parser.add_argument("--sizes", type=int, nargs="*", default=[256, 512, 1024], help="sizes for the timing")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path, help="JSON file for the results")
    options = parser.parse_args()

    config = TrainConfig.from_preset("paper", dataroot=str(options.folder), style=(options.style,), pixel_weight=0)
    preset = load_preset(options.style)
    network = load_network(options.weights or options.style)
    network.keep_colors = None  # To this loss, the colors of the photograph are wrong.
    paths = evenly_spaced(find_photographs(options.folder), options.count)
    photographs = [images.to_tensor(images.resize(images.load(path), options.size)) for path in paths]
    loss_network = build_network(gatys_config(config, options.size))
    grams = {layer: preset.at(config.style_size)[layer] for layer in config.losses.style_layers}

    @torch.no_grad()
    def loss(stylized: Tensor, photograph: Tensor) -> float:
        features, content = loss_network(stylized), loss_network(photograph)[config.losses.content_layer]
        return float(sum(perceptual_loss(stylized, photograph, features, content, grams, config.losses).values()))

    results: dict[str, Any] = {"style": options.style, "size": options.size, "count": len(photographs)}
    results["photographs"] = statistics.mean(loss(p, p) for p in photographs)
    results["johnson"] = statistics.mean(loss(stylize(p, network), p) for p in photographs)
    print(f"mean loss of {len(photographs)} photographs of at most {options.size} px")
    print(f"  the photographs          {results['photographs']:8.3f}")
    print(f"  johnson, one pass        {results['johnson']:8.3f}")
    results["gatys"] = {}
    for start in ("content", "noise"):
        found: dict[int, list[float]] = {step: [] for step in STEPS}
        for photograph in tqdm(photographs, desc=f"gatys from {start}", disable=None):

            def note(step: Step, photograph: Tensor = photograph, found: dict[int, list[float]] = found) -> None:
                if step.number in STEPS:
                    found[step.number].append(loss(step.image(), photograph))

            optimize(
                photograph, [preset], gatys_config(config, options.size, start), network=loss_network, on_step=note
            )
        results["gatys"][start] = {step: statistics.mean(values) for step, values in found.items()}
        for step, value in results["gatys"][start].items():
            print(f"  gatys from {start:7} {step:4} steps {value:6.3f}")

    print("seconds per picture")
    results["seconds"] = []
    for size in options.sizes:
        photograph = torch.rand(1, 3, size, size)
        few = dataclasses.replace(gatys_config(config, size), steps=4)
        once: list[float] = []
        step: list[float] = []
        for _ in range(options.rounds + 1):
            start_time = time.monotonic()
            stylize(photograph, network)
            once.append(time.monotonic() - start_time)
            ends: list[float] = []
            optimize(
                photograph, [preset], few, network=loss_network, on_step=lambda _, e=ends: e.append(time.monotonic())
            )
            step.append((ends[-1] - ends[0]) / 3)
        # The first round is a warm-up.
        one, hundred = statistics.median(once[1:]), 100 * statistics.median(step[1:])
        results["seconds"].append({"size": size, "johnson": one, "gatys": hundred})
        print(f"  {size:4} px: johnson {one:7.3f}, gatys, 100 steps, {hundred:8.1f}: {hundred / one:6.0f} times faster")
    if options.output is not None:
        options.output.write_text(json.dumps(results, indent=2) + "\n")


def gatys_config(config: TrainConfig, size: int, start: str = "content") -> StylizeConfig:
    """The same objective, at one scale."""
    losses = config.losses
    return StylizeConfig(
        size=size,
        min_size=size,
        steps=STEPS[-1],
        init=start,
        style_scale=config.style_size / size,
        beta=2 * len(losses.style_layers) * losses.style_weight / losses.content_weight,
        content_layer=losses.content_layer,
        style_layers=losses.style_layers,
    )


if __name__ == "__main__":
    main()
