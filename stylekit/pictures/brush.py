"""Paint a photograph with brush strokes: a draft, which a network can finish.

Layers of curved strokes, broad to fine, each stroke of one color (Haeberli 1990; Hertzmann 1998, "Painterly rendering
with curved brush strokes of multiple sizes"). Finer layers paint only where the picture still differs from the
photograph. Strokes follow edges, in flat regions those around (Kang et al. 2007), and end at them (Litwinowicz 1997).

We depart from Hertzmann in three ways. Strokes are traced all at once, in both directions from their seeds. The
distance to the next edge limits their widths, so that broad strokes leave contours and small objects to narrow ones.
In a layer, strokes that differ most from their surroundings come last.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from stylekit.options import STROKE_SIZES
from stylekit.pictures import images

Photograph = TypeVar("Photograph", Image.Image, NDArray[np.uint8])
_Array: TypeAlias = NDArray[Any]
"""Of float32 where nothing else is said."""

_Points: TypeAlias = NDArray[np.complex64]
"""Points and directions in the plane, as x + iy; the first pixel is the square from 0 to 1 + i."""

_LAYERS = ((27.0, 0.0), (14.0, 5.0), (7.5, 7.0), (4.0, 9.0), (2.0, 12.0))
"""Widths of strokes in pixels for a longer side of 640, and the errors in Lab that call for them."""

_LENGTH = 8  # Largest length of a stroke in widths, on both sides of its seed together.
_STEP = 0.8  # Distance of the points of a stroke, in widths.
_TOLERANCE = 10.0  # Largest difference in Lab between the color under the seed and another one under the stroke.
_RIDGES = 3.0  # From this width on, in the same pixels and in real ones, strokes show the ridges that bristles leave.
_STRIP = 2**16  # Pixels processed at once where each is independent: intermediate results stay small.
_SHIFT = 4  # Fractional bits of the coordinates that OpenCV draws.


class _Seeds(NamedTuple):
    points: _Points  # (N,)
    chance: _Array  # (N, 9), in [-1, 1]: what varies from stroke to stroke.


class _Strokes(NamedTuple):
    points: _Points  # (N, 2 * K + 1); the seed is in the middle.
    ends: NDArray[np.intp]  # (2, N): the number of points before and after the seed.
    widths: _Array  # (N,)
    colors: _Array  # (N, 3), Lab


def draft(photograph: Photograph, *, stroke_size: float = 1.0, seed: int = 0) -> Photograph:
    """Paint a photograph with brush strokes.

    The time grows linearly with the number of pixels: about half a second for 640 x 427 on one core.

    Args:
        photograph: A picture, or an array (H, W, 3) of uint8, RGB.
        stroke_size: Width of the strokes relative to the default, where the broadest ones have 1/24 of the longer side
            and the finest ones 1/320, but at least a pixel.
        seed: The same photograph, size and seed give the same draft.

    Returns:
        The draft: a picture in RGB or an array, as `photograph`, of the same size.

    Raises:
        ValueError: The array has another shape or type, or the stroke size is not within `STROKE_SIZES`.

    Examples:
        >>> draft(Image.new("RGB", (80, 60), "green")).size
        (80, 60)
    """
    if isinstance(photograph, Image.Image):
        return Image.fromarray(draft(np.asarray(images.to_rgb(photograph)), stroke_size=stroke_size, seed=seed))
    if photograph.dtype != np.uint8 or photograph.ndim != 3 or photograph.shape[2] != 3 or not photograph.size:
        raise ValueError(f"expected an array (H, W, 3) of uint8, got {photograph.shape} of {photograph.dtype}")
    least, largest = STROKE_SIZES
    if not least <= stroke_size <= largest:
        raise ValueError(f"stroke size must be in [{least:g}, {largest:g}], got {stroke_size}")
    rng = np.random.default_rng(seed)
    unit = stroke_size * max(photograph.shape[:2]) / 640
    lab = _to_lab(photograph)
    flow = _flow(lab, unit, rng)
    drift = _noise(lab.shape[:2], 60 * unit, rng)
    lab = _enrich(lab, drift, unit)
    canvas = _blur(photograph, _LAYERS[0][0] * unit)
    # In a small picture, the finest strokes are one pixel wide.
    layers = [(width * unit, error) for width, error in _LAYERS if width * unit >= 1] or [(1.0, 0.0)]
    for width, error in tqdm(layers, "strokes", unit="layer", delay=1, leave=False, disable=None):
        room = _room(lab, width)
        reference = _blur(lab, max(0.4, 0.3 * width))
        narrowest = (0.3 if width == layers[-1][0] else 0.55) * width
        seeds = _place(canvas, reference, width, error, room > narrowest, rng)
        if seeds.points.size:
            strokes = _trace(seeds, reference, flow, width, room)
            colors = _vary(strokes, seeds, drift, 0.55 + 0.45 * width / layers[0][0])
            _draw(canvas, strokes, colors, seeds if width >= _RIDGES * max(1, unit) else None)
        del reference, room  # Before those of the next layer are made.
    return canvas


def _flow(lab: _Array, unit: float, rng: np.random.Generator) -> _Points:
    """Direction of strokes at every pixel, (H, W), as complex numbers of length 1.

    Structure tensors over larger and larger neighborhoods: each one answers where the smaller ones see no edges. Where
    none does, strokes are horizontal. Slow waves turn them in flat regions, pale ones less.
    """
    noise, shape = 1 / unit**2, lab.shape[:2]
    tensor = np.empty_like(lab)
    for rows, *parts in _structure(lab, 1.5 * unit):
        tensor[rows] = np.dstack(parts)
    double, rest = np.zeros((*shape, 2), np.float32), np.ones((*shape, 1), np.float32)
    for radius in (4, 12, 36, 108, 324):
        blurred = _blur(tensor, radius * unit)
        for rows in _strips(lab):
            xx, xy, yy = np.split(blurred[rows], 3, axis=2)
            energy = xx + yy
            vector = np.dstack([xx - yy, 2 * xy]) / (energy + 1e-6)
            sure = np.hypot(vector[..., :1], vector[..., 1:]) * energy / (energy + 0.25 * noise)
            double[rows] += rest[rows] * sure * vector
            rest[rows] *= 1 - sure
        del blurred
    double[..., :1] -= 0.4 * rest
    energy = _blur(tensor[..., 0] + tensor[..., 2], 6 * unit)
    del tensor, rest
    pale = _blur((lab[..., 0] / 40 - 1.25).clip(0, 1), 12 * unit)
    waves, flow = _noise(shape, 140 * unit, rng), np.empty(shape, np.complex64)
    for rows in _strips(lab):
        wave = (0.5 - 0.35 * pale[rows]) * waves[rows] * noise / (noise + 2 * energy[rows])
        # The tensor gives twice the angle of the gradient, and strokes are perpendicular to it.
        angle = 0.5 * np.arctan2(double[rows, :, 1], double[rows, :, 0]) + np.pi / 2 + wave
        flow[rows] = np.exp(1j * angle)
    return flow


def _enrich(lab: _Array, drift: _Array, unit: float) -> _Array:
    """Colors pulled away from those around them; darks turn to blue or green, and are light enough to show it."""
    rich = _blur(lab, 24 * unit)
    for rows in _strips(lab):
        part = lab[rows] + np.array([0.15, 0.4, 0.4], np.float32) * (lab[rows] - rich[rows])
        dark = (1 - part[..., 0] / 35).clip(0, 1)
        tint = 10 * dark * np.exp(1j * (0.9 * np.tanh(drift[rows]) - 2.2))
        part += np.dstack([8 * dark, tint.real, tint.imag])
        part[..., 0] = part[..., 0].clip(0, 100)
        rich[rows] = part
    return rich


def _room(lab: _Array, width: float) -> _Array:
    """The widest stroke at every pixel, (H, W), that does not cross an edge that is strong at this scale (Canny)."""
    dx, dy = np.empty((2, *lab.shape[:2]), np.int16)
    scale = 64 * max(1, 0.45 * width)  # Canny reads integers; a wider blur makes gradients smaller.
    for rows, xx, xy, yy in _structure(lab, max(0.7, 0.22 * width)):
        dx[rows], dy[rows] = scale * np.sqrt(xx), scale * np.copysign(np.sqrt(yy), xy)
    edges = cv2.Canny(dx, dy, 10 * 64, 25 * 64, L2gradient=True)
    del dx, dy
    room = cv2.distanceTransform(255 - edges, cv2.DIST_L2, 3)
    for rows in _strips(lab):
        # Without any edge, the distance is the largest float.
        room[rows] = (2 * np.minimum(room[rows], 1e6) - 0.5).clip(1)
    return room


def _place(
    canvas: _Array, reference: _Array, width: float, threshold: float, allowed: _Array, rng: np.random.Generator
) -> _Seeds:
    """Place seeds where the canvas differs from the photograph, in the order of drawing.

    Chance belongs to the cells of a grid, so that strokes which two frames of a video have in common are alike.
    """
    height, breadth = reference.shape[:2]
    error: _Array = np.empty((height, breadth), np.float32)
    for rows in _strips(reference):
        error[rows] = _length(reference[rows] - _to_lab(canvas[rows]))
    # A stroke that mends a pixel may cover its neighbors, which are painted again then.
    error = _blur(error, max(0.5, 0.5 * width))
    error = cv2.dilate(error, np.ones((3, 3), np.uint8))
    gap = max(1.0, 0.75 * width)
    y, x = (side.ravel() for side in np.mgrid[gap / 2 : height : gap, gap / 2 : breadth : gap])
    chance = rng.random((x.size, 9), np.float32) * 2 - 1
    x = (x + 0.5 * gap * chance[:, 0]).clip(0.5, breadth - 0.5)
    y = (y + 0.5 * gap * chance[:, 1]).clip(0.5, height - 0.5)
    points = (x + 1j * y).astype(np.complex64)
    chosen = np.flatnonzero((_at(error, points) >= threshold) & _at(allowed, points))
    # What differs most from its surroundings comes last: thin branches are drawn over the sky.
    distinct = _length(_at(reference, points[chosen]) - _at(_blur(reference, 2 * width), points[chosen]))
    order = chosen[np.argsort(distinct + 5 * chance[chosen, 2], kind="stable")]
    return _Seeds(points[order], chance[order])


def _trace(seeds: _Seeds, reference: _Array, flow: _Points, width: float, room: _Array) -> _Strokes:
    """Follow the flow from all seeds at once, until the stroke is long enough or the color changes."""
    height, breadth = reference.shape[:2]
    number, half = seeds.points.size, round(_LENGTH / _STEP / 2)
    widths = (width * (0.95 + 0.3 * seeds.chance[:, 3])).clip(1, _at(room, seeds.points))
    lengths = half * (0.65 + 0.5 * seeds.chance[:, 4])
    # Strokes with space around them are less parallel.
    space = (_at(room, seeds.points) / width - 1).clip(0, 1)
    turn = np.exp(0.3j * space * seeds.chance[:, 1]).astype(np.complex64)
    first = _at(reference, seeds.points)
    colors = first.copy()
    points = np.repeat(seeds.points[:, None], 2 * half + 1, 1)
    ends = np.zeros((2, number), np.intp)
    for side, sign in enumerate((-1, 1)):
        point, direction = seeds.points, sign * turn * _at(flow, seeds.points)
        alive = np.ones(number, bool)
        for i in range(1, half + 1):
            # Directions of strokes have no sign: turn by less than a right angle, and not abruptly.
            ahead = turn * _at(flow, point)
            ahead = np.where((ahead * direction.conj()).real < 0, -ahead, ahead)
            direction = 0.65 * ahead + 0.35 * direction
            direction /= np.abs(direction)
            target = point + _STEP * width * direction
            alive &= (i <= lengths) & (target.real >= 0) & (target.real < breadth)
            alive &= (target.imag >= 0) & (target.imag < height)
            target = np.where(alive, target, point)
            color = _at(reference, target)
            alive &= (_length(color - first) < _TOLERANCE) & (_at(room, target) > 0.5 * widths)
            point = np.where(alive, target, point)
            points[:, half + sign * i] = point
            ends[side] += alive
            colors += color * alive[:, None]
    return _Strokes(points, ends, widths, colors / (1 + ends.sum(0))[:, None])


def _vary(strokes: _Strokes, seeds: _Seeds, drift: _Array, amount: float) -> NDArray[np.uint8]:
    """Colors of strokes, (N, 3) in RGB: lighter and warmer or darker and cooler, of close hues, more or less vivid.

    Hues of neighbors are similar. White and gray stay what they are.
    """
    lightness, a, b = strokes.colors.T
    amount = amount * np.clip(lightness / 20, 0, 1) * np.clip((99 - lightness) / 14, 0, 1)
    lighter, turn, vivid = 1.7 * seeds.chance[:, 5:8].T
    turn = 0.6 * turn + 0.4 * _at(drift, seeds.points).clip(-1.7, 1.7)
    chroma = a + 1j * b
    # The hue of a vivid color turns by a smaller angle: blue must not become magenta.
    turn = 0.35 * amount * turn * np.minimum(1, 35 / np.maximum(np.abs(chroma), 1))
    chroma = chroma * (1 + 0.15 * amount * vivid) * np.exp(1j * turn)
    lighter = 6 * amount * lighter
    varied = np.stack([lightness + lighter, chroma.real, chroma.imag + 0.6 * lighter], 1)
    rgb = cv2.cvtColor(varied[None].astype(np.float32), cv2.COLOR_LAB2RGB)[0]
    return np.rint(rgb.clip(0, 1) * 255).astype(np.uint8)


def _draw(canvas: NDArray[np.uint8], strokes: _Strokes, colors: NDArray[np.uint8], ridges: _Seeds | None) -> None:
    """Draw strokes, with a lighter and a darker ridge along each one if `ridges` says how strong they are."""
    outlines, shades = [_outlines(strokes)], [colors]
    if ridges is not None:
        # White has none, and darks have weak ones.
        contrast = 20 * np.minimum(colors.mean(1) / 90, 1) * np.minimum((255 - colors.max(1)) / 30, 1)
        contrast *= ridges.chance[:, 8]
        for sign in (1, -1):
            outlines.append(_outlines(strokes._replace(widths=0.28 * strokes.widths), 0.22 * sign * strokes.widths))
            shades.append(np.rint((colors + sign * contrast[:, None]).clip(0, 255)).astype(np.uint8))
    polygons = np.stack(outlines, 1).reshape(-1, *outlines[0].shape[1:])
    for polygon, color in zip(polygons, np.stack(shades, 1).reshape(-1, 3).tolist(), strict=True):
        cv2.fillPoly(canvas, [polygon], color, cv2.LINE_AA, _SHIFT)


def _outlines(strokes: _Strokes, shift: _Array | None = None) -> NDArray[np.int32]:
    """Polygons around strokes, (N, M, 2): round where the brush is put down, thin where it is lifted."""
    points, ends, widths, _ = strokes
    before, after, wide = ends[0][:, None], ends[1][:, None], widths[:, None]
    half = points.shape[1] // 2
    index = np.arange(-half - 1, half + 2)
    inside = index.clip(-before, after)
    along = np.gradient(points, axis=1)
    along /= np.maximum(np.abs(along), 1e-6)
    points, along = (np.take_along_axis(values, inside + half, 1) for values in (points, along))
    position = (inside + before + 0.35) / (before + after + 0.7)
    profile = np.sqrt((1 - np.abs(2 * position - 0.85) ** 3).clip(0.1))
    # Tips.
    beyond = np.sign(index - inside)
    points = points + 0.3 * wide * beyond * along
    profile = np.where(beyond, 0.4, 1) * profile
    if shift is not None:
        points = points + 1j * along * shift[:, None]
    # OpenCV adds half a pixel on all sides.
    offset = 1j * along * (0.5 * wide * profile - 0.5).clip(0)
    outline = np.concatenate([points + offset, (points - offset)[:, ::-1]], 1)
    # OpenCV puts the center of the first pixel at 0.
    return np.rint((np.stack([outline.real, outline.imag], 2) - 0.5) * 2**_SHIFT).astype(np.int32)


def _structure(lab: _Array, sigma: float) -> Iterator[tuple[Any, ...]]:
    """Structure tensor of a color picture (Di Zenzo 1986) by strips: rows, and xx, xy, yy in squared Lab per pixel."""
    smooth = _blur(lab, sigma)
    for rows in _strips(lab):
        above = min(rows.start, 1)
        around = smooth[rows.start - above : rows.stop + 1]
        dx, dy = (cv2.Sobel(around, cv2.CV_32F, *order, scale=1 / 8) for order in ((1, 0), (0, 1)))
        dx, dy = (side[above : above + rows.stop - rows.start] for side in (dx, dy))
        yield rows, _dot(dx, dx), _dot(dx, dy), _dot(dy, dy)


def _strips(field: _Array) -> Iterator[slice]:
    """Ranges of rows with about `_STRIP` pixels each."""
    height, width = field.shape[:2]
    step = max(1, _STRIP // width)
    return (slice(top, min(height, top + step)) for top in range(0, height, step))


def _noise(shape: tuple[int, ...], scale: float, rng: np.random.Generator) -> _Array:
    """Smooth noise, (H, W), of variance about 1; `scale` is the width of its waves in pixels."""
    height, width = shape
    grid = rng.standard_normal((int(height / scale) + 3, int(width / scale) + 3)).astype(np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)


def _blur(picture: _Array, sigma: float) -> _Array:
    """Gaussian blur, at a lower resolution if it is wide, so that the cost does not depend on sigma."""
    height, width = picture.shape[:2]
    small = tuple(max(1, round(side / max(1, sigma / 2))) for side in (width, height))
    if small != (width, height):
        picture = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
    sigmas = (min(sigma * after / before, 2 * after) for after, before in zip(small, (width, height), strict=True))
    picture = cv2.GaussianBlur(picture, (0, 0), next(sigmas), sigmaY=next(sigmas), borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR) if small != (width, height) else picture


def _at(field: _Array, points: _Points) -> _Array:
    """Values of a field (H, W, ...) at the pixels of points (N,)."""
    return field[points.imag.astype(np.intp), points.real.astype(np.intp)]


def _dot(a: _Array, b: _Array) -> _Array:
    return np.einsum("...c,...c->...", a, b)


def _length(vectors: _Array) -> _Array:
    return np.sqrt(_dot(vectors, vectors))


def _to_lab(pixels: NDArray[np.uint8]) -> _Array:
    lab = np.empty(pixels.shape, np.float32)
    for rows in _strips(pixels):
        lab[rows] = cv2.cvtColor(pixels[rows].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return lab
