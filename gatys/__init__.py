"""Neural style transfer (Gatys, Ecker & Bethge 2016): an image is optimized for VGG content and style losses.

from gatys.styles import load_preset
from gatys.stylize import StylizeConfig, stylize
"""

from stylekit import __version__ as __version__
