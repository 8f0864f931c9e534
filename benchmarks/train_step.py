"""Seconds per training step: ours against a textbook loop, and float32 against bfloat16.

    python benchmarks/train_step.py --ngf 32 --n-blocks 6 --crop-size 128

The variants take turns, step by step, in one process, so that other load on the machine affects them equally. The
textbook loop computes the same result: it calls each generator once per purpose and each discriminator once for real
and once for fake pictures, keeps the default memory format, does not fuse Adam, and reads every loss immediately.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from cyclegan.losses import discriminator_loss, generator_loss
from cyclegan.options import TrainConfig
from cyclegan.train import build_state, train_step
from stylekit.devices import choose_device, to_device


def textbook(config: TrainConfig, device: torch.device) -> Callable[[Tensor, Tensor], list[float]]:
    """A training step as tutorials write it."""
    state = build_state(config, device)
    pair = state.generators.to(memory_format=torch.contiguous_format)
    discriminators = state.discriminators.to(memory_format=torch.contiguous_format)
    optimizers = [
        torch.optim.Adam(network.parameters(), config.lr, betas=(0.5, 0.999)) for network in (pair, discriminators)
    ]

    def step(real_x: Tensor, real_y: Tensor) -> list[float]:
        discriminators.requires_grad_(False)
        fake_y, fake_x = pair.G(real_x), pair.F(real_y)
        terms = generator_loss(
            (real_x, real_y),
            (pair.F(fake_y), pair.G(fake_x)),
            (pair.F(real_x), pair.G(real_y)),
            discriminators(fake_x, fake_y),
        )
        optimizers[0].zero_grad()
        sum(terms.values()).backward()
        optimizers[0].step()
        discriminators.requires_grad_(True)
        fakes = state.pool_x(fake_x.detach()), state.pool_y(fake_y.detach())
        terms |= discriminator_loss(discriminators(real_x, real_y), discriminators(*fakes))
        optimizers[1].zero_grad()
        (terms["d_x"] + terms["d_y"]).backward()
        optimizers[1].step()
        return [term.item() for term in terms.values()]

    return step


def ours(config: TrainConfig, device: torch.device, amp: bool) -> Callable[[Tensor, Tensor], object]:
    state = build_state(config, device)
    return lambda real_x, real_y: train_step(state, to_device(real_x, device), to_device(real_y, device), config, amp)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ngf", type=int, default=64)
    parser.add_argument("--n-blocks", type=int, default=9)
    parser.add_argument("--crop-size", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--upsample", default="resize")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile")
    given = parser.parse_args()
    device = choose_device(given.device)
    options = {"ngf": given.ngf, "n_blocks": given.n_blocks, "upsample": given.upsample}
    config = TrainConfig("", **options)
    variants: dict[str, Callable[[Tensor, Tensor], object]] = {
        "textbook, float32": textbook(config, device),
        "ours, float32": ours(config, device, amp=False),
        "ours, bfloat16": ours(config, device, amp=True),
    }
    if given.compile:
        compiled = TrainConfig("", compile=True, **options)
        variants["ours, float32, compiled"] = ours(compiled, device, amp=False)
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for step in range(given.steps + 2):
        real = [torch.rand(given.batch_size, 3, given.crop_size, given.crop_size, device=device) * 2 - 1 for _ in "xy"]
        for name, variant in variants.items():
            start = time.perf_counter()
            variant(*real)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if step >= 2:  # The first steps choose algorithms and fill caches.
                seconds[name].append(time.perf_counter() - start)
    base = statistics.median(seconds["textbook, float32"])
    print(f"{given} on {device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(
            f"{name:26} median {median:.3f} s ({min(values):.3f} to {max(values):.3f}), {base / median:.2f} x textbook"
        )


if __name__ == "__main__":
    main()
