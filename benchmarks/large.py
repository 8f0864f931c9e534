"""Time and memory of large photographs: `cyclegan translate` in a fresh process for each one.

    python benchmarks/large.py --megapixels 1 4 12 24

Prints a table: seconds, processor seconds and peak memory of the command, by default and with the network alone at full
resolution, and the largest difference between stages of tiles and one piece, in gray levels. One piece of 4 megapixels
takes 5 GB.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, nargs="+", default=[1, 4, 12, 24])
    parser.add_argument(
        "--difference", type=float, nargs="*", default=[1, 4], help="megapixels to run in one piece too"
    )
    args = parser.parse_args()
    print(
        "| megapixels | strokes | seconds | processor seconds | peak memory | difference |\n|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for megapixels in args.megapixels:
            photograph = Path(folder, f"{megapixels:g}.jpg")
            stroke_size = 640 / int(call(f"make_photograph({megapixels}, {str(photograph)!r})"))
            full = ["--draft", "off", "--stroke-size", str(stroke_size)]
            for name, more in {"default": [], "full resolution": full}.items():
                options = [str(photograph), "-o", f"{folder}/painted.jpg", "--overwrite", *more]
                row = [f"{megapixels:g}", name, *measure([sys.executable, "-m", "cyclegan", "translate", *options])]
                known = more == full and megapixels in args.difference
                row.append(call(f"print_difference({str(photograph)!r})") if known else "")
                print(f"| {' | '.join(row)} |", flush=True)


def measure(command: list[str]) -> list[str]:
    """Seconds, processor seconds, peak memory. A child starts with the peak of its parent, which imports little."""
    start = time.perf_counter()
    silent: list[Any] = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    _, status, usage = os.wait4(os.posix_spawn(command[0], command, os.environ, file_actions=silent), 0)
    if status:
        sys.exit(f"{' '.join(command)}: failed")
    seconds, processor = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
    return [f"{seconds:.1f}", f"{processor:.1f}", f"{usage.ru_maxrss / 2**20:.2f} GB"]


def call(expression: str) -> str:
    """Call a function of this file in a process of its own; return what it prints."""
    command = [sys.executable, "-c", f"from large import *; {expression}"]
    return subprocess.run(
        command, cwd=Path(__file__).parent, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


def make_photograph(megapixels: float, path: str) -> None:
    """Print the width of a new photograph, 3:2: a temple, enlarged, with its fine detail repeated in tiles.

    Enlarging alone makes flat pictures.
    """
    import cv2
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_image

    temple = load_sample_image("china.jpg").astype(np.float32)
    detail = 0.5 * (temple - cv2.GaussianBlur(temple, (0, 0), 2))
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    picture = cv2.resize(temple, (round(1.5 * height), height), interpolation=cv2.INTER_CUBIC)
    for top in range(0, height, len(detail)):
        for left in range(0, picture.shape[1], detail.shape[1]):
            part = picture[top:, left:][: len(detail), : detail.shape[1]]
            part += detail[: len(part), : part.shape[1]]
    Image.fromarray(np.rint(picture.clip(0, 255)).astype(np.uint8)).save(path, quality=92)
    print(picture.shape[1])


def print_difference(path: str) -> None:
    """The largest difference between stages of tiles and one piece, in gray levels."""
    from cyclegan.translate import load_generator, translate
    from stylekit.networks import tiling
    from stylekit.pictures import images

    photograph, generator = images.to_tensor(images.load(path)), load_generator()
    tiles, whole = (
        translate(photograph, generator, draft=False, stroke_size=640 / max(photograph.shape), tile=tile)
        for tile in (tiling.TILE, tiling.untiled(photograph))
    )
    print(f"{float((tiles - whole).abs().max()) * 255:.3f}")


if __name__ == "__main__":
    main()
