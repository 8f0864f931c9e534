"""Two folders of unpaired pictures as a data set whose every sample is a function of the seed and its index.

Departure from the authors' code: a picture that is not square keeps its proportions (its shorter side becomes the load
size) instead of being squashed. For square pictures, such as those of the published sets, it is the same.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

# albumentations would ask PyPI for its newest version at import.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations
import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from tqdm import tqdm

from stylekit import images

LAYOUTS = ("{split}{domain}", "{split}_{domain}", "{domain}/{split}", "{split}/{domain}")
"""Where the pictures of a split ("train", "test") and a domain ("A", "B") may lie in a data set."""


class Pair(NamedTuple):
    """One sample, or a batch: a picture of each domain that have nothing to do with each other, in [0, 1]."""

    x: Tensor
    y: Tensor


class Pipelines(NamedTuple):
    """What happens to the pictures of each domain before they are shown to the networks."""

    x: albumentations.Compose
    y: albumentations.Compose

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the checkpoint and for a file that `--augment` reads."""
        return {"x": albumentations.to_dict(self.x), "y": albumentations.to_dict(self.y)}


def find_domain(dataroot: str | Path, split: str, domain: str) -> list[Path]:
    """The pictures of one split and one domain, sorted; none if the data set has no such folder.

    Raises:
        FileNotFoundError: There is no folder `dataroot`.
    """
    root = Path(dataroot)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}; --dataroot needs a folder with trainA and trainB")
    for layout in LAYOUTS:
        folder = root / layout.format(split=split, domain=domain)
        if folder.is_dir():
            return images.find(folder)
    return []


def find_training_pictures(dataroot: str | Path) -> tuple[list[Path], list[Path]]:
    """The pictures to train on: X from trainA, Y from trainB.

    Raises:
        FileNotFoundError: A folder is missing or holds no picture.
    """
    found = []
    for domain in ("A", "B"):
        paths = find_domain(dataroot, "train", domain)
        if not paths:
            kinds = " ".join(sorted(suffix[1:] for suffix in images.FORMATS))
            raise FileNotFoundError(
                f"no pictures in {Path(dataroot) / f'train{domain}'}; "
                f"expected trainA and trainB with pictures ({kinds})"
            )
        found.append(paths)
    return found[0], found[1]


def build_pipelines(augment: str, load_size: int, crop_size: int) -> Pipelines:
    """The augmentation by name ("none", "paper", "strong"), or from a file that `albumentations.save` wrote.

    A file holds one pipeline for both domains, or {"x": ..., "y": ...}, one for each. It must yield pictures of
    crop_size x crop_size, as all pictures of a batch need one size.

    Raises:
        FileNotFoundError: `augment` is neither a name nor a file.
        ValueError: The file holds no pipeline, or one that yields other sizes.
    """
    a = albumentations
    shrink = a.SmallestMaxSize(load_size, interpolation=cv2.INTER_CUBIC, area_for_downscale="image")
    crop, flip = a.RandomCrop(crop_size, crop_size), a.HorizontalFlip(p=0.5)
    if augment == "none":
        centre = a.Compose([shrink, a.CenterCrop(crop_size, crop_size)])
        return Pipelines(centre, centre)
    if augment == "paper":
        return Pipelines(a.Compose([shrink, crop, flip]), a.Compose([shrink, crop, flip]))
    if augment == "strong":
        # Zooms are shares of the picture's area: from a square, they are as large in every picture. And OpenCV turns no
        # picture with a side of more than 32,767 px, as that of a long strip may become.
        square = a.RandomCrop(load_size, load_size)
        zoom = a.RandomResizedCrop(
            (crop_size, crop_size),
            scale=(0.7 * (crop_size / load_size) ** 2, min(1.0, 1.4 * (crop_size / load_size) ** 2)),
            ratio=(0.9, 1.1),
            interpolation=cv2.INTER_CUBIC,
            area_for_downscale="image",
        )
        turn = a.Rotate(limit=5, interpolation=cv2.INTER_CUBIC, border_mode=cv2.BORDER_REFLECT_101, p=0.5)
        # Paintings keep their colours: these are what the generators are to learn.
        colour = a.ColorJitter((0.8, 1.2), (0.8, 1.2), (0.8, 1.2), (-0.02, 0.02), p=0.8)
        cuts = [shrink, square, turn, zoom, flip]
        return Pipelines(a.Compose([*cuts, colour]), a.Compose(cuts))
    return _read_pipelines(Path(augment), crop_size)


