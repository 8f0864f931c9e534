"""A folder of photographs as a data set whose every sample is a function of the seed and its index.

Departure from the paper: pictures keep their proportions and are cropped, instead of being squashed to 256 x 256.
"""

from __future__ import annotations

import os
from pathlib import Path

# albumentations would ask PyPI for its newest version at import.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stylekit import images
from stylekit.data import centre_crop, cut, pipeline_from_dict, random_crop, read_pipeline_file


def find_photographs(dataroot: str | Path) -> list[Path]:
    """All pictures in a folder and the folders below it, sorted.

    Raises:
        FileNotFoundError: There is no such folder, or it holds no picture.
    """
    root = Path(dataroot)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}; --dataroot needs a folder with photographs")
    paths = images.find(root)
    if not paths:
        kinds = " ".join(sorted(suffix[1:] for suffix in images.FORMATS))
        raise FileNotFoundError(f"no pictures in {root}; expected photographs ({kinds}), in folders below it or in it")
    return paths


def build_pipeline(augment: str, load_size: int, crop_size: int) -> albumentations.Compose:
    """The augmentation by name ("none", "crop"), or from a file that `albumentations.save` wrote.

    Raises:
        FileNotFoundError: `augment` is neither a name nor a file.
        ValueError: The file holds no pipeline, or one that yields pictures of another size than the crops'.
    """
    if augment == "none":
        return centre_crop(load_size, crop_size)
    if augment == "crop":
        return random_crop(load_size, crop_size)
    saved = read_pipeline_file(Path(augment), ("none", "crop"))
    try:
        return pipeline_from_dict(saved, crop_size)
    except ValueError as error:
        raise ValueError(f"--augment {augment}: {error}") from error


class Photographs(Dataset[tuple[Tensor, Tensor]]):
    """Photographs by index, each cut by a pipeline, (3, crop_size, crop_size) in [0, 1], and noise for it from N(0, 1),
    (1, crop_size, crop_size).

    Sample `i` is the same at every call, in every process. Indices beyond the length are later epochs: `i + len(self)`
    shows the same photograph in another cut, with other noise.

    Args:
        paths: Files; not empty.
        pipeline: Of albumentations; every result must have one size.
        cache: Pictures by path, decoded before, as `stylekit.data.check_pictures` returns them.
    """

    def __init__(
        self,
        paths: list[Path],
        pipeline: albumentations.Compose,
        seed: int = 0,
        cache: dict[Path, Tensor] | None = None,
    ) -> None:
        self.paths = paths
        self.pipeline = pipeline
        self.seed = seed
        self.cache = cache

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        draw = np.random.default_rng((self.seed, index))
        seed = int(draw.integers(2**31))
        photograph = cut(self.paths[index % len(self)], self.pipeline, seed, self.cache)
        noise = draw.standard_normal((1, *photograph.shape[1:]), np.float32)
        return photograph, torch.from_numpy(noise)
