"""A collection of pictures that is larger than the memory: files that are read whenever they are iterated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stylekit.pictures import images

SMALLEST = 16  # Shorter side of the smallest pictures, in pixels: what feature networks need.


@dataclass
class Collection:
    """Pictures of files, (1, 3, H, W) in [0, 1], by index or one after the other.

    Iterating reports those that cannot be read and skips them from then on.

    Args:
        size: Shrink pictures to this longer side; None keeps their size.
        errors: Receives a message for each picture that cannot be read.
    """

    paths: Sequence[Path]
    size: int | None
    device: torch.device | str
    errors: list[str]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return self.read(self.paths[index])

    def __iter__(self) -> Iterator[Tensor]:
        return (picture for _, picture in self.items())

    def items(self) -> Iterator[tuple[Path, Tensor]]:
        """Each picture that can be read, with its file."""
        for path in self.paths:
            try:
                picture = self.read(path)
            except (OSError, ValueError) as error:
                self.errors.append(str(error))
                self.paths = [other for other in self.paths if other != path]
            else:
                yield path, picture

    def read(self, path: Path) -> Tensor:
        """Read a file, in the size and on the device of the collection; a picture that is too small is an error."""
        picture = images.resize(images.load(path), self.size)
        if min(picture.size) < SMALLEST:
            raise ValueError(f"{path}: {picture.width} x {picture.height} pixels; expected at least {SMALLEST}")
        return images.to_tensor(picture).to(self.device)
