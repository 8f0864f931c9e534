"""The history of generated pictures that the discriminators are shown (Shrivastava et al. 2017)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class ImagePool:
    """Up to `size` past fakes; each new one is, half of the time, exchanged for an old one.

    Zhu et al. (2017, section 4) keep 50, to keep the discriminators from chasing the generators' latest trick.

    Args:
        size: How many pictures to keep; 0 returns every picture as it comes.
        seed: Of its own random numbers, which are part of `state_dict`.

    Raises:
        ValueError: A negative size.
    """

    def __init__(self, size: int = 50, seed: int = 0) -> None:
        if size < 0:
            raise ValueError(f"a pool cannot hold {size} pictures; expected 0 or more")
        self.size = size
        self.images: list[Tensor] = []
        self.random = torch.Generator().manual_seed(seed)

    def __call__(self, fakes: Tensor) -> Tensor:
        """Take in new fakes and return as many, some of them old.

        Args:
            fakes: (B, 3, H, W) without gradient. Until the pool is full every one is kept and returned. After that,
                with probability 1/2, a kept one at random is returned and the new one takes its place.

        Returns:
            (B, 3, H, W).
        """
        if self.size == 0:
            return fakes
        shown = []
        for fake in fakes:
            if len(self.images) < self.size:
                self.images.append(fake.clone())
                shown.append(fake)
            elif torch.rand((), generator=self.random) < 0.5:
                place = int(torch.randint(self.size, (), generator=self.random))
                shown.append(self.images[place])
                self.images[place] = fake.clone()
            else:
                shown.append(fake)
        return torch.stack(shown)

    def state_dict(self) -> dict[str, Any]:
        """The pictures and the state of the random numbers, to go on exactly as before."""
        return {"images": list(self.images), "random": self.random.get_state()}

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str = "cpu") -> None:
        """Take up where `state_dict` was called, with the pictures on `device`."""
        self.images = [image.to(device) for image in state["images"]][: self.size]
        self.random.set_state(state["random"].cpu())
