"""Ctrl-C, SIGTERM and a closed terminal (SIGHUP) during training: finish the step, save, stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
"""Windows has no SIGHUP."""


@contextmanager
def collect_signals() -> Iterator[list[int]]:
    """Collect `SIGNALS` in a list instead of exiting; a second one has its usual effect."""
    caught: list[int] = []
    previous: dict[signal.Signals, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        signal.signal(number, previous[signal.Signals(number)])

    try:
        for number in SIGNALS:
            if number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) == signal.SIG_IGN:
                continue  # nohup asks to ignore it.
            previous[number] = signal.signal(number, handle)
    except ValueError:
        pass  # Not in the main thread, as in some notebooks, where the host handles signals.
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def ignore_signals(worker: int) -> None:
    """For `DataLoader(worker_init_fn=...)`: Ctrl-C reaches all processes of a terminal, but only the main one acts."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
