"""Samples per second of the data loader: 256 x 256 JPEG files, resized to 286, random crop 256, flip.

    python benchmarks/loader.py

The variants take turns, round by round. A sample is a picture of each domain; compare with images/s in a training log.
"""

import argparse
import statistics
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_sample_image
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parent.parent))

from cyclegan.data import UnpairedImages, build_pipelines
from stylekit.training.data import EpochBatches, check_pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=300, help="per round")
    given = parser.parse_args()
    photograph = Image.fromarray(load_sample_image("china.jpg"))
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for i in range(100):
            left, top = 3 * i % (photograph.width - 256), i % (photograph.height - 256)
            paths.append(Path(folder) / f"{i:03}.jpg")
            photograph.crop((left, top, left + 256, top + 256)).save(paths[-1], quality=92)
        cache, _ = check_pictures(paths, decode=True, progress=False)
        loaders = {}
        for augment in ("paper", "strong"):
            for kept in (False, True):
                for workers in (0, 1, 2):
                    data = UnpairedImages(
                        paths, paths, build_pipelines(augment, 286, 256), cache=cache if kept else None
                    )
                    batches = EpochBatches(len(data), 1)
                    name = f"--augment {augment:6} --cache {'on ' if kept else 'off'} --num-workers {workers}"
                    loaders[name] = iter(DataLoader(data, batch_sampler=batches, num_workers=workers))
        speeds: dict[str, list[float]] = {name: [] for name in loaders}
        for _ in range(given.rounds):
            for name, loader in loaders.items():
                # Skip samples that the workers prepared while other variants had their turn.
                waiting = 8
                list(islice(loader, waiting))
                start = time.perf_counter()
                list(islice(loader, given.samples))
                speeds[name].append(given.samples / (time.perf_counter() - start))
        for name, values in speeds.items():
            print(f"{name}: median {statistics.median(values):.0f} samples/s ({min(values):.0f} to {max(values):.0f})")


if __name__ == "__main__":
    main()
