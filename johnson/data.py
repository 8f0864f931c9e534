"""A folder of photographs as a data set in which each sample depends only on the seed and its index.

Departure from the paper: pictures keep their aspect ratio and are cropped, instead of being resized to 256 x 256.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

# albumentations would query PyPI for a newer version at import.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stylekit.pictures import images
from stylekit.training.data import load_any_crop


def find_photographs(dataroot: str | Path) -> list[Path]:
    """All pictures in a folder and its subfolders, sorted; FileNotFoundError if there are none."""
    root = Path(dataroot)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}; --dataroot needs a folder with photographs")
    paths = images.find(root)
    if not paths:
        kinds = " ".join(sorted(suffix[1:] for suffix in images.FORMATS))
        raise FileNotFoundError(f"no pictures in {root}; expected photographs ({kinds}) in it or its subfolders")
    return paths


def find_paintings(style: str) -> list[Path]:
    """The pictures of a style: a painting, or those of a folder; none for a preset."""
    path = Path(style)
    if path.is_dir():
        return find_photographs(path)
    return [path] if path.suffix.lower() in images.FORMATS else []


@dataclass(eq=False)
class Photographs(Dataset[tuple[Tensor, Tensor]]):
    """Photographs by index, (3, crop_size, crop_size) in [0, 1], with noise from N(0, 1), (1, crop_size, crop_size).

    Sample `i` is the same at every call and in every process. Indices beyond the length belong to later epochs: `i +
    len(self)` is another crop of the same photograph, with other noise.

    Args:
        paths: Files; not empty.
        pipeline: Augmentation; all outputs must have the same size.
        cache: Decoded pictures by path, as returned by `check_pictures`.
    """

    paths: list[Path]
    pipeline: albumentations.Compose
    seed: int = 0
    cache: dict[Path, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        draw = np.random.default_rng((self.seed, index))
        seed = int(draw.integers(2**31))
        photograph = load_any_crop(self.paths, index, self.pipeline, seed, self.cache)
        noise = draw.standard_normal((1, *photograph.shape[1:]), np.float32)
        return photograph, torch.from_numpy(noise)
