"""Pages made of titled rows of pictures and of a chart of colors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

WIDTH = 1248
"""Width of every part of a page in pixels."""

_GAP = 6
_LETTERS = 16
_CHART = 200


def strip(title: str, pictures: Iterable[Image.Image], across: int) -> Image.Image:
    """A title above rows of square pictures, each whole and centered."""
    side = (WIDTH - _GAP) // across - _GAP
    small = [ImageOps.pad(picture, (side, side), Image.Resampling.LANCZOS, "lightgray") for picture in pictures]
    top = 2 * _LETTERS
    page = Image.new("RGB", (WIDTH, top + -(-len(small) // across) * (side + _GAP)), "white")
    ImageDraw.Draw(page).text((_GAP, _LETTERS // 2), title, "black", ImageFont.load_default(_LETTERS))
    for i, picture in enumerate(small):
        page.paste(picture, (_GAP + i % across * (side + _GAP), top + i // across * (side + _GAP)))
    return page


def color_chart(histograms: Mapping[str, Sequence[int]]) -> Image.Image:
    """Shares of the levels of red, green and blue from dark to bright: the first collection solid, others dotted.

    Args:
        histograms: By name of the collection: counts of the levels of red, then green, then blue.
    """
    page = Image.new("RGB", (WIDTH, _CHART + 4 * _LETTERS), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(_LETTERS)
    shares = {name: np.array_split(np.asarray(counts, dtype=float), 3) for name, counts in histograms.items()}
    shares = {name: [levels / max(levels.sum(), 1) for levels in channels] for name, channels in shares.items()}
    highest = max((levels.max() for channels in shares.values() for levels in channels), default=1)
    width, top = (WIDTH - _GAP) // 3 - _GAP, 2 * _LETTERS
    for channel, color in enumerate(("red", "green", "blue")):
        left = _GAP + channel * (width + _GAP)
        legend = ", ".join(f"{name} {'dotted' if i else 'solid'}" for i, name in enumerate(shares))
        draw.text((left, _LETTERS // 2), f"{color}, from dark to bright: {legend}", "black", font)
        draw.rectangle((left, top, left + width, top + _CHART), outline="lightgray")
        for dotted, channels in enumerate(shares.values()):
            heights = np.interp(np.linspace(0, 1, width), np.linspace(0, 1, len(channels[channel])), channels[channel])
            points = [(left + x, top + _CHART * (1 - y / highest)) for x, y in enumerate(heights.tolist())]
            for start in range(0, width - 4, 12 if dotted else 4):
                draw.line(points[start : start + 6], color, 2)
    return page


def stack(parts: Sequence[Image.Image]) -> Image.Image:
    """Parts of a page below each other."""
    page = Image.new("RGB", (WIDTH, sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        page.paste(part, (0, top))
        top += part.height
    return page
