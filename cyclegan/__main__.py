"""The program `cyclegan`, also `python -m cyclegan`."""

import sys

from stylekit.startup import ExitOnInterrupt

with ExitOnInterrupt():  # Ctrl-C while it is imported is no traceback.
    from cyclegan.cli import main

if __name__ == "__main__":
    sys.exit(main())
