"""The step that gives a painting the local colors of its photograph, which instance normalization loses."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from stylekit.pictures.color import local_mean, luma

DARK = 0.2  # Brightness, from 0 for black to 1 for white, below which strokes fade.


class KeepColors(nn.Module):
    """Gives a painting the local colors of its photograph, which instance normalization loses, and its black.

    A photograph and its copy in other colors can have the same normalized features, so that a network has to guess how
    bright, how warm and how vivid a picture was. This adds a part of the difference between the means of both over the
    width of a stroke. It is the same on both sides of a contour, so strokes and contours stay.

    Normalization also turns the faint noise of black areas into blotches, so the photograph shows through there, on
    request.

    Shape: (B, 3, H, W), twice -> the same, which may exceed the range of both.

    Args:
        amount: From 0, the colors of the painting, to 1, those of the photograph.
        black: The value of black, where the photograph shows through; white is 1. None: it does so nowhere.
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
    """From 0 where all is black to 1 near anything that is brighter than `DARK`, (B, 1, H, W)."""
    brightness = (luma(photograph) - black) / (1 - black)
    brightest = functional.max_pool2d(brightness, 9, stride=1, padding=4)
    return (_blur(brightest, 9) / DARK).clamp(max=1)


def _blur(x: Tensor, width: int = 17) -> Tensor:
    """Mean of the pixels around each, weighted by a pyramid of twice this odd width; of those in the picture only."""
    return local_mean(local_mean(x, width), width)