class UnpairedImages(Dataset[Pair]):
    """Pictures of X by index, each with a picture of Y at random (or by index, with `serial`).

    An epoch has as many samples as the larger collection has pictures. Sample `i` is the same at every call, in every
    process: crops, flips and the choice from Y are drawn from `seed` and `i`. Indices beyond the length are later
    epochs: `i + len(self)` shows the same picture of X in another cut.

    Args:
        paths_x: Files of X; not empty.
        paths_y: Files of Y; not empty.
        pipelines: albumentations for each domain; every result must have one size.
        cache: Pictures by path, decoded before, as `check_pictures` returns them.
    """

    def __init__(
        self,
        paths_x: list[Path],
        paths_y: list[Path],
        pipelines: Pipelines,
        seed: int = 0,
        serial: bool = False,
        cache: dict[Path, Tensor] | None = None,
    ) -> None:
        self.paths_x = paths_x
        self.paths_y = paths_y
        self.pipelines = pipelines
        self.seed = seed
        self.serial = serial
        self.cache = cache or {}

    def __len__(self) -> int:
        return max(len(self.paths_x), len(self.paths_y))

    def __getitem__(self, index: int) -> Pair:
        draws = np.random.default_rng((self.seed, index)).integers(2**31, size=3)
        seed_x, seed_y, any_y = (int(n) for n in draws)
        path_x = self.paths_x[index % len(self) % len(self.paths_x)]
        path_y = self.paths_y[(index % len(self) if self.serial else any_y) % len(self.paths_y)]
        return Pair(self._cut(path_x, self.pipelines.x, seed_x), self._cut(path_y, self.pipelines.y, seed_y))

    def _cut(self, path: Path, pipeline: albumentations.Compose, seed: int) -> Tensor:
        cached = self.cache.get(path)
        pixels = np.array(images.load(path)) if cached is None else cached.numpy()
        # One stream of random numbers for all transforms. With `set_random_seed` each would begin the same one anew:
        # only pictures that are cropped at the top would be flipped.
        pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        cut = np.ascontiguousarray(pipeline(image=pixels)["image"])
        return torch.from_numpy(cut).permute(2, 0, 1).float() / 255


class EpochBatches(Sampler[list[int]]):
    """The batches of one of several processes, epoch after epoch without end, from any step on.

    Every process takes its part of each global batch, so that N processes with batch B see what one process with batch
    N * B sees. The last samples of an epoch that do not fill a batch are left out. `epoch` and `start`, a step in it,
    say where an iteration begins. The length is that of one epoch.
    """

    def __init__(
        self, length: int, batch_size: int, seed: int = 0, serial: bool = False, rank: int = 0, world_size: int = 1
    ) -> None:
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.serial = serial
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        return self.length // (self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[list[int]]:
        size = self.batch_size * self.world_size
        for epoch in itertools.count(self.epoch):
            order = torch.arange(self.length)
            if not self.serial:
                order = torch.randperm(self.length, generator=torch.Generator().manual_seed(hash((self.seed, epoch))))
            indices = (order + epoch * self.length).tolist()
            for step in range(self.start if epoch == self.epoch else 0, len(self)):
                batch = indices[step * size : (step + 1) * size]
                yield batch[self.rank * self.batch_size : (self.rank + 1) * self.batch_size]


