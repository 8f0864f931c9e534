"""The history of generated pictures for training discriminators (Shrivastava et al. 2017)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class ImagePool:
    """A buffer of past fakes. Training discriminators on them reduces oscillation (Zhu et al. 2017, section 4).

    Args:
        size: Number of pictures to keep; 50 in the paper. 0 disables the pool.

    Examples:
        >>> pool = ImagePool(50)
        >>> pool(torch.zeros(2, 3, 8, 8)).shape  # As many pictures as were given.
        torch.Size([2, 3, 8, 8])
    """

    def __init__(self, size: int = 50) -> None:
        if size < 0:
            raise ValueError(f"the size of an image pool must not be negative, got {size}")
        self.size = size
        self.images: list[Tensor] = []

    def __call__(self, fakes: Tensor) -> Tensor:
        """Add new fakes to the pool and return as many pictures, some of them from earlier calls.

        Until the pool is full, every fake is stored and returned. After that, each is exchanged for a random picture in
        the pool with probability 1/2.

        Shape: (B, 3, H, W) without gradient -> the same.
        """
        if self.size == 0:
            return fakes
        if self.images and self.images[0].shape != fakes.shape[1:]:
            self.images.clear()  # A resumed run may have another crop size.
        returned = []
        for fake in fakes:
            if len(self.images) < self.size:
                self.images.append(fake.clone())
            elif torch.rand(()) < 0.5:
                index = int(torch.randint(self.size, ()))
                fake, self.images[index] = self.images[index], fake.clone()
            returned.append(fake)
        return torch.stack(returned)

    def state_dict(self) -> dict[str, Any]:
        """The pictures."""
        return {"images": list(self.images)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str = "cpu") -> None:
        """Restore a state, with the pictures on `device`."""
        images = [image.to(device) for image in state["images"]][: self.size]
        if len({(image.shape, image.dtype) for image in images}) > 1:
            raise ValueError("the pictures of a pool differ in size or type")
        self.images = images
