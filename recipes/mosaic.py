"""Draw a mosaic of a sunset over the sea, a style of our own: `python recipes/mosaic.py mosaic.png`."""

from __future__ import annotations

import sys

import numpy as np
from PIL import Image
from scipy.spatial import cKDTree

HEIGHT, WIDTH, TILE = 760, 960, 17

PALETTE = {
    "sky": ((24, 44, 110), (60, 96, 170), (214, 108, 84), (246, 172, 74)),
    "sun": ((255, 226, 120), (255, 202, 72), (250, 176, 54)),
    "sea": ((16, 74, 110), (28, 116, 140), (54, 158, 160), (236, 170, 88)),
    "land": ((40, 66, 40), (86, 104, 46), (150, 96, 46), (176, 56, 44)),
}
"""Colors of each part, from one end of its gradient to the other."""


def draw() -> Image.Image:
    """Tiles around points that follow the forms, each in one color, with dark grout between them."""
    rng = np.random.default_rng(0)
    points = np.concatenate([_rings(rng), _rows(rng)])
    colors = np.array([_color(x, y, rng) for x, y in points])
    grid = np.stack(np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), axis=-1).reshape(-1, 2)
    distances, tiles = cKDTree(points).query(grid, k=2)
    # The distance to the border between two tiles is half of the difference.
    grout = np.clip((distances[:, 1] - distances[:, 0]) / 2 - 0.7, 0, 1)[:, None]
    # Glass catches the light: each tile is a little lighter toward its upper left corner.
    shine = ((points[tiles[:, 0]] - grid).sum(1) / TILE)[:, None]
    picture = grout * (colors[tiles[:, 0]] + 9 * shine) + (1 - grout) * np.array([38, 32, 34])
    picture += rng.normal(0, 2, picture.shape)
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8).reshape(HEIGHT, WIDTH, 3))


SUN = np.array([0.64 * WIDTH, 0.36 * HEIGHT])
HORIZON = 0.58 * HEIGHT


def _rings(rng: np.random.Generator) -> np.ndarray:
    """Rings of tiles around the sun, down to the horizon."""
    rings = []
    for n, radius in enumerate(np.arange(0, 1.4 * WIDTH, TILE)):
        count = max(1, round(2 * np.pi * radius / TILE))
        angles = 2 * np.pi * (np.arange(count) / count) + n
        ring = SUN + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        rings.append(ring[(ring[:, 1] < HORIZON) & (ring > -TILE).all(1) & (ring[:, 0] < WIDTH + TILE)])
    points = np.concatenate(rings)
    return points + rng.normal(0, 1.2, points.shape)


def _rows(rng: np.random.Generator) -> np.ndarray:
    """Rows of tiles that follow waves."""
    rows = []
    for n, y in enumerate(np.arange(HORIZON + TILE / 2, HEIGHT + TILE, TILE)):
        x = np.arange(-TILE, WIDTH + TILE, 1.25 * TILE) + (n % 2) * 0.6 * TILE
        rows.append(np.stack([x, y + 6 * np.sin(x / 55 + 0.7 * n)], axis=1))
    points = np.concatenate(rows)
    return points + rng.normal(0, 1.2, points.shape)


def _color(x: float, y: float, rng: np.random.Generator) -> np.ndarray:
    """The color of the tile at a point, with the variation of stone and glass."""
    coast = HORIZON + 0.16 * HEIGHT + 40 * np.sin(x / 130) + 0.12 * (WIDTH / 2 - x)
    hill = HORIZON - 60 * np.exp(-(((x - 150) / 130) ** 2)) - 30 * np.exp(-(((x - 330) / 90) ** 2))
    to_sun = float(np.hypot(x - SUN[0], y - SUN[1]))
    if to_sun < 75:
        part, position = "sun", to_sun / 75
    elif y > coast or hill < y < HORIZON:
        part, position = "land", rng.random()
    elif y < HORIZON:
        part, position = "sky", 1 - to_sun / 560
    else:
        glitter = np.exp(-(((x - SUN[0]) / 90) ** 2)) * (rng.random() < 0.7)
        part, position = "sea", max(glitter, 0.7 * rng.random())
    colors = np.array(PALETTE[part], dtype=float)
    position = np.clip(position + rng.normal(0, 0.12), 0, 1) * (len(colors) - 1)
    low = min(int(position), len(colors) - 2)
    return colors[low] + (position - low) * (colors[low + 1] - colors[low]) + rng.normal(0, 9, 3)


if __name__ == "__main__":
    draw().save(sys.argv[1])
