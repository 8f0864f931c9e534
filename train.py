"""Train a CycleGAN: `python train.py --dataroot DIR --name NAME`, or the same under torchrun."""

import sys

from stylekit.startup import ExitOnInterrupt

if __name__ == "__main__":
    with ExitOnInterrupt():
        from cyclegan.cli import train_main
    sys.exit(train_main())
