"""What the three methods share: networks, pictures and training.

from stylekit.pictures import images            # load, save, to_tensor, to_image
from stylekit.networks.vgg import VGGFeatures   # activations of named VGG layers
"""

__version__ = "0.1.0"
