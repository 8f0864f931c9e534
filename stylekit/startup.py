"""Ctrl-C while a program is imported. Imports next to nothing itself, so that it takes effect early.

Ctrl-C in training is `stylekit.training.signals`.
"""

import os
import signal


class ExitOnInterrupt:
    """Within this context, Ctrl-C ends the process at once, without a traceback and with exit code 130.

    Raising an exception does not reliably abort an import: libraries catch it, or turn it into another one.
    """

    def __enter__(self) -> None:
        self._previous = signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGINT, self._previous)
