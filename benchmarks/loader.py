"""Samples per second of the data loader: 256 x 256 JPEG files, resized to 286, random crop 256, flip.

    python benchmarks/loader.py

The variants take turns, round by round. A sample is a picture of each domain; compare with images/s in a training log.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_sample_image
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.measure import alternate
from cyclegan.data import UnpairedImages, build_pipelines
from stylekit.training.data import EpochBatches, check_pictures


def write_pictures(folder: Path, count: int = 100) -> list[Path]:
    """Write crops of a photograph; return their paths."""
    photograph = Image.fromarray(load_sample_image("china.jpg"))
    paths = [folder / f"{i:03}.jpg" for i in range(count)]
    for i, path in enumerate(paths):
        left, top = 3 * i % (photograph.width - 256), i % (photograph.height - 256)
        photograph.crop((left, top, left + 256, top + 256)).save(path, quality=92)
    return paths


def ours(paths: list[Path], augment: str, cached: bool, workers: int) -> Iterator[object]:
    """Endless batches of one sample."""
    cache = check_pictures(paths, decode=True, progress=False)[0] if cached else None
    data = UnpairedImages(paths, paths, build_pipelines(augment, 286, 256), cache=cache)
    return iter(DataLoader(data, batch_sampler=EpochBatches(len(data), 1), num_workers=workers))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=300, help="per round")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = write_pictures(Path(folder))
        loaders = {
            f"--augment {augment:6}, {'cached' if cached else 'read each time'}, --num-workers {workers}": ours(
                paths, augment, cached, workers
            )
            for augment in ("paper", "strong")
            for cached in (False, True)
            for workers in (0, 1, 2)
        }

        def take(loader: Iterator[object]) -> None:
            list(islice(loader, given.samples))

        seconds = alternate({name: partial(take, loader) for name, loader in loaders.items()}, given.rounds)
        for name, values in seconds.items():
            speeds = sorted(given.samples / value for value in values)
            print(f"{name}: median {statistics.median(speeds):.0f} samples/s ({speeds[0]:.0f} to {speeds[-1]:.0f})")


if __name__ == "__main__":
    main()
