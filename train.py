"""Train a CycleGAN: `python train.py --dataroot DIR --name NAME`, or the same under torchrun."""

import sys

from cyclegan.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main())
