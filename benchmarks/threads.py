"""Seconds per training step with one thread, with all threads, and with idle threads that sleep (the default of
commands).

    python benchmarks/threads.py

OpenMP's idle threads spin by default. On a machine with other work they take time from the threads they wait for. Each
setting runs in its own process; settings take turns, first on an idle machine, then beside one busy core.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

WORKER = """
import sys, time, torch
sys.path.insert(0, sys.argv[1])
from cyclegan.options import TrainConfig
from cyclegan.train import build_state, train_step
from stylekit.devices import set_threads, to_device

set_threads(int(sys.argv[2]))
config = TrainConfig.from_preset("paper", dataroot="", ngf=32, n_blocks=6, crop_size=128, load_size=143)
state = build_state(config, torch.device("cpu"))
x, y = (to_device(torch.rand(1, 3, 128, 128) * 2 - 1, "cpu") for _ in "xy")
for _ in sys.stdin:
    start = time.perf_counter()
    train_step(state, x, y, config)
    print(time.perf_counter() - start, flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    settings = {
        "1 thread": (1, {}),
        f"{cores} threads, spinning": (cores, {}),
        f"{cores} threads, OMP_WAIT_POLICY=PASSIVE": (cores, {"OMP_WAIT_POLICY": "PASSIVE"}),
    }
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    workers = {}
    for name, (threads, variables) in settings.items():
        command = [sys.executable, "-c", WORKER, str(Path(__file__).parent.parent), str(threads)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        workers[name] = subprocess.Popen(command, env=clean | variables, **pipes)

    def measure(title: str) -> None:
        seconds: dict[str, list[float]] = {name: [] for name in workers}
        for i in range(rounds + 1):
            for name, worker in workers.items():
                worker.stdin.write("\n")
                worker.stdin.flush()
                elapsed = float(worker.stdout.readline())
                if i:  # The first step chooses algorithms and fills caches.
                    seconds[name].append(elapsed)
        one = statistics.median(seconds["1 thread"])
        for name, values in seconds.items():
            median = statistics.median(values)
            ranges = f"{min(values):.3f} to {max(values):.3f}"
            print(f"{title}: {name:38} median {median:.3f} s ({ranges}), {one / median:.2f} x 1 thread", flush=True)

    measure("idle machine")
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        measure("beside one busy core")
    finally:
        busy.kill()
        for worker in workers.values():
            worker.kill()


if __name__ == "__main__":
    main()
