"""Training pictures: validated, cropped by albumentations, and batched identically on every process."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing.connection
import os
import random
import re
import sys
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

# albumentations would query PyPI for a newer version at import.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations
import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from stylekit import devices, distributed
from stylekit.options import RunConfig
from stylekit.pictures import images
from stylekit.training.log import print0
from stylekit.training.signals import children_may_end, ignore_signals

T = TypeVar("T")

VALIDATION_PICTURES = 4  # Pictures of a collection that are processed after every epoch.

# Limits of a file with an augmentation pipeline: characters, values (repeated ones count), and numbers.
_MAX_FILE, _MAX_VALUES, _MAX_NUMBER = 100_000, 10_000, 16_384


def load_crop(
    path: Path, pipeline: albumentations.Compose, seed: int, cache: dict[Path, Tensor] | None = None
) -> Tensor:
    """Load a picture, or take it from the cache, and augment it: (3, h, w) in [0, 1]; the same for the same seed."""
    cached = cache.get(path) if cache else None
    pixels = np.array(images.load(path)) if cached is None else cached.numpy()
    # One random stream for all transforms. `set_random_seed` would restart the same stream in each of them, which
    # correlates them: only pictures cropped at the top would be flipped.
    pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))  # noqa: S311 - no secret
    result = np.ascontiguousarray(pipeline(image=pixels)["image"])
    return torch.from_numpy(result).permute(2, 0, 1).float() / 255


def load_any_crop(
    paths: Sequence[Path],
    index: int,
    pipeline: albumentations.Compose,
    seed: int,
    cache: dict[Path, Tensor] | None = None,
) -> Tensor:
    """As `load_crop`, of picture `index` or, if it can no longer be read, of the next one that can."""
    for step in range(len(paths)):
        try:
            return load_crop(paths[(index + step) % len(paths)], pipeline, seed, cache)
        except (OSError, ValueError) as error:
            reason: OSError | ValueError = error
            print(f"skipped: {error}", file=sys.stderr)
    raise reason


def resize_shorter_side(load_size: int) -> albumentations.BasicTransform:
    """Resize the shorter side to `load_size` pixels, keeping the aspect ratio."""
    return albumentations.SmallestMaxSize(load_size, interpolation=cv2.INTER_CUBIC, area_for_downscale="image")


def center_crop(load_size: int, crop_size: int) -> albumentations.Compose:
    """Resize, then crop the center: no randomness."""
    return albumentations.Compose([resize_shorter_side(load_size), albumentations.CenterCrop(crop_size, crop_size)])


def random_crop(load_size: int, crop_size: int) -> albumentations.Compose:
    """Resize, crop at random, flip horizontally half of the time."""
    crop, flip = albumentations.RandomCrop(crop_size, crop_size), albumentations.HorizontalFlip(p=0.5)
    return albumentations.Compose([resize_shorter_side(load_size), crop, flip])


def read_pipeline_file(path: Path, presets: Sequence[str]) -> Any:
    """Read the plain values of a pipeline saved by `albumentations.save` or written by hand, as JSON or YAML."""
    import yaml

    if not path.is_file():
        expected = f"{', '.join(presets)}, or a file with an albumentations pipeline"
        raise FileNotFoundError(f"--augment {path}: expected {expected}")
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_MAX_FILE + 1)
        if len(text) > _MAX_FILE:
            raise ValueError(f"longer than {_MAX_FILE:,} characters; expected an albumentations pipeline")
        return json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except Exception as error:  # PyYAML raises almost anything on values that do not fit their tags.
        raise ValueError(f"--augment {path}: {_one_line(error)}") from error


def pipeline_from_dict(saved: Any, crop_size: int) -> albumentations.Compose:
    """Build a pipeline from the output of `albumentations.to_dict`, and check that it gives crop_size x crop_size."""
    try:
        _check_values(saved)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pipeline = albumentations.from_dict(saved)
            if not isinstance(pipeline, albumentations.Compose):
                pipeline = albumentations.Compose([pipeline])
            results = [pipeline(image=np.zeros((*size, 3), np.uint8))["image"] for size in ((300, 400), (640, 480))]
        written = str(albumentations.to_dict(pipeline))
        for text in (str(warning.message) for warning in caught):
            # Misspelt arguments are left out with a warning; it also warns of a few that it writes itself.
            names = re.match(r"Argument\(s\) (.+) are not valid", text)
            if names and any(f"'{name}': " not in written for name in re.findall(r"\w+", names[1])):
                raise ValueError(text)
    except Exception as error:  # Transforms raise anything on hand-written arguments.
        reason = f"{type(error).__name__}: {_one_line(error)}"
        raise ValueError(f"not a working albumentations pipeline ({reason})") from error
    expected = f"uint8 {(crop_size, crop_size, 3)}"
    found = " and ".join(sorted({f"{result.dtype} {tuple(result.shape)}" for result in results}))
    if found != expected:
        raise ValueError(f"the pipeline returns {found}; expected {expected}")
    return pipeline


def _check_values(saved: Any) -> None:
    """Check that a pipeline is small: aliases of YAML can repeat values without end, and numbers ask for memory."""
    remaining, count = [saved], 0
    while remaining:
        count += 1
        if count + len(remaining) > _MAX_VALUES:
            raise ValueError(f"more than {_MAX_VALUES:,} values")
        value = remaining.pop()
        if isinstance(value, dict):
            remaining += [part for name, part in value.items() if name != "seed"]
        elif isinstance(value, list | tuple):
            remaining += value
        elif isinstance(value, int | float) and not abs(value) <= _MAX_NUMBER:
            raise ValueError(f"a number is {value}; expected at most {_MAX_NUMBER:,}")


@dataclass(eq=False)
class EpochBatches(Sampler[list[int]]):
    """Batch sampler of one process: endless shuffled epochs, starting at any step; the length is that of one epoch.

    Each process takes its part of every global batch, so N processes with batch size B see the same samples as one
    process with batch size N * B. Samples that do not fill the last batch of an epoch are dropped.
    """

    length: int
    batch_size: int
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    epoch: int = 0
    """The epoch in which iteration begins."""
    start: int = 0
    """The step of that epoch."""

    def __len__(self) -> int:
        return self.length // (self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[list[int]]:
        size = self.batch_size * self.world_size
        for epoch in itertools.count(self.epoch):
            order = np.random.default_rng((self.seed, epoch)).permutation(self.length)
            indices = (order + epoch * self.length).tolist()
            for step in range(self.start if epoch == self.epoch else 0, len(self)):
                batch = indices[step * size : (step + 1) * size]
                yield batch[self.rank * self.batch_size : (self.rank + 1) * self.batch_size]


def read_pictures(paths: Sequence[list[Path]], names: Sequence[str]) -> tuple[list[list[Path]], dict[Path, Tensor]]:
    """Read every picture once, to find unreadable ones before training does, and cache them if they fit in memory.

    Takes the files of each collection and its name in error messages; returns the readable files of each, and the
    decoded pictures (empty if they do not fit). More than 1 % of unreadable files in a collection are a ValueError.
    """
    together = list(itertools.chain(*paths))
    decode = cache_fits(together, distributed.local_world_size())
    cache, bad = check_pictures(together, decode, progress=distributed.is_main())
    for reason in bad.values():
        print0(f"skipped: {reason}")
    good = [[path for path in found if path not in bad] for found in paths]
    for name, readable, found in zip(names, good, paths, strict=True):
        if not readable or len(found) - len(readable) > max(1, 0.01 * len(found)):
            raise ValueError(
                f"{len(found) - len(readable)} of {len(found)} pictures{name} cannot be read, for example "
                f"{next(path for path in found if path in bad)}; at most 1 % may be bad: remove or replace them"
            )
    return good, cache


def make_loader(data: Dataset[T], length: int, config: RunConfig, device: torch.device) -> DataLoader[T]:
    """A loader of this process's part of every batch, for endless epochs; its batch sampler is an `EpochBatches`."""
    world, batch_size = distributed.world_size(), config.data.batch_size
    batches = EpochBatches(length, batch_size, config.schedule.seed, distributed.rank(), world)
    if len(batches) == 0:
        given = f"--batch-size {batch_size}" + (f" on {world} processes" if world > 1 else "")
        advice = f"try --batch-size {max(1, length // world)}"
        raise ValueError(f"{length} pictures do not fill one batch of {given}; {advice}")
    return DataLoader(
        data,
        batch_sampler=batches,
        num_workers=min(config.data.num_workers, devices.cores()),
        pin_memory=device.type == "cuda",
        worker_init_fn=ignore_signals,
    )


