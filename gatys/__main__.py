"""The program `gatys`, also `python -m gatys`."""

import sys

from stylekit.startup import ExitOnInterrupt

with ExitOnInterrupt():  # Ctrl-C while it is imported is no traceback.
    from gatys.cli import main

if __name__ == "__main__":
    sys.exit(main())
