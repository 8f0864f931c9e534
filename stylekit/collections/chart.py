"""Pages made of titled rows of pictures and of a chart of colors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

WIDTH = 1248
"""Width of every part of a page in pixels."""

_GAP = 6
_LETTERS = 16
_TOP = 2 * _LETTERS
_CHART = 200


def strip(title: str, pictures: Iterable[Image.Image], across: int) -> Image.Image:
    """A title above rows of square pictures, each whole and centered."""
    step = (WIDTH - _GAP) // across
    small = [ImageOps.pad(picture, (step - _GAP, step - _GAP), color="lightgray") for picture in pictures]
    page, _ = _titled(title, _TOP + -(-len(small) // across) * step)
    for i, picture in enumerate(small):
        page.paste(picture, (_GAP + i % across * step, _TOP + i // across * step))
    return page


def color_chart(histograms: Mapping[str, Sequence[int]]) -> Image.Image:
    """Shares of the levels of red, green and blue from dark to bright: the first collection solid, others dotted.

    Args:
        histograms: By name of the collection: counts of the levels of red, then green, then blue.
    """
    legend = ", ".join(f"{name} {'dotted' if i else 'solid'}" for i, name in enumerate(histograms))
    page, draw = _titled(f"red, green and blue, from dark to bright: {legend}", _TOP + _CHART + _LETTERS)
    shares = [np.reshape(counts, (3, -1)) / max(sum(counts) / 3, 1) for counts in histograms.values()]
    highest = max((levels.max() for levels in shares), default=1)
    width = (WIDTH - _GAP) // 3 - _GAP
    for channel, color in enumerate(("red", "green", "blue")):
        left = _GAP + channel * (width + _GAP)
        draw.rectangle((left, _TOP, left + width, _TOP + _CHART), outline="lightgray")
        for dotted, levels in enumerate(shares):
            heights = np.interp(np.linspace(0, 1, width), np.linspace(0, 1, levels.shape[1]), levels[channel])
            points = [(left + x, _TOP + _CHART * (1 - y / highest)) for x, y in enumerate(heights.tolist())]
            for start in range(0, width - 4, 12 if dotted else 4):
                draw.line(points[start : start + 6], color, 2)
    return page


def stack(parts: Sequence[Image.Image]) -> Image.Image:
    """Parts of a page below each other."""
    page = Image.new("RGB", (WIDTH, sum(part.height for part in parts)), "white")
    for i, part in enumerate(parts):
        page.paste(part, (0, sum(above.height for above in parts[:i])))
    return page


def _titled(title: str, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    page = Image.new("RGB", (WIDTH, height), "white")
    draw = ImageDraw.Draw(page)
    draw.text((_GAP, _LETTERS // 2), title, "black", ImageFont.load_default(_LETTERS))
    return page, draw
