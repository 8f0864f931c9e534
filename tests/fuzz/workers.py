"""Processes with limits that read damaged files for `make fuzz`."""

from __future__ import annotations

import multiprocessing
import resource
import time
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection

import psutil
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import HypothesisWarning

from fuzz.targets import TARGETS, File, Verdict, judge

SECONDS = 5
"""Processor time of an example."""
PATIENCE = 120
"""Seconds on the clock after which an example is stuck. A busy machine may need a multiple of the processor time."""
MEMORY = 2**30
"""Bytes of address space that an example may add to those of a process that is ready."""


def examples(kind: str, number: int, count: int) -> Iterator[tuple[File, Verdict, str]]:
    """Examples from one process, until they are done or it has died."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, kind, number, count), daemon=True)
    process.start()
    theirs.close()
    file = None
    try:
        while (received := ours.recv()) is not None:
            file = received
            reason = _wait(ours, process.pid or 0)
            yield (file, "wrong", reason) if reason else (file, *ours.recv())
            if reason:
                return
            file = None
    except EOFError:
        process.join()
        if file is None:
            raise RuntimeError(f"the process ended with {process.exitcode} before it read a file") from None
        yield file, "wrong", f"the process ended with {process.exitcode}"
    finally:
        process.kill()
        process.join()


def _wait(connection: Connection, pid: int) -> str:
    """Wait for an answer; return what went wrong if it takes too long."""
    start, used = time.monotonic(), _processor_time(pid)
    while not connection.poll(0.5):
        if _processor_time(pid) - used > SECONDS:
            return f"took more than {SECONDS} s"
        if time.monotonic() - start > PATIENCE:
            return f"was stuck for {PATIENCE} s"
    return ""


def _processor_time(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0  # It has just died, which the connection tells.
    return times.user + times.system


def _work(connection: Connection, kind: str, number: int, count: int) -> None:
    """In a process: read examples, and send each before and its verdict after it is read."""
    warnings.simplefilter("ignore", HypothesisWarning)  # Of the length of the seeds.
    target = TARGETS[kind]
    files = target.files()
    for _ in range(2):  # What is loaded once does not count as memory of an example.
        judge(target, File("in", b""))
    size = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(files)
    def each(file: File) -> None:
        connection.send(file)
        connection.send(judge(target, file))

    each()
    connection.send(None)
