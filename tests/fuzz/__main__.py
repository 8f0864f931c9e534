"""`make fuzz`: many examples of every kind of file, in processes with limits that are replaced when they die."""

from __future__ import annotations

import collections
import os
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm

from fuzz.targets import TARGETS, File, Verdict, judge
from fuzz.workers import examples

CHUNK = 1000
"""Examples for a process at a time."""

Tally = collections.Counter[tuple[str, Verdict]]


@dataclass(frozen=True)
class Options:
    """Read damaged files and count what becomes of them; exit with 1 if anything is wrong."""

    examples: int = 12_000
    """Examples in all, the same number of each kind of file."""

    kinds: tuple[str, ...] = tuple(TARGETS)
    """Kinds of files."""

    jobs: int = os.cpu_count() or 1
    """Processes."""

    seed: int = 0
    """Seed of all examples."""

    output: Path = Path("out/fuzz")
    """Folder for files that show something wrong; it is emptied first."""

    again: Path | None = None
    """Only read a file of an earlier call again, OUTPUT/KIND/NUMBER/NAME."""


def main() -> int:
    """Fuzz, print the tally; return the exit code."""
    options = tyro.cli(Options, prog="fuzz")
    if options.again is not None:
        verdict, text = judge(TARGETS[options.again.parts[-3]], File(options.again.name, options.again.read_bytes()))
        print(f"{verdict}\n{text}")
        return int(verdict == "wrong")
    shutil.rmtree(options.output, ignore_errors=True)
    start = time.monotonic()
    each = options.examples // len(options.kinds)
    chunks = [(kind, first, min(CHUNK, each - first)) for first in range(0, each, CHUNK) for kind in options.kinds]
    tally: Tally = collections.Counter()
    bar = tqdm(total=each * len(options.kinds), unit="example", disable=None)
    with bar, ThreadPoolExecutor(options.jobs) as pool:
        for found in pool.map(lambda chunk: fuzz(*chunk, options, bar), chunks):
            tally += found
    print(f"{'file':24}{'examples':>9}{'fine':>9}{'refused':>9}{'wrong':>9}")
    for kind in [*options.kinds, ""]:
        counts = [
            sum(n for (k, v), n in tally.items() if kind in (k, "") and v == verdict)
            for verdict in ("fine", "refused", "wrong")
        ]
        print(f"{kind or 'all':24}{sum(counts):9}{counts[0]:9}{counts[1]:9}{counts[2]:9}")
    print(f"{time.monotonic() - start:.0f} s")
    if wrong := tally.total() - sum(n for (_, verdict), n in tally.items() if verdict != "wrong"):
        print(f"{wrong} wrong; what shows it: {options.output}")
    return int(bool(wrong))


def fuzz(kind: str, first: int, count: int, options: Options, bar: tqdm[Any]) -> Tally:
    """Read examples of a kind; keep those that are wrong."""
    tally: Tally = collections.Counter()
    done = 0
    while done < count:
        for file, verdict, text in examples(kind, hash((options.seed, first, done)), count - done):
            done += 1
            tally[kind, verdict] += 1
            bar.update()
            if verdict == "wrong":
                folder = options.output / kind / f"{first + done:05d}"
                folder.mkdir(parents=True, exist_ok=True)
                (folder / file.name).write_bytes(file.content)
                (folder / "what.txt").write_text(text)
    return tally


if __name__ == "__main__":
    sys.exit(main())