def check_pictures(
    paths: list[Path], decode: bool, progress: bool = True
) -> tuple[dict[Path, Tensor], dict[Path, str]]:
    """Read every picture once, to find the bad ones before training does.

    Args:
        paths: Files to read.
        decode: Keep the pictures, to be the `cache` of `UnpairedImages`.
        progress: Show a bar if this takes a while and standard error is a terminal.

    Returns:
        The decoded pictures, uint8 (H, W, 3), in memory that worker processes share; and what is wrong with bad files.
    """
    good: dict[Path, Tensor] = {}
    bad: dict[Path, str] = {}

    def read(path: Path) -> Tensor | str:
        try:
            picture = images.load(path)
        except (ValueError, OSError) as error:
            return str(error)
        return torch.from_numpy(np.array(picture)) if decode else torch.empty(0)

    with ThreadPoolExecutor() as pool:
        bar = tqdm(
            total=len(paths), desc="reading pictures", unit="picture", disable=None if progress else True, delay=2
        )
        with bar:
            for path, result in zip(paths, pool.map(read, paths), strict=True):
                bar.update()
                if isinstance(result, str):
                    bad[path] = result
                elif decode:
                    good[path] = result
    return _in_one_block(good), bad


def cache_fits(paths: list[Path], copies: int = 1) -> bool:
    """Whether the decoded pictures take less than a quarter of the free memory, estimated from every tenth header.

    Args:
        copies: How many processes on this machine would each hold them.
    """
    from PIL import Image

    sizes = []
    for path in paths[:: max(1, len(paths) // 100)]:
        try:
            with Image.open(path) as image:
                sizes.append(image.width * image.height * 3)
        except Exception:  # Damaged files raise almost anything; `check_pictures` tells of them.
            continue
    needed = sum(sizes) / max(1, len(sizes)) * len(paths) * copies
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        free = 4 * 2**30
    return needed < free / 4


def _in_one_block(pictures: dict[Path, Tensor]) -> dict[Path, Tensor]:
    """Move all pictures into one tensor: worker processes that are not forked share it by one file handle.

    It is left to PyTorch to move it to shared memory when it must: /dev/shm is small in many a container.
    """
    if not pictures:
        return {}
    parts = torch.cat([picture.flatten() for picture in pictures.values()]).split(
        [picture.numel() for picture in pictures.values()]
    )
    return {path: part.view(picture.shape) for (path, picture), part in zip(pictures.items(), parts, strict=True)}


def _read_pipelines(path: Path, crop_size: int) -> Pipelines:
    import json

    import yaml

    if not path.is_file():
        raise FileNotFoundError(
            f"--augment {path}: expected none, paper, strong, or a file with an albumentations pipeline"
        )
    try:
        text = path.read_text()
        saved = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
        return pipelines_from_dict(saved, crop_size)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"--augment {path}: {_one_line(error)}") from error


def pipelines_from_dict(saved: Any, crop_size: int) -> Pipelines:
    """Build pipelines from the plain values of `Pipelines.to_dict` or of `albumentations.to_dict`, and try them once.

    Raises:
        ValueError: The values are no pipeline, or it does not yield pictures of crop_size x crop_size.
    """
    parts = (saved["x"], saved["y"]) if isinstance(saved, dict) and {"x", "y"} <= saved.keys() else (saved, saved)
    pipelines = []
    for part in parts:
        try:
            pipeline = albumentations.from_dict(part)
            if not isinstance(pipeline, albumentations.Compose):
                pipeline = albumentations.Compose([pipeline])
            results = [pipeline(image=np.zeros((*size, 3), np.uint8))["image"] for size in ((300, 400), (640, 480))]
        except Exception as error:  # Any transform may raise anything here, on arguments that somebody wrote by hand.
            reason = f"{type(error).__name__}: {_one_line(error)}"
            raise ValueError(f"not a working albumentations pipeline ({reason})") from error
        expected = f"uint8 {(crop_size, crop_size, 3)}"
        found = " and ".join(sorted({f"{result.dtype} {tuple(result.shape)}" for result in results}))
        if found != expected:
            raise ValueError(f"the pipeline yields pictures of {found}; expected {expected}")
        pipelines.append(pipeline)
    return Pipelines(*pipelines)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
