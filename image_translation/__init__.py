"""The library under one name.

from image_translation import images, load_generator, translate

photograph = images.to_tensor(images.load("photo.jpg"))
images.save(translate(photograph, load_generator()), "van-gogh.jpg")

Names are imported when they are first used, so this module itself loads nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

from stylekit import __version__ as __version__

if TYPE_CHECKING:
    from cyclegan.models import Generator as Generator
    from cyclegan.translate import load_generator as load_generator
    from cyclegan.translate import translate as translate
    from gatys.options import StylizeConfig as StylizeConfig
    from gatys.styles import load_preset as load_preset
    from gatys.stylize import stylize as optimize  # noqa: F401
    from johnson.models import TransformerNet as TransformerNet
    from johnson.stylize import load_network as load_network
    from johnson.stylize import stylize as stylize
    from stylekit.networks.vgg import VGGFeatures as VGGFeatures
    from stylekit.pictures import images as images
    from stylekit.pictures.brush import draft as draft

_SOURCES = {
    "Generator": "cyclegan.models",
    "StylizeConfig": "gatys.options",
    "TransformerNet": "johnson.models",
    "VGGFeatures": "stylekit.networks.vgg",
    "draft": "stylekit.pictures.brush",
    "images": "stylekit.pictures",
    "load_generator": "cyclegan.translate",
    "load_network": "johnson.stylize",
    "load_preset": "gatys.styles",
    "optimize": "gatys.stylize",
    "stylize": "johnson.stylize",
    "translate": "cyclegan.translate",
}

__all__ = sorted(["__version__", *_SOURCES])


def __getattr__(name: str) -> Any:
    if name not in _SOURCES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Both Gatys' and Johnson's packages have a function `stylize`.
    return getattr(importlib.import_module(_SOURCES[name]), "stylize" if name == "optimize" else name)


def __dir__() -> list[str]:
    return __all__
