"""The program `johnson`, also `python -m johnson`."""

import sys

from stylekit.interrupt import ExitOnInterrupt


def main() -> int:
    """Run the command line; Ctrl-C while it is imported is no traceback."""
    with ExitOnInterrupt():
        from johnson import cli
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
