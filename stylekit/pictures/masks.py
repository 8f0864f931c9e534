"""Where a painting covers its photograph: masks, and faces that are kept."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stylekit.options import Keep
from stylekit.pictures.color import local_mean, luma
from stylekit.pictures.inputs import Picture, to_batch


def paint_weight(photograph: Tensor, mask: Picture | Tensor | None, keep: Keep | None) -> Tensor | float:
    """Weight of the painting at each pixel, (1 or B, 1, H, W) in [0, 1], or 1.0 if nothing is kept.

    Args:
        photograph: (B, 3, H, W) in [0, 1].
        mask: White is painted, black keeps the photograph; a picture or a tensor, also (H, W) and of booleans. Its
            edges are blurred over about a hundredth of the longer side of the photograph.
        keep: "faces" keeps those that `find_faces` finds.

    Raises:
        FileNotFoundError: There is no such mask.
        ValueError: The mask is damaged, or has another shape, type or range; or scikit-image is not installed.
    """
    if mask is None and keep is None:
        return 1.0
    # Blurred masks have no detail that a longer side of 640 pixels loses.
    size = [max(1, round(side * min(1, 640 / max(photograph.shape[2:])))) for side in photograph.shape[2:]]
    resize = functools.partial(functional.interpolate, size=size, mode="bilinear", antialias=True)
    weight = torch.ones(1, 1, *size) if mask is None else resize(_load(mask, len(photograph)))
    if keep is not None:
        rows, columns = torch.arange(size[0])[:, None], torch.arange(size[1])
        weight = weight.repeat(len(photograph) // len(weight), 1, 1, 1)
        for i, picture in enumerate(resize(photograph.float()).cpu()):
            for x, y, width in find_faces(picture):
                radius = torch.hypot((columns - x) / (0.65 * width), (rows - y) / (0.85 * width))
                weight[i] *= (2 * radius - 2).clamp(0, 1)
    blur = max(size) // 200 * 2 + 1
    weight = local_mean(local_mean(weight, blur), blur).to(photograph)
    return functional.interpolate(weight, photograph.shape[2:], mode="bilinear")


def find_faces(picture: Tensor) -> list[tuple[float, float, float]]:
    """Upright frontal faces in a picture (3, H, W), at least 32 pixels wide: center x, center y and width.

    A cascade of local binary patterns (scikit-image) must find a face in the picture and in its mirror image.
    """
    try:
        from skimage import data, feature
    except ModuleNotFoundError as error:
        raise ValueError('finding faces needs scikit-image: pip install "image-translation[faces]"') from error
    cascade = feature.Cascade(data.lbp_frontal_face_cascade_filename())

    def detect(picture: Tensor) -> list[tuple[float, float, float]]:
        pixels, side = picture.movedim(0, 2).contiguous().numpy(), min(picture.shape[1:])
        found = cascade.detect_multi_scale(pixels, 1.15, 1, (32, 32), (side, side), min_neighbor_number=7)
        return [(face["c"] + face["width"] / 2, face["r"] + face["height"] / 2, face["width"]) for face in found]

    mirrored = [(picture.shape[2] - x, y, width) for x, y, width in detect(picture.flip(2))]
    return [face for face in detect(picture) if any(math.dist(face, other) < face[2] / 3 for other in mirrored)]


def _load(mask: Picture | Tensor, count: int) -> Tensor:
    """(1 or `count`, 1, H, W) in [0, 1], on the CPU."""
    if isinstance(mask, np.ndarray | Tensor) and mask.ndim == 2:  # As segmentation networks return them.
        mask = torch.as_tensor(mask)
        mask = (mask / 255 if mask.dtype == torch.uint8 else mask.float()).expand(3, -1, -1)
    try:
        weight = luma(to_batch(mask))
    except ValueError as error:
        raise ValueError(f"mask: {error}") from error
    if len(weight) not in (1, count):
        raise ValueError(f"mask: expected one, or one for each of {count} pictures, got {len(weight)}")
    if 0 < weight.max() < 0.01:
        raise ValueError("mask: nothing is lighter than 2 of 255; expected white (255) where to paint")
    return weight
