"""Near-duplicates: pictures that show the same, in another size, compression or with slightly other colors."""

from __future__ import annotations

from collections.abc import Sequence

import networkx
import numpy as np
from PIL import Image

MAX_DISTANCE = 8  # Perceptual hashes of near-duplicates differ in at most this many of 64 bits.

MAX_DIFFERENCE = 15.0
"""Thumbnails of near-duplicates differ by at most this many gray levels on average, once brightness is equal."""

THUMBNAIL = 16  # Side of the thumbnails that confirm what the hashes suggest, in pixels.
_SMALL = 64  # Side to which pictures are reduced first, by averaging.
_ROWS = 512  # Pictures compared with all others at a time: 512 x 20,000 distances take 40 MB.


def reduced(image: Image.Image) -> Image.Image:
    """64 x 64 pixels, all that the functions below look at; reducing twice changes nothing."""
    return image.resize((_SMALL, _SMALL), Image.Resampling.BOX)


def perceptual_hash(image: Image.Image) -> int:
    """64 bits of the lowest frequencies (pHash), insensitive to size, compression and brightness."""
    import imagehash

    bits = imagehash.phash(reduced(image)).hash.ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def thumbnail(image: Image.Image) -> bytes:
    """16 x 16 gray pixels with a mean of 128."""
    small = reduced(image).convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    pixels = np.asarray(small, dtype=np.float32)
    return (pixels - pixels.mean() + 128).clip(0, 255).astype(np.uint8).tobytes()


def near_pairs(hashes: Sequence[int], thumbnails: Sequence[bytes]) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of near-duplicates among pictures, given by `perceptual_hash` and `thumbnail`, in order.

    Plain skies have similar hashes and different thumbnails.
    """
    if not hashes:
        return []
    bits = np.unpackbits(np.array(hashes, dtype=">u8").view(np.uint8).reshape(-1, 8), axis=1)
    signs = 2 * bits.astype(np.float32) - 1
    small = np.frombuffer(b"".join(thumbnails), np.uint8).reshape(len(hashes), -1).astype(np.int16)
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(signs), _ROWS):
        # The product of two hashes is the number of equal bits less that of different ones.
        first, second = np.nonzero(signs[start : start + _ROWS] @ signs[start:].T >= 64 - 2 * MAX_DISTANCE)
        first, second = first[first < second] + start, second[first < second] + start
        alike = np.abs(small[first] - small[second]).mean(1) <= MAX_DIFFERENCE
        pairs += zip(first[alike].tolist(), second[alike].tolist(), strict=True)
    return pairs


def groups(pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Join pairs that share a member into sorted groups, in order of the first member."""
    return sorted(map(sorted, networkx.connected_components(networkx.Graph(pairs))))
