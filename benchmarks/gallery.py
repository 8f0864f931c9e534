"""Generate the pictures of the README from photographs included in packages: `make gallery`.

python benchmarks/gallery.py [SHEET ...] [--photographs MINE.jpg ...] [--styles NAME ...] [--size 512] [-o docs]

methods: one photograph, all three methods. cyclegan: before and after. objectives: CycleGAN's networks. gatys, johnson:
photographs in all styles, by optimization and in one pass. compare (on request only): gatys below johnson.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from cyclegan.translate import load_generator, translate
from gatys.options import StylizeConfig
from gatys.styles import load_preset
from gatys.stylize import build_network
from gatys.stylize import stylize as optimize
from johnson.stylize import load_network, stylize
from stylekit.pictures import images
from stylekit.pictures.sheet import contact_sheet

CHINA, FLOWER, ROCKET, COFFEE, CHELSEA, ASTRONAUT = (
    str(files(package) / name)
    for package, name in (
        ("sklearn.datasets.images", "china.jpg"),
        ("sklearn.datasets.images", "flower.jpg"),
        ("skimage.data", "rocket.jpg"),
        ("skimage.data", "coffee.png"),
        ("skimage.data", "chelsea.png"),
        ("skimage.data", "astronaut.png"),
    )
)
PAINTER = ["starry-night", "wheat-field-with-cypresses", "sunflowers", "van-gogh"]
STYLES = [*PAINTER, "mosaic"]
OBJECTIVES = ["landscape2vangogh-cycle", "landscape2vangogh"]

Rows = Iterator[list[Image.Image]]


def by_cyclegan(photograph: Image.Image, name: str = "landscape2vangogh") -> Image.Image:
    return images.to_image(translate(images.to_tensor(photograph), load_generator(name)))


def by_gatys(photograph: Image.Image, style: str) -> Image.Image:
    config = StylizeConfig(size=max(photograph.size))
    stylized = optimize(images.to_tensor(photograph), [load_preset(style)], config, network=build_network(config))
    return images.to_image(stylized)


def by_johnson(photograph: Image.Image, style: str, runs: Path | None = None) -> Image.Image:
    return images.to_image(stylize(images.to_tensor(photograph), load_network(runs / style if runs else style)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "sheets", nargs="*", metavar="SHEET", default=["methods", "cyclegan", "objectives", "gatys", "johnson"]
    )
    parser.add_argument("--photographs", nargs="+")
    parser.add_argument("--styles", nargs="+", help="all that are bundled; gatys: those of Van Gogh")
    parser.add_argument("--runs", type=Path, help="use Johnson's networks from RUNS/STYLE")
    parser.add_argument("--size", type=int, default=512, help="longer side of the photographs")
    parser.add_argument("--height", type=int, help="height of each picture on a sheet")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent.parent / "docs")
    options = parser.parse_args()

    def photographs(*default: str, size: int = options.size) -> Iterator[Image.Image]:
        for path in tqdm(options.photographs or default, unit="photograph", disable=None):
            yield images.resize(images.load(path), size)

    def methods() -> Rows:
        for photograph in photographs(CHINA):
            yield [photograph, by_cyclegan(photograph), *(f(photograph, STYLES[0]) for f in (by_gatys, by_johnson))]

    def cyclegan() -> Rows:
        pairs = [[photograph, by_cyclegan(photograph)] for photograph in photographs(CHINA, ASTRONAUT, FLOWER, COFFEE)]
        for first, second in zip(pairs[::2], pairs[1::2], strict=True):
            yield [*first, *second]

    def objectives() -> Rows:
        for photograph in photographs(CHINA, FLOWER, ROCKET, COFFEE, CHELSEA, ASTRONAUT):
            yield [photograph, *(by_cyclegan(photograph, name) for name in OBJECTIVES)]

    def gatys() -> Rows:
        for photograph in photographs(CHINA, ROCKET, CHELSEA):
            yield [photograph, *(by_gatys(photograph, style) for style in options.styles or PAINTER)]

    def johnson() -> Rows:
        for photograph in photographs(CHINA, FLOWER, ROCKET, COFFEE, CHELSEA, ASTRONAUT):
            yield [photograph, *(by_johnson(photograph, style, options.runs) for style in options.styles or STYLES)]

    def compare() -> Rows:
        for photograph in photographs(CHINA, FLOWER, ROCKET, COFFEE, CHELSEA, ASTRONAUT):
            yield [photograph, *(by_johnson(photograph, style, options.runs) for style in options.styles or STYLES)]
            yield [photograph, *(by_gatys(photograph, style) for style in options.styles or STYLES)]

    titles = {
        "methods": ["photograph", "cyclegan", "gatys", "johnson"],
        "cyclegan": ["before", "after"] * 2,
        "objectives": ["photograph", *OBJECTIVES],
        "gatys": ["photograph", *(options.styles or PAINTER)],
        "johnson": ["photograph", *(options.styles or STYLES)],
        "compare": ["photograph", *(options.styles or STYLES)],
    }
    makers = {maker.__name__: maker for maker in (methods, cyclegan, objectives, gatys, johnson, compare)}
    for name in options.sheets:
        if name not in makers:
            parser.error(f"no sheet {name}; expected one of {', '.join(makers)}")
    for name in options.sheets:
        path = options.output / f"{name}.jpg"
        height = options.height or (180 if name in ("johnson", "objectives") else 240)
        images.save(contact_sheet(makers[name](), titles[name], height), path)
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
