"""Compare the library with a plain reading of the papers (plain.py), and write the tables into benchmarks/README.md.

    python benchmarks/bench.py

It measures a training step of CycleGAN, translation, Johnson's network, the gradient of Gatys's objective, and the data
loader. Both variants and a matrix product, the ceiling of the machine, take turns in one process. On CPUs the figures
are processor time, summed over threads, which other programs hardly affect.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import plain
from benchmarks.loader import ours as our_loader
from benchmarks.loader import write_pictures
from benchmarks.measure import README, alternate, describe_machine, matrix_product, spread, table, write_section
from cyclegan.options import TrainConfig
from cyclegan.train import build_state, train_step
from cyclegan.translate import load_generator, translate
from gatys.objective import Objective, Region, gram_matrices
from gatys.options import StylizeConfig
from gatys.stylize import build_network
from johnson.stylize import load_network, stylize
from stylekit.devices import choose_device, to_device, use_bfloat16

Variants = tuple[Callable[[], object], Callable[[], object]]
"""The plain reading and ours."""

KINDS = {
    "matrix products of Winograd's algorithm": ("aten::mm", "aten::bmm"),
    "convolutions, forward": ("mkldnn_convolution", "cudnn_convolution", "_slow_conv2d_forward"),
    "convolutions, backward": ("convolution_backward", "_slow_conv2d_backward"),
    "normalization": ("norm",),
    "padding": ("pad",),
    "up-sampling": ("upsample",),
    "optimizers and moving average": ("adam", "lerp"),
    "copies, most of them tiles of Winograd's algorithm": ("aten::copy_", "aten::add_", "aten::fill_"),
}
"""Parts of the names of PyTorch's operations."""


def training(device: torch.device, ngf: int, size: int) -> Variants:
    """A training step of CycleGAN at batch size 1."""
    config = TrainConfig.from_preset("paper", dataroot="", ngf=ngf, n_blocks=6, crop_size=size, load_size=size)
    state, step, amp = build_state(config, device), plain.cyclegan_step(config, device), use_bfloat16("auto", device)
    real_x, real_y = (torch.rand(1, 3, size, size, device=device) * 2 - 1 for _ in "xy")
    x, y = to_device(real_x, device), to_device(real_y, device)
    return lambda: step(real_x, real_y), lambda: train_step(state, x, y, config, amp)


def translation(device: torch.device, size: int) -> Variants:
    """One picture through the bundled generator; ours adds a margin of 12 px on each side."""
    generator, network = to_device(load_generator(), device), plain.cyclegan_generator(32, 6).to(device)
    picture = torch.rand(1, 3, size * 3 // 4, size, device=device)
    return inference(network, picture), lambda: translate(picture, generator, draft=False)


def johnson(device: torch.device, size: int) -> Variants:
    """One picture through a bundled style; ours adds a margin of 32 px on each side."""
    ours, network = to_device(load_network(), device), plain.johnson_network(32, 5).to(device)
    picture = torch.rand(1, 3, size * 3 // 4, size, device=device)
    return inference(network, picture), lambda: stylize(picture, ours)


def inference(network: torch.nn.Module, picture: torch.Tensor) -> Callable[[], object]:
    return torch.inference_mode()(lambda: network(picture * 2 - 1) / 2 + 0.5)


def gatys(device: torch.device, size: int) -> Variants:
    """The loss and its gradient, with the compact network."""
    config = StylizeConfig()
    network = build_network(config, device)
    picture = torch.rand(1, 3, size * 3 // 4, size, device=device)
    grams = gram_matrices(network, picture, config.style_layers)
    objective = Objective(network, picture, [Region(None, grams)], config)
    step = plain.gatys_step(plain.vgg(network), picture, grams, config.content_layer)
    return lambda: step(picture), lambda: objective(picture)


def loading(folder: Path, samples: int) -> Variants:
    """Pairs of pictures without workers; ours caches decoded pictures, as training does."""
    paths = write_pictures(folder)

    def repeat(loader: DataLoader[object]) -> Iterator[object]:
        while True:
            yield from loader

    slow = repeat(DataLoader(plain.Pictures(paths), shuffle=True))
    fast = our_loader(paths, "paper", cached=True, workers=0)
    return lambda: list(islice(slow, samples)), lambda: list(islice(fast, samples))


def account(run: Callable[[], object]) -> str:
    """Where the time of a call goes, by kind of operation."""
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
        run()
    times: Counter[str] = Counter()
    for event in profiler.key_averages():
        kind = next((kind for kind, parts in KINDS.items() if any(part in event.key for part in parts)), "the rest")
        times[kind] += event.self_cpu_time_total
    total = sum(times.values())
    return table(["operation", "share of the time"], [(kind, f"{t / total:.0%}") for kind, t in times.most_common()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--ngf", type=int, nargs="+", default=[32, 64], help="widths of the trained generators")
    parser.add_argument("--crop-size", type=int, default=128, help="of training")
    parser.add_argument("--size", type=int, default=512, help="longer side of a picture; half of it for Gatys")
    parser.add_argument("--matrix", type=int, default=1536, help="side of the matrices of the ceiling")
    parser.add_argument("--samples", type=int, default=60, help="of the loader, per round")
    parser.add_argument("--readme", type=Path, default=README, help="file to write the tables into")
    given = parser.parse_args()
    device = choose_device(given.device)
    machine = describe_machine(device)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    product, product_flops = matrix_product(device, given.matrix)
    rows = []

    def compare(name: str, variants: Variants, rounds: int) -> None:
        with FlopCounterMode(display=False) as counter:
            variants[0]()
        flops = counter.get_total_flops()
        seconds = alternate({"plain": variants[0], "ours": variants[1], "ceiling": product}, rounds, clock)
        plain_time, our_time, ceiling_time = (statistics.median(values) for values in seconds.values())
        shares = [f"{flops / t / (product_flops / ceiling_time):.0%}" if flops else "" for t in (plain_time, our_time)]
        rows.append(
            (name, spread(seconds["plain"]), spread(seconds["ours"]), f"**{plain_time / our_time:.2f}**", *shares)
        )
        print(" | ".join(rows[-1]), flush=True)

    accounts = []
    for ngf in given.ngf:
        variants = training(device, ngf, given.crop_size)
        # A step of a wide network takes long, and varies less.
        compare(
            f"CycleGAN, training step, ngf {ngf}", variants, given.rounds if ngf < 64 else max(1, given.rounds // 2)
        )
        accounts.append(f"A training step with ngf {ngf}:\n\n{account(variants[1])}")
    height = given.size * 3 // 4
    compare(f"CycleGAN, translation, {given.size} x {height} px", translation(device, given.size), given.rounds)
    compare(f"Johnson, {given.size} x {height} px", johnson(device, given.size), given.rounds)
    name = f"Gatys, loss and gradient, {given.size // 2} x {height // 2} px"
    compare(name, gatys(device, given.size // 2), given.rounds)
    with tempfile.TemporaryDirectory() as folder:
        compare(f"loader, {given.samples} samples", loading(Path(folder), given.samples), given.rounds)

    header = ["", "plain reading", "ours", "times as fast", "plain, of the ceiling", "ours, of the ceiling"]
    command = shlex.join(["python", "benchmarks/bench.py", *sys.argv[1:]])
    parts = [
        f"`{command}`: {machine} Crops of {given.crop_size} px, 6 residual blocks."
        f" {'Processor' if device.type == 'cpu' else 'Elapsed'} time: median and range.",
        table(header, rows),
        *accounts,
    ]
    write_section("bench", "\n\n".join(parts), given.readme)


if __name__ == "__main__":
    main()
