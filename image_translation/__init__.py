"""The library under one name.

from image_translation import images, load_generator, translate

photograph = images.to_tensor(images.load("photo.jpg"))
images.save(translate(photograph, load_generator()), "van-gogh.jpg")
"""

from cyclegan.models import Generator
from cyclegan.translate import load_generator, translate
from gatys.options import StylizeConfig
from gatys.styles import load_preset
from gatys.stylize import stylize as optimize
from johnson.models import TransformerNet
from johnson.stylize import load_network, stylize
from stylekit import __version__
from stylekit.networks.vgg import VGGFeatures
from stylekit.pictures import images
from stylekit.pictures.brush import draft

__all__ = [
    "Generator",
    "StylizeConfig",
    "TransformerNet",
    "VGGFeatures",
    "__version__",
    "draft",
    "images",
    "load_generator",
    "load_network",
    "load_preset",
    "optimize",
    "stylize",
    "translate",
]
