"""Paint weights/thumbnails, the styles on the web page: `python recipes/thumbnails.py`, a minute on two cores."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from gatys.options import StylizeConfig
from gatys.styles import bundled_presets
from image_translation import optimize, stylize, translate
from stylekit.networks.weights import bundled
from stylekit.pictures import images

FOLDER = Path(__file__).parents[1] / "weights" / "thumbnails"
SIZE = 168, 126
"""Pixels; the page shows them at two thirds of that."""


def main() -> None:
    photograph = images.load(str(files("sklearn.datasets.images") / "china.jpg")).crop((0, 0, 568, 426))
    painting = translate(photograph, "landscape2vangogh")
    functions: dict[str, Callable[..., Any]] = {"cyclegan": translate, "johnson": stylize, "gatys": optimize}
    names = {"cyclegan": bundled(), "johnson": bundled("johnson"), "gatys": bundled_presets()}
    for method, name in tqdm([(kind, style) for kind in names for style in names[kind]]):
        options = {"config": StylizeConfig(size=200)} if method == "gatys" else {}
        painted = functions[method](painting if name.startswith("vangogh2") else photograph, name, **options)
        painted.resize(SIZE, Image.Resampling.LANCZOS).save(FOLDER / f"{method}-{name}.jpg", quality=80)


if __name__ == "__main__":
    main()
