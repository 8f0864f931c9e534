"""Contact sheets: pictures side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from PIL import Image, ImageDraw, ImageFont


def contact_sheet(rows: Iterable[Sequence[Image.Image]], titles: Sequence[str] = (), height: int = 256) -> Image.Image:
    """Arrange pictures in rows of a height in pixels, with a title above each column.

    Strips longer than eight times the height are lower, since the sheet would get too wide.
    """
    scaled = [[_scaled(picture, height) for picture in row] for row in rows]
    if not scaled or not all(scaled):
        raise ValueError("a contact sheet needs at least one picture in every row")
    gap = max(4, height // 32)
    letters = max(10, height // 14)
    font = ImageFont.load_default(size=letters)
    widths = [max(row[i].width for row in scaled if i < len(row)) for i in range(max(map(len, scaled)))]
    for i, title in enumerate(titles[: len(widths)]):
        widths[i] = max(widths[i], math.ceil(font.getlength(title)))
    top = round(letters * 1.8) if titles else gap
    size = (sum(widths) + gap * (len(widths) + 1), top + (height + gap) * len(scaled))
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    lefts = [gap + sum(widths[:i]) + gap * i for i in range(len(widths))]
    for left, title in zip(lefts, titles, strict=False):
        draw.text((left, letters * 0.4), title, fill="black", font=font)
    for i, row in enumerate(scaled):
        for left, width, picture in zip(lefts, widths, row, strict=False):
            page.paste(picture, (left + (width - picture.width) // 2, top + (height + gap) * i))
    return page


def _scaled(picture: Image.Image, height: int) -> Image.Image:
    scale = min(height / picture.height, 8 * height / picture.width)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.LANCZOS)