@contextmanager
def iterate(loader: DataLoader[T]) -> Iterator[Iterator[T]]:
    """Iterate over a loader; all its workers have exited in the end. ChildProcessError: one of them was killed."""
    others = set(multiprocessing.active_children())
    iterator = iter(loader)
    workers = set(multiprocessing.active_children()) - others
    sentinels = [worker.sentinel for worker in workers]
    lost = ChildProcessError("a data loading process was killed")

    def batches() -> Iterator[T]:
        while not multiprocessing.connection.wait(sentinels, timeout=0):
            yield next(iterator)
        raise lost

    with children_may_end():
        try:
            yield batches()
        except (RuntimeError, OSError, EOFError) as error:
            # A worker that is killed while the loader waits for it breaks a connection, among other things.
            if error is not lost and multiprocessing.connection.wait(sentinels, timeout=0.3):
                raise lost from error
            raise
        finally:
            # The loader asks its workers to exit, and would wait forever for one that does not: they ignore SIGTERM.
            if shut_down := getattr(iterator, "_shutdown_workers", None):
                shut_down()
            for worker in workers:
                worker.kill()
                worker.join()


def evenly_spaced(paths: list[Path], count: int) -> list[Path]:
    """Up to `count` files, evenly spaced over a list."""
    count = min(count, len(paths))
    return [paths[i * len(paths) // count] for i in range(count)]


def check_pictures(
    paths: list[Path], decode: bool, progress: bool = True
) -> tuple[dict[Path, Tensor], dict[Path, str]]:
    """Read every picture once, under a progress bar if this takes a while.

    Returns the decoded pictures by path, uint8 (H, W, 3), in memory that workers share, or none without `decode`; and
    the error of each unreadable file.
    """

    def read(path: Path) -> Tensor | str:
        try:
            picture = images.load(path)
        except (ValueError, OSError) as error:
            return str(error)
        return torch.from_numpy(np.array(picture)) if decode else torch.empty(0)

    with ThreadPoolExecutor() as pool:
        hidden = None if progress else True
        read_all = tqdm(pool.map(read, paths), "reading pictures", len(paths), unit="picture", disable=hidden, delay=2)
        results = dict(zip(paths, read_all, strict=True))
    bad = {path: result for path, result in results.items() if isinstance(result, str)}
    good = {path: result for path, result in results.items() if isinstance(result, Tensor) and decode}
    if good:
        # Parts of one tensor, so that spawned workers share a single file handle. PyTorch moves it to shared memory
        # only if it must: /dev/shm is small in many containers.
        block = torch.cat([picture.flatten() for picture in good.values()])
        parts = block.split([picture.numel() for picture in good.values()])
        good = {path: part.view(old.shape) for (path, old), part in zip(good.items(), parts, strict=True)}
    return good, bad


def cache_fits(paths: list[Path], copies: int = 1) -> bool:
    """Whether copies of all decoded pictures, one per process on this machine, fit in a quarter of the free memory."""
    sizes = []  # Of up to 100 pictures, from their headers.
    for path in paths[:: max(1, len(paths) // 100)]:
        # Damaged files raise almost anything; `check_pictures` reports them.
        with contextlib.suppress(Exception), Image.open(path) as image:
            sizes.append(image.width * image.height * 3)
    needed = sum(sizes) / max(1, len(sizes)) * len(paths) * copies
    return needed < devices.free_memory(torch.device("cpu")) / 4


def _one_line(error: Exception) -> str:
    return textwrap.shorten(str(error), 300)
