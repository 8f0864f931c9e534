"""Generate the pictures of README and docs from photographs that packages ship: `make gallery`.

python benchmarks/gallery.py [PICTURE ...] [-o docs]

PICTURE: before-after, detail, methods, johnson, objectives, back, draft, masks, blend, own-style or
check. The default is all.
"""

from __future__ import annotations

import argparse
import runpy
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image
from tqdm import tqdm

from cyclegan.check import check as check_data
from cyclegan.options import CheckConfig
from cyclegan.translate import load_generator, translate
from gatys.options import StylizeConfig
from gatys.styles import load_preset
from gatys.stylize import build_network
from gatys.stylize import stylize as optimize
from johnson.stylize import load_network, stylize
from stylekit.pictures import brush, images
from stylekit.pictures.sheet import contact_sheet

CHINA, FLOWER, ROCKET, COFFEE, CHELSEA, ASTRONAUT = PHOTOGRAPHS = tuple(
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
ROOT = Path(__file__).parent.parent
STYLES = ["starry-night", "wheat-field-with-cypresses", "sunflowers", "van-gogh", "mosaic"]
OBJECTIVES = ["landscape2vangogh-cycle", "landscape2vangogh"]


def load(path: str, size: int = 512) -> Image.Image:
    return images.resize(images.load(path), size)


def by_cyclegan(photograph: Image.Image, name: str = "landscape2vangogh", stroke_size: float = 1.0) -> Image.Image:
    return images.to_image(translate(images.to_tensor(photograph), load_generator(name), stroke_size=stroke_size))


def by_gatys(photograph: Image.Image, style: str) -> Image.Image:
    config = StylizeConfig(size=max(photograph.size))
    stylized = optimize(images.to_tensor(photograph), [load_preset(style)], config, network=build_network(config))
    return images.to_image(stylized)


def by_johnson(photograph: Image.Image, style: str) -> Image.Image:
    return images.to_image(stylize(images.to_tensor(photograph), load_network(style)))


def large_pair() -> tuple[Image.Image, Image.Image]:
    """The cat at twice its size, and its painting."""
    photograph = images.load(CHELSEA)
    photograph = photograph.resize((2 * photograph.width, 2 * photograph.height), Image.Resampling.BICUBIC)
    return photograph, by_cyclegan(photograph, stroke_size=1.5)


def before_after() -> Image.Image:
    return contact_sheet([large_pair()], height=400)


def detail() -> Image.Image:
    return large_pair()[1].crop((110, 90, 890, 470))


def methods() -> Image.Image:
    photograph = load(ROCKET)
    row = [photograph, by_cyclegan(photograph), *(f(photograph, STYLES[0]) for f in (by_gatys, by_johnson))]
    return contact_sheet([row], ["photograph", "cyclegan", "gatys", "johnson"], 240)


def johnson() -> Image.Image:
    rows = [[load(path), *(by_johnson(load(path), style) for style in STYLES)] for path in tqdm(PHOTOGRAPHS)]
    return contact_sheet(rows, ["photograph", *STYLES], 150)


def objectives() -> Image.Image:
    """Both networks alone, without a draft, as they are evaluated."""
    rows = [
        [load(path), *(translate(load(path), name, draft=False) for name in OBJECTIVES)] for path in tqdm(PHOTOGRAPHS)
    ]
    return contact_sheet(rows, ["photograph", *OBJECTIVES], 180)


def back() -> Image.Image:
    paintings = [by_cyclegan(load(path)) for path in (FLOWER, CHINA)]
    row = [picture for painting in paintings for picture in (painting, by_cyclegan(painting, "vangogh2landscape"))]
    return contact_sheet([row], ["painting", "photograph"] * 2, 240)


def draft() -> Image.Image:
    generator = load_generator()
    rows = []
    for path in (ROCKET, CHINA, CHELSEA):
        photograph = load(path, 640)
        paintings = (translate(photograph, generator, draft=draft) for draft in (False, True))
        rows.append([photograph, brush.draft(photograph), *paintings])
    return contact_sheet(rows, ["photograph", "draft", "--draft off", "--draft on"], 260)


def masks() -> Image.Image:
    photograph, mask = load(ASTRONAUT), Image.new("L", (512, 512), "white")
    mask.paste(0, (0, 0, 256, 512))
    looks: list[dict[str, Any]] = [{}, {"keep": "faces"}, {"mask": mask}]
    row = [photograph, *(stylize(photograph, "mosaic", **look) for look in looks)]
    return contact_sheet([row], ["photograph", "mosaic", "--keep faces", "--mask: black, white"], 240)


def blend() -> Image.Image:
    shares = (1.0, 0.6, 0.3, 0.0)
    styles = [{"starry-night": share, "mosaic": 1 - share} for share in shares]
    rows = [[stylize(load(path), style) for style in styles] for path in (CHINA, FLOWER)]
    return contact_sheet(rows, [f"starry-night={share:.1f} mosaic={1 - share:.1f}" for share in shares], 180)


def own_style() -> Image.Image:
    """The mosaic that `recipes/mosaic.py` draws, and what the network that learned it makes of two photographs."""
    row = [runpy.run_path(str(ROOT / "recipes" / "mosaic.py"))["draw"]()]
    for path in (FLOWER, COFFEE):
        row += [load(path), by_johnson(load(path), "mosaic")]
    return contact_sheet([row], ["style", *["photograph", "stylized"] * 2], 220)


def check() -> Image.Image:
    """The sheet of `cyclegan check` for the photographs and their paintings."""
    with TemporaryDirectory() as folder:
        for path in PHOTOGRAPHS:
            for side, picture in (("A", load(path)), ("B", by_cyclegan(load(path)))):
                images.save(picture, Path(folder, f"train{side}", f"{Path(path).stem}.png"))
        sheet = Path(folder, "check.png")
        check_data(CheckConfig(dataroot=folder, output=sheet))
        return images.load(sheet)


PICTURES: dict[str, Callable[[], Image.Image]] = {
    function.__name__.replace("_", "-"): function
    for function in (before_after, detail, methods, johnson, objectives, back, draft, masks, blend, own_style, check)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="*", metavar="PICTURE", default=list(PICTURES))
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs")
    options = parser.parse_args()
    for name in options.pictures:
        if name not in PICTURES:
            parser.error(f"no picture {name}; expected one of {', '.join(PICTURES)}")
    for name in options.pictures:
        path = options.output / f"{name}.jpg"
        PICTURES[name]().save(path, quality=80, optimize=True)
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
