"""Two folders of unpaired pictures as a data set in which each sample depends only on the seed and its index.

Departure from the authors' code: pictures keep their aspect ratio (the shorter side becomes the load size) instead of
being resized to a square. For square pictures, such as those of the published sets, the result is the same.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

# albumentations would query PyPI for a newer version at import.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations
import cv2
import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cyclegan.options import UnpairedConfig
from stylekit.pictures import images
from stylekit.training.data import (
    VALIDATION_PICTURES,
    center_crop,
    evenly_spaced,
    load_any_crop,
    make_loader,
    pipeline_from_dict,
    random_crop,
    read_pictures,
    read_pipeline_file,
    resize_shorter_side,
)
from stylekit.training.log import print0
from stylekit.training.run import Run

LAYOUTS = ("{split}{domain}", "{split}_{domain}", "{domain}/{split}", "{split}/{domain}")
"""Folders in which a data set may keep the pictures of a split ("train", "test") and a domain ("A", "B")."""


class Pair(NamedTuple):
    """An unpaired sample, or a batch of them: a picture of each domain, in [0, 1]."""

    x: Tensor
    y: Tensor


class Pipelines(NamedTuple):
    """The augmentation of each domain."""

    x: albumentations.Compose
    y: albumentations.Compose

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint, or for a file that `--augment` reads."""
        return {"x": albumentations.to_dict(self.x), "y": albumentations.to_dict(self.y)}


def find_domain(dataroot: str | Path, split: str, domain: str) -> list[Path]:
    """The sorted pictures of a split and a domain; empty if the data set has no such folder."""
    root = Path(dataroot)
    if not root.is_dir():
        raise FileNotFoundError(
            f"no folder {root}; --dataroot needs a folder with trainA and trainB, such as `cyclegan fetch` makes"
        )
    for layout in LAYOUTS:
        folder = root / layout.format(split=split, domain=domain)
        if folder.is_dir():
            return images.find(folder)
    return []


@dataclass
class Data:
    """Training batches and validation pictures."""

    loader: DataLoader[Pair]
    pipelines: Pipelines
    validation_x: list[Path]
    validation_y: list[Path]


def load_data(config: UnpairedConfig, run: Run) -> Data:
    """Read every picture once, to find unreadable ones before training does; cache them if they fit in memory.

    A resumed run keeps its augmentation, whose file may have been moved.
    """
    options, domains = config.data, config.data.domains
    saved = run.saved_entry("pipelines", dict, depends_on=("augment", "load_size", "crop_size"))
    if saved is None:
        pipelines = build_pipelines(options.augment, options.load_size, options.crop_size)
    else:
        pipelines = pipelines_from_dict(saved, options.crop_size)
    paths = [find_training_pictures(options.dataroot, domain) for domain in domains]
    (good_x, good_y), cache = read_pictures(paths, [f" of domain {domain}" for domain in domains])
    data = UnpairedImages(good_x, good_y, pipelines, config.schedule.seed, cache)
    loader = make_loader(data, len(data), config, run.device)
    print0(f"X: {len(good_x)} pictures, Y: {len(good_y)} pictures{', cached in memory' if cache else ''}")
    validation = [
        # Pictures of the test folder, or of the training folder if there is none.
        evenly_spaced(find_domain(options.dataroot, "test", domain) or training, VALIDATION_PICTURES)
        for domain, training in zip(domains, (good_x, good_y), strict=True)
    ]
    return Data(loader, pipelines, *validation)


def load_validation(path: Path, crop_size: int) -> Tensor:
    """A validation picture, (1, 3, H, W) in [0, 1], about as large as the training crops."""
    return images.to_tensor(images.resize(images.load(path), max(256, crop_size)))


def find_training_pictures(dataroot: str | Path, domain: str) -> list[Path]:
    """The training pictures of a domain, "A" or "B"; never none."""
    paths = find_domain(dataroot, "train", domain)
    if not paths:
        kinds = " ".join(sorted(suffix[1:] for suffix in images.FORMATS))
        raise FileNotFoundError(
            f"no pictures in {Path(dataroot) / f'train{domain}'}; expected trainA and trainB with pictures ({kinds})"
        )
    return paths


