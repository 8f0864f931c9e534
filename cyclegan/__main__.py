"""The program `cyclegan`, also `python -m cyclegan`."""

import sys

from stylekit.startup import ExitOnInterrupt


def main() -> int:
    """Run the command line; Ctrl-C while it is imported is no traceback."""
    with ExitOnInterrupt():
        from cyclegan import cli
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
