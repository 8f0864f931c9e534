"""Three photographs that packages ship, each in four of the shipped styles: docs/gatys.jpg.

python benchmarks/gatys_gallery.py [--photographs MINE.jpg ...] [--styles NAME ...] [--size 512] [-o docs/gatys.jpg]
"""

from __future__ import annotations

import argparse
from importlib.resources import files
from pathlib import Path

from tqdm import tqdm

from gatys.options import StylizeConfig
from gatys.styles import load_preset
from gatys.stylize import build_network, stylize
from stylekit import images

PHOTOGRAPHS = [
    str(files(package) / name)
    for package, name in (
        ("sklearn.datasets.images", "china.jpg"),
        ("skimage.data", "rocket.jpg"),
        ("skimage.data", "chelsea.png"),
    )
]
STYLES = ["starry-night", "wheat-field-with-cypresses", "sunflowers", "van-gogh"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photographs", nargs="+", default=PHOTOGRAPHS)
    parser.add_argument("--styles", nargs="+", default=STYLES)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--height", type=int, default=240, help="of each picture on the sheet")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent.parent / "docs" / "gatys.jpg")
    options = parser.parse_args()
    config = StylizeConfig(size=options.size)
    network = build_network(config)
    rows = []
    for path in tqdm(options.photographs, unit="photograph"):
        photograph = images.resize(images.load(path), options.size)
        row = [photograph]
        for style in tqdm(options.styles, leave=False):
            painted = stylize(images.to_tensor(photograph), [load_preset(style)], config, network=network)
            row.append(images.to_image(painted))
        rows.append(row)
    images.save(images.sheet(rows, ["photograph", *options.styles], options.height), options.output)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