def build_pipelines(augment: str, load_size: int, crop_size: int) -> Pipelines:
    """Build the augmentation from its name ("none", "paper", ...) or a file saved by `albumentations.save`.

    "detail" ignores `load_size`: it shrinks pictures to between 70 % and 100 %, whatever their size, before it crops.
    Brush strokes keep the width that they have in large pictures.

    A file holds one pipeline for both domains, or one for each as {"x": ..., "y": ...}. Its output must be crop_size x
    crop_size, since all pictures of a batch need the same size.

    Raises:
        FileNotFoundError: `augment` is neither a name nor a file.
        ValueError: The file holds no pipeline, or its output has another size.
    """
    a = albumentations
    if augment in ("none", "paper"):
        crop = center_crop if augment == "none" else random_crop
        return Pipelines(*(crop(load_size, crop_size) for _ in "xy"))
    if augment == "strong":
        # The scale of a zoom is a fraction of the area: cropping a square first makes it the same for every picture,
        # and keeps long strips below the 32,767 px that OpenCV can rotate.
        square = a.RandomCrop(load_size, load_size)
        size, area, cubic = (crop_size, crop_size), (crop_size / load_size) ** 2, cv2.INTER_CUBIC
        scale = (0.7 * area, min(1.0, 1.4 * area))
        zoom = a.RandomResizedCrop(size, scale, (0.9, 1.1), interpolation=cubic, area_for_downscale="image")
        turn = a.Rotate(limit=5, interpolation=cubic, border_mode=cv2.BORDER_REFLECT_101, p=0.5)
        # Paintings keep their colors, which the generators are to learn.
        color = a.ColorJitter((0.8, 1.2), (0.8, 1.2), (0.8, 1.2), (-0.02, 0.02), p=0.8)
        cuts = [resize_shorter_side(load_size), square, turn, zoom, a.HorizontalFlip(p=0.5)]
        return Pipelines(a.Compose([*cuts, color]), a.Compose(cuts))
    if augment == "detail":
        largest = round(crop_size / 0.7)
        cut = a.RandomCrop(largest, largest, pad_if_needed=True, border_mode=cv2.BORDER_REFLECT_101)
        zoom = a.RandomSizedCrop((crop_size, largest), (crop_size, crop_size), area_for_downscale="image")
        return Pipelines(*(a.Compose([cut, zoom, a.HorizontalFlip(p=0.5)]) for _ in "xy"))
    saved = read_pipeline_file(Path(augment), ("none", "paper", "strong", "detail"))
    try:
        return pipelines_from_dict(saved, crop_size)
    except ValueError as error:
        raise ValueError(f"--augment {augment}: {error}") from error


@dataclass(eq=False)
class UnpairedImages(Dataset[Pair]):
    """Pictures of X by index, each with a random picture of Y.

    An epoch has as many samples as the larger collection has pictures. Sample `i` is the same at every call and in
    every process: crops, flips and the choice from Y are drawn from `seed` and `i`. Indices beyond the length belong to
    later epochs: `i + len(self)` is another crop of the same picture of X.

    Args:
        paths_x, paths_y: Files of X and of Y; not empty.
        pipelines: Augmentation of each domain; all outputs must have the same size.
        cache: Decoded pictures by path, as returned by `check_pictures`.
    """

    paths_x: list[Path]
    paths_y: list[Path]
    pipelines: Pipelines
    seed: int = 0
    cache: dict[Path, Tensor] | None = None

    def __len__(self) -> int:
        return max(len(self.paths_x), len(self.paths_y))

    def __getitem__(self, index: int) -> Pair:
        draws = np.random.default_rng((self.seed, index)).integers(2**31, size=3)
        seed_x, seed_y, index_y = (int(n) for n in draws)
        return Pair(
            load_any_crop(self.paths_x, index % len(self), self.pipelines.x, seed_x, self.cache),
            load_any_crop(self.paths_y, index_y, self.pipelines.y, seed_y, self.cache),
        )


def pipelines_from_dict(saved: Any, crop_size: int) -> Pipelines:
    """Build pipelines from the output of `Pipelines.to_dict` or `albumentations.to_dict` and run them once."""
    parts = (saved["x"], saved["y"]) if isinstance(saved, dict) and {"x", "y"} <= saved.keys() else (saved, saved)
    return Pipelines(*(pipeline_from_dict(part, crop_size) for part in parts))
