"""A layer that restores the local colors of the photograph, which instance normalization discards."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from stylekit.pictures.color import local_mean, luma

DARK = 0.2  # Brightness, from 0 for black to 1 for white, below which strokes fade.


class KeepColors(nn.Module):
    """Moves the local colors of a painting toward those of its photograph.

    A photograph and its copy in other colors can have the same normalized features, so a network has to guess how
    bright, warm and vivid the picture was. This layer adds a fraction of the blurred difference between photograph and
    painting. The blur is as wide as a stroke, so strokes and contours remain.

    Normalization also amplifies the faint noise of black areas to blotches. If `black` is given, the photograph
    replaces the painting there.

    Shape: (B, 3, H, W), twice -> the same, which may exceed the range of both.

    Args:
        amount: Fraction of the difference, in [0, 1]: 0 keeps the colors of the painting, 1 those of the photograph.
        black: Value of a black pixel, such as -1 or 0; that of a white pixel is 1. None keeps the painting everywhere.
    """

    def __init__(self, amount: float, black: float | None) -> None:
        super().__init__()
        if not 0 <= amount <= 1:
            raise ValueError(f"expected keep_colors in [0, 1], got {amount}")
        self.amount = amount
        self.black = black

    def forward(self, painting: Tensor, photograph: Tensor) -> Tensor:
        kept = painting + self.amount * _blur(photograph - painting)
        return kept if self.black is None else photograph.lerp(kept, _light(photograph, self.black))


def _light(photograph: Tensor, black: float) -> Tensor:
    """Weight of the painting, (B, 1, H, W): 0 in black areas, 1 near anything brighter than `DARK`."""
    brightness = (luma(photograph) - black) / (1 - black)
    brightest = functional.max_pool2d(brightness, 9, stride=1, padding=4)
    return (_blur(brightest, 9) / DARK).clamp(max=1)


def _blur(x: Tensor, width: int = 17) -> Tensor:
    """Two box blurs of this odd width; at the border, means of the pixels inside the picture."""
    return local_mean(local_mean(x, width), width)
