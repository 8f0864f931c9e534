"""Real-time style transfer (Johnson, Alahi & Fei-Fei 2016): a network learns one style and paints in a single pass.

from johnson.stylize import load_network, stylize
from johnson.train import train
from johnson.options import TrainConfig
"""

from stylekit import __version__ as __version__
