"""CycleGAN (Zhu et al. 2017): unpaired translation between two collections of pictures.

from cyclegan.translate import load_generator, translate
from cyclegan.train import train
from cyclegan.options import TrainConfig
"""

from stylekit import __version__ as __version__
