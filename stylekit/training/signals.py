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


@contextmanager
def children_may_end() -> Iterator[None]:
    """Do nothing on SIGCHLD.

    PyTorch's handler would raise an error for a killed data loading process wherever the main process is: within a
    step, or while a file is written.
    """
    try:
        previous = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    except (ValueError, AttributeError):
        yield  # Not in the main thread, or on Windows: PyTorch has no handler there.
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, previous)


def ignore_signals(worker: int) -> None:
    """For `DataLoader(worker_init_fn=...)`: Ctrl-C reaches all processes of a terminal, but only the main one acts."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
