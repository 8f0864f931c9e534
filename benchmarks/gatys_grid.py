"""The effect of the choices in Gatys et al. (2016, section 3): grids of pictures in docs/.

python benchmarks/gatys_grid.py [PHOTOGRAPH] [--style starry-night] [--size 256]
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from gatys.options import STYLE_LAYERS, StylizeConfig
from gatys.styles import load_preset
from gatys.stylize import build_network, stylize
from stylekit.pictures import images
from stylekit.pictures.sheet import contact_sheet

CONTENT_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
DOCS = Path(__file__).parent.parent / "docs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photograph", nargs="?")
    parser.add_argument("--style", default="starry-night")
    parser.add_argument("--size", type=int, default=256)
    options = parser.parse_args()
    photograph = images.to_tensor(images.load(options.photograph or china()))
    preset = load_preset(options.style)
    base = StylizeConfig(size=options.size)

    def run_gatys(**changes: object) -> Image.Image:
        config = dataclasses.replace(base, **changes)
        return images.to_image(stylize(photograph, [preset], config, network=build_network(config)))

    ratios = [base.beta * factor for factor in (0.01, 0.1, 1, 10, 100)]
    rows = [
        [label(layer), *(run_gatys(content_layer=layer, beta=beta) for beta in ratios)]
        for layer in tqdm(CONTENT_LAYERS, "content layers")
    ]
    titles = ["content at", *(f"beta / alpha = {beta / base.alpha:g}" for beta in ratios)]
    contact_sheet(rows, titles, 192).save(DOCS / "gatys-content.jpg", quality=75)

    initial_images = {"content": "from the photograph", "noise": "from white noise"}
    rows = [
        [label(text), *(run_gatys(style_layers=STYLE_LAYERS[:n], init=init) for n in tqdm(range(1, 6), "style layers"))]
        for init, text in initial_images.items()
    ]
    titles = ["", *(f"style up to {layer}" for layer in STYLE_LAYERS)]
    contact_sheet(rows, titles, 192).save(DOCS / "gatys-style-layers.jpg", quality=85)
    print(f"wrote {DOCS / 'gatys-content.jpg'} and {DOCS / 'gatys-style-layers.jpg'}")


def china() -> Path:
    """A photograph that comes with scikit-learn."""
    from importlib.resources import files

    return Path(str(files("sklearn.datasets.images") / "china.jpg"))


def label(text: str) -> Image.Image:
    """A picture of a word, for the left end of a row."""
    picture = Image.new("RGB", (170, 192), "white")
    ImageDraw.Draw(picture).text((6, 84), text, fill="black", font=ImageFont.load_default(size=16))
    return picture


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
