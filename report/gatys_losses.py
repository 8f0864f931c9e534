"""Content and style losses of Gatys' method for five content layers and style weights over four decades.

python report/gatys_losses.py [-o results/gatys.jsonl]

At a single scale, as in the paper, so that the losses of all steps can be compared; on a photograph of scikit-learn.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from tqdm import tqdm

from gatys.options import STYLE_LAYERS, StylizeConfig
from gatys.styles import load_preset
from gatys.stylize import Step, build_network, stylize
from stylekit.pictures import images

STYLE = "starry-night"
SIZE, STEPS = 128, 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "gatys.jsonl")
    output = parser.parse_args().output
    default = StylizeConfig()
    runs = [("content", layer, default.beta * factor) for layer in STYLE_LAYERS for factor in (0.01, 0.1, 1, 10, 100)]
    runs += [(init, default.content_layer, default.beta) for init in ("content", "noise")]
    with output.open("w") as file:
        for init, layer, beta in tqdm(runs, unit="run"):
            losses = optimize(init, layer, beta)
            file.write(json.dumps({"init": init, "content_layer": layer, "beta": beta, "size": SIZE} | losses) + "\n")


def optimize(init: str, content_layer: str, beta: float) -> dict[str, list[float]]:
    """The losses without their weights, before every step."""
    torch.manual_seed(0)
    config = StylizeConfig(size=SIZE, min_size=SIZE, steps=STEPS, init=init, content_layer=content_layer, beta=beta)
    losses: dict[str, list[float]] = {"content": [], "style": []}

    def note(step: Step) -> None:
        style = sum(float(step.terms[layer]) for layer in config.style_layers)
        losses["content"].append(float(f"{float(step.terms['content']) / config.alpha:.4g}"))
        losses["style"].append(float(f"{style / beta:.4g}"))

    photograph = images.to_tensor(Image.fromarray(load_sample_image("china.jpg")))
    stylize(photograph, [load_preset(STYLE)], config, network=build_network(config), on_step=note)
    return losses


if __name__ == "__main__":
    main()
