"""Time of painting a folder of photographs of 512 px: step after step, and with steps at the same time.

    python benchmarks/folder.py --count 200 --device cuda

The variants take turns, round by round. The network alone paints the same photographs, which are in memory.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_images
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.measure import alternate, describe_machine, spread
from cyclegan.translate import load_generator, translate
from johnson.stylize import load_network, stylize
from stylekit.devices import choose_device, to_device
from stylekit.pictures import images
from stylekit.pictures.jobs import plan_jobs, process_files


def write_photographs(folder: Path, count: int, suffix: str) -> None:
    """Write photographs whose longer side has 512 pixels, alternating, each shifted a little."""
    whole = [*load_sample_images().images, data.astronaut(), data.coffee(), data.rocket()]
    photographs = [images.resize(Image.fromarray(pixels), 544) for pixels in whole]
    for i in range(count):
        photograph = photographs[i % len(photographs)]
        left, top, (width, height) = i % 32, i * 7 % 32, photograph.size
        crop = photograph.crop((left, top, left + width - 32, top + height - 32))
        images.save(crop, folder / f"{i:04}.{suffix}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--program", choices=["johnson", "cyclegan"], default="johnson")
    parser.add_argument("--format", choices=["jpg", "png"], default="jpg")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    device = choose_device(given.device)
    network = to_device((load_network() if given.program == "johnson" else load_generator()).eval(), device)
    method = stylize if given.program == "johnson" else translate

    def process(image: Tensor) -> Tensor:
        return method(image, network)

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in"), Path(folder, "out")
        write_photographs(source, given.count, given.format)
        jobs = plan_jobs([source], target)
        tensors = [images.to_tensor(images.load(job.source)).to(device) for job in jobs]

        def one_after_the_other() -> None:
            for job in jobs:
                painting = process(images.to_tensor(images.load(job.source)).to(device))
                images.save(images.to_image(painting), job.target)

        def at_the_same_time() -> None:
            assert not [outcome.error for outcome in process_files(jobs, process, device) if outcome.error]

        def network_alone() -> None:
            for tensor in tensors:
                process(tensor)

        variants = {
            "one step after the other": one_after_the_other,
            "steps at the same time": at_the_same_time,
            "network alone": network_alone,
        }
        seconds = alternate(variants, given.rounds)

    print(f"{given.count} photographs, {given.program}, {given.format}. {describe_machine(device)}")
    for name, values in seconds.items():
        print(f"{name}: {spread(values)}")
    old, new, alone = (statistics.median(seconds[name]) for name in variants)
    print(f"ratio of medians {old / new:.2f}; share of the network {alone / old:.0%} before, {alone / new:.0%} after")


if __name__ == "__main__":
    main()
