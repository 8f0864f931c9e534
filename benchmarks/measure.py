"""What the benchmarks share: alternate timing, the machine and its ceiling, and tables in README.md."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch

from stylekit.devices import cores

README = Path(__file__).parent / "README.md"


def alternate(
    variants: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each call by variant. Variants take turns, so that other load on the machine affects all of them.

    A first round, which chooses algorithms and fills caches, is not counted.

    Args:
        clock: `time.process_time` counts the time of all threads, but not while other programs have the processor.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for i in range(rounds + 1):
        for name, run in variants.items():
            start = clock()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if i:
                seconds[name].append(clock() - start)
    return seconds


def matrix_product(device: torch.device, side: int) -> tuple[Callable[[], object], float]:
    """A product of two square matrices and its floating-point operations: the ceiling of the machine."""
    a, b = torch.rand(2, side, side, device=device)
    return lambda: torch.mm(a, b), 2.0 * side**3


def spread(seconds: Sequence[float]) -> str:
    """Median and range."""
    return f"{statistics.median(seconds):.3g} s ({min(seconds):.3g} to {max(seconds):.3g})"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def describe_machine(device: torch.device) -> str:
    """The processor, its instruction sets, the number of threads and the version of PyTorch, in one sentence."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    instructions = torch.backends.cpu.get_cpu_capability() + (" and AMX" if torch.cpu._is_amx_tile_supported() else "")
    gpu = f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    load = f", load {os.getloadavg()[0]:.1f} before the start" if hasattr(os, "getloadavg") else ""
    return (
        f"{cores()} cores of {model} ({instructions}){gpu}, {torch.get_num_threads()} thread(s), "
        f"PyTorch {torch.__version__}, Python {platform.python_version()}{load}."
    )


def write_section(name: str, text: str, path: Path = README) -> None:
    """Replace what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.

    Raises:
        ValueError: The file has no such markers.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, found, rest = path.read_text().partition(begin)
    _, also_found, after = rest.partition(end)
    if not (found and also_found):
        raise ValueError(f"{path} has no lines {begin} and {end}")
    path.write_text(f"{before}{begin}\n{text.strip()}\n{end}{after}")
