"""What functions that paint accept as a picture: files, PIL images, NumPy arrays and tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from stylekit.pictures import images

Picture: TypeAlias = Image.Image | str | Path | NDArray[Any]
"""A PIL image, the path of a picture, or an array: (H, W, 3), uint8 or floating-point in [0, 1]."""

_TOLERANCE = 0.01
"""Floating-point values outside [0, 1] by less are rounding errors: bfloat16 has steps of this size."""


def to_batch(
    picture: Picture | Tensor, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    """A picture as (B, 3, H, W), float in [0, 1], on a device.

    Files and PIL images are shown as `images.load` does: upright, in sRGB, on white.

    Args:
        picture: A picture, or a tensor (3, H, W) or (B, 3, H, W) of any floating-point type in [0, 1].

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is damaged, or has another shape, type or range; the message says which.
    """
    if isinstance(picture, Tensor):
        batch = _checked(picture)
    elif isinstance(picture, np.ndarray):
        batch = _from_array(picture)
    elif isinstance(picture, Image.Image):
        batch = images.to_tensor(images.to_rgb(ImageOps.exif_transpose(picture)))
    else:
        batch = images.to_tensor(images.load(picture))
    return batch.to(device, dtype)


def like(picture: Picture | Tensor, painting: Tensor) -> Tensor | Image.Image:
    """A painting, (B, 3, H, W) in [0, 1], as a tensor of the shape, type and device of a tensor, or as a PIL image."""
    if isinstance(picture, Tensor):
        return (painting[0] if picture.ndim == 3 else painting).to(picture)
    return images.to_image(painting)


def _checked(tensor: Tensor) -> Tensor:
    if tensor.ndim not in (3, 4) or tensor.shape[-3] != 3 or not tensor.numel():
        hint = "; use permute(2, 0, 1)" if tensor.ndim == 3 and tensor.shape[2] == 3 else ""
        raise ValueError(f"expected a tensor of shape (3, H, W) or (B, 3, H, W), got {tuple(tensor.shape)}{hint}")
    if not tensor.is_floating_point():
        raise ValueError(f"expected a floating-point tensor in [0, 1], got {tensor.dtype}; use x.float() / 255")
    _check_range(*(value.item() for value in tensor.detach().aminmax()))
    return tensor if tensor.ndim == 4 else tensor[None]


def _from_array(array: NDArray[Any]) -> Tensor:
    if array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise ValueError(f"expected an array of shape (H, W, 3), got {array.shape}")
    if array.dtype == np.uint8:
        return images.to_tensor(Image.fromarray(np.ascontiguousarray(array)))
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"expected an array of uint8 or of floating-point numbers in [0, 1], got {array.dtype}")
    _check_range(float(array.min()), float(array.max()))
    return torch.from_numpy(array.astype(np.float32)).permute(2, 0, 1)[None].clamp(0, 1)


def _check_range(least: float, largest: float) -> None:
    if not (least >= -_TOLERANCE and largest <= 1 + _TOLERANCE):  # False for NaN.
        hint = "; divide by 255" if 2 < largest <= 256 and least > -2 else ""
        raise ValueError(f"expected values in [0, 1], got {least:g} to {largest:g}{hint}")
