"""Pictures as training wants them: found, checked, cut by albumentations, in batches that every process agrees on."""

from __future__ import annotations

import itertools
import json
import os
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

# albumentations would ask PyPI for its newest version at import.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations
import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from stylekit import distributed, images
from stylekit.log import say
from stylekit.options import RunConfig
from stylekit.training import ignore_signals

T = TypeVar("T")


def cut(path: Path, pipeline: albumentations.Compose, seed: int, cache: dict[Path, Tensor] | None = None) -> Tensor:
    """A picture as a pipeline cuts it: (3, h, w) in [0, 1]; the same seed gives the same cut.

    Args:
        cache: Pictures by path, decoded before, as `check_pictures` returns them.
    """
    cached = cache.get(path) if cache else None
    pixels = np.array(images.load(path)) if cached is None else cached.numpy()
    # One stream of random numbers for all transforms. With `set_random_seed` each would begin the same one anew:
    # only pictures that are cropped at the top would be flipped.
    pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
    result = np.ascontiguousarray(pipeline(image=pixels)["image"])
    return torch.from_numpy(result).permute(2, 0, 1).float() / 255


def shrink(load_size: int) -> albumentations.BasicTransform:
    """Resize the shorter side to `load_size`, keeping the proportions."""
    return albumentations.SmallestMaxSize(load_size, interpolation=cv2.INTER_CUBIC, area_for_downscale="image")


def centre_crop(load_size: int, crop_size: int) -> albumentations.Compose:
    """Nothing random: resize, and take the middle."""
    return albumentations.Compose([shrink(load_size), albumentations.CenterCrop(crop_size, crop_size)])


def random_crop(load_size: int, crop_size: int) -> albumentations.Compose:
    """Resize, take a square from anywhere, and mirror every other one."""
    crop, flip = albumentations.RandomCrop(crop_size, crop_size), albumentations.HorizontalFlip(p=0.5)
    return albumentations.Compose([shrink(load_size), crop, flip])


def read_pipeline_file(path: Path, known: Sequence[str]) -> Any:
    """The plain values in a file that `albumentations.save` wrote, or that somebody wrote by hand.

    Args:
        known: What `--augment` could be instead, for the message.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is neither JSON nor YAML.
    """
    import yaml

    if not path.is_file():
        raise FileNotFoundError(
            f"--augment {path}: expected {', '.join(known)}, or a file with an albumentations pipeline"
        )
    try:
        text = path.read_text()
        return json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"--augment {path}: {_one_line(error)}") from error


def pipeline_from_dict(saved: Any, crop_size: int) -> albumentations.Compose:
    """Build a pipeline from the plain values of `albumentations.to_dict`, and try it once.

    Raises:
        ValueError: The values are no pipeline, or it does not yield pictures of crop_size x crop_size.
    """
    try:
        pipeline = albumentations.from_dict(saved)
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
    return pipeline


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


def read_pictures(
    paths: Sequence[list[Path]], names: Sequence[str], config: RunConfig
) -> tuple[list[list[Path]], dict[Path, Tensor]]:
    """Read every picture once, to find the bad ones before training does; keep them in memory if they fit.

    Args:
        paths: The files of each collection.
        names: What to call the collections in a message.

    Returns:
        The good files of each collection; and, decoded, those that are kept in memory.

    Raises:
        ValueError: More than 1 % of the pictures of a collection are bad.
    """
    paths = [found[: config.max_dataset_size] for found in paths]
    together = list(itertools.chain(*paths))
    keep = config.cache == "on" or (config.cache == "auto" and cache_fits(together, distributed.local_world_size()))
    cache, bad = check_pictures(together, decode=keep, progress=distributed.is_main())
    for reason in bad.values():
        say(f"left out: {reason}")
    good = [[path for path in found if path not in bad] for found in paths]
    for name, left, found in zip(names, good, paths, strict=True):
        if not left or len(found) - len(left) > max(1, 0.01 * len(found)):
            raise ValueError(
                f"{len(found) - len(left)} of {len(found)} pictures{name} cannot be read, among them "
                f"{next(path for path in found if path in bad)}; at most 1 % may be bad: remove or replace them"
            )
    return good, cache


def make_loader(
    data: Dataset[T], length: int, config: RunConfig, device: torch.device, serial: bool = False
) -> tuple[DataLoader[T], EpochBatches]:
    """A loader of this process's part of every batch, epoch after epoch.

    Raises:
        ValueError: There are too few pictures for one batch.
    """
    world = distributed.world_size()
    batches = EpochBatches(length, config.batch_size, config.seed, serial, distributed.rank(), world)
    if len(batches) == 0:
        raise ValueError(
            f"{length} pictures do not fill one batch of --batch-size {config.batch_size}"
            + (f" on {world} processes" if world > 1 else "")
            + f"; try --batch-size {max(1, length // world)}"
        )
    loader = DataLoader(
        data,
        batch_sampler=batches,
        num_workers=min(config.num_workers, distributed.cores()),
        pin_memory=device.type == "cuda",
        worker_init_fn=ignore_signals,
    )
    return loader, batches


def some_of(paths: list[Path], count: int) -> list[Path]:
    """A few files, from all over a list."""
    count = min(count, len(paths))
    return [paths[i * len(paths) // count] for i in range(count)]


def check_pictures(
    paths: list[Path], decode: bool, progress: bool = True
) -> tuple[dict[Path, Tensor], dict[Path, str]]:
    """Read every picture once, to find the bad ones before training does.

    Args:
        paths: Files to read.
        decode: Keep the pictures, to be the `cache` of `cut`.
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


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
