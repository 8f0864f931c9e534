"""The program `johnson`, also `python -m johnson`."""

import sys

from stylekit.startup import ExitOnInterrupt

with ExitOnInterrupt():  # Ctrl-C while it is imported is no traceback.
    from johnson.cli import main

if __name__ == "__main__":
    sys.exit(main())
