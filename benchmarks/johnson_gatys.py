"""One pass of a trained network against the optimisation that it replaces: the same loss, and the time for it.

python benchmarks/johnson_gatys.py FOLDER [--style starry-night] [--count 20] [--size 256] [--sizes 256 512 1024]

FOLDER holds photographs that the network was not trained on. The loss is that of `johnson train` with its default
weights, but for the pixel loss, which Gatys does not have; he minimises it at one scale, from the photograph and from
noise. His picture is measured as it is shown, without the margin that it is worked on with.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time

import torch
from torch import Tensor
from tqdm import tqdm

from gatys.options import StylizeConfig
from gatys.styles import load_preset
from gatys.stylize import Step, build_network
from gatys.stylize import stylize as optimise
from johnson.data import find_photographs
from johnson.losses import perceptual_loss
from johnson.options import TrainConfig
from johnson.stylize import load_network, stylize
from stylekit import images
from stylekit.data import some_of

STEPS = (10, 25, 50, 100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--style", default="starry-night")
    parser.add_argument("--weights", default=None, help="the network, if it is not the one of that name")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--size", type=int, default=256, help="longer side at which the losses are compared")
    parser.add_argument("--sizes", type=int, nargs="*", default=[256, 512, 1024], help="for the times")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    config = TrainConfig(options.folder, style=(options.style,), pixel_weight=0)
    preset = load_preset(options.style)
    network = load_network(options.weights or options.style)
    paths = some_of(find_photographs(options.folder), options.count)
    photographs = [images.to_tensor(images.resize(images.load(path), options.size)) for path in paths]
    judge = build_network(gatys_config(config, options.size))
    grams = {layer: preset.at(config.style_size)[layer] for layer in config.style_layers}

    @torch.no_grad()
    def loss(painted: Tensor, photograph: Tensor) -> float:
        seen, content = judge(painted), judge(photograph)[config.content_layer]
        return float(sum(perceptual_loss(painted, photograph, seen, content, grams, config).values()))

    print(f"mean loss of {len(photographs)} photographs of at most {options.size} px")
    print(f"  the photographs          {statistics.mean(loss(p, p) for p in photographs):8.3f}")
    print(f"  johnson, one pass        {statistics.mean(loss(stylize(p, network), p) for p in photographs):8.3f}")
    for start in ("content", "noise"):
        found: dict[int, list[float]] = {step: [] for step in STEPS}
        for photograph in tqdm(photographs, desc=f"gatys from {start}", disable=None):

            def note(step: Step, photograph: Tensor = photograph, found: dict[int, list[float]] = found) -> None:
                if step.number in STEPS:
                    found[step.number].append(loss(step.image(), photograph))

            optimise(photograph, [preset], gatys_config(config, options.size, start), network=judge, on_step=note)
        for step, values in found.items():
            print(f"  gatys from {start:7} {step:4} steps {statistics.mean(values):6.3f}")

    print("seconds for a picture")
    for size in options.sizes:
        photograph = torch.rand(1, 3, size, size)
        few = dataclasses.replace(gatys_config(config, size), steps=4)
        once: list[float] = []
        step: list[float] = []
        for _ in range(options.rounds + 1):
            begun = time.monotonic()
            stylize(photograph, network)
            once.append(time.monotonic() - begun)
            ends: list[float] = []
            optimise(photograph, [preset], few, network=judge, on_step=lambda _, e=ends: e.append(time.monotonic()))
            step.append((ends[-1] - ends[0]) / 3)
        # The first round warms up.
        one, hundred = statistics.median(once[1:]), 100 * statistics.median(step[1:])
        print(f"  {size:4} px: johnson {one:7.3f}, gatys, 100 steps, {hundred:8.1f}: {hundred / one:6.0f} times faster")


def gatys_config(config: TrainConfig, size: int, start: str = "content") -> StylizeConfig:
    """The same objective, at one scale."""
    return StylizeConfig(
        size=size,
        min_size=size,
        steps=STEPS[-1],
        init=start,
        style_scale=config.style_size / size,
        beta=2 * len(config.style_layers) * config.style_weight / config.content_weight,
        content_layer=config.content_layer,
        style_layers=config.style_layers,
    )


if __name__ == "__main__":
    main()
