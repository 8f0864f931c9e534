"""Flicker of a stylized video in static regions, with and without smoothing.

python benchmarks/johnson_flicker.py [CLIP.mp4] [--style starry-night] [--smoothing 0.98] [--size 640]

The measure needs no optical flow: the mean change from frame to frame, in gray levels, of pixels that are static in the
source. Without a clip, one is generated from a photograph in scikit-learn, with noise and a blinking lamp.
"""

from __future__ import annotations

import argparse
import tempfile
from importlib.resources import files
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from johnson.stylize import load_network, stylize
from stylekit.networks.tiling import Smoothing
from stylekit.pictures import images
from stylekit.pictures.video import process_video

THRESHOLD = 6
"""Change in gray levels that is attributed to noise and compression."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", nargs="?", type=Path)
    parser.add_argument("--style", default="starry-night")
    parser.add_argument("--smoothing", type=float, default=0.98)
    parser.add_argument("--size", type=int, default=640)
    options = parser.parse_args()
    network = load_network(options.style)
    with tempfile.TemporaryDirectory() as folder:
        clip = options.clip or make_clip(Path(folder) / "clip.mp4")
        found = {}
        for decay in (0.0, options.smoothing):
            before: list[Tensor] = []
            after: list[Tensor] = []
            smoothing = Smoothing(decay)

            def process(
                frame: Tensor, smoothing: Smoothing = smoothing, b: list[Tensor] = before, a: list[Tensor] = after
            ) -> Tensor:
                stylized = stylize(frame, network, smoothing=smoothing)
                b.append(frame)
                a.append(stylized)
                return stylized

            process_video(clip, Path(folder) / "out.mp4", process, size=options.size)
            found[decay] = flicker(before, after)
    for decay, (value, static) in found.items():
        print(f"smoothing {decay:g}: {value:.2f} gray levels, over the {static:.0%} of pixels that are static")


def flicker(before: list[Tensor], after: list[Tensor]) -> tuple[float, float]:
    """The mean change of static pixels in gray levels, and the fraction of pixels that are static."""
    changes, static = 0.0, 0
    for i in range(1, len(before)):
        mask = (before[i] - before[i - 1]).abs().amax(1) * 255 < THRESHOLD
        changes += float((after[i] - after[i - 1]).abs().mean(1)[mask].sum()) * 255
        static += int(mask.sum())
    pixels = (len(before) - 1) * before[0].shape[2] * before[0].shape[3]
    return changes / max(1, static), static / max(1, pixels)


def make_clip(path: Path, frames: int = 16) -> Path:
    photograph = np.asarray(images.load(files("sklearn.datasets.images") / "china.jpg")).astype(float)[:426]
    height, width = photograph.shape[:2]
    y, x = np.mgrid[:height, :width]
    draw = np.random.default_rng(0)
    with av.open(str(path), "w") as writer:
        stream = writer.add_stream("libx264", 24, {"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(frames):
            frame = photograph + draw.normal(0, 1, photograph.shape)
            if i % 4 < 2:
                frame[(y - 130) ** 2 + (x - 480) ** 2 < 100**2] = (255, 250, 230)
            picture = av.VideoFrame.from_ndarray(frame.clip(0, 255).astype(np.uint8), format="rgb24")
            writer.mux(stream.encode(picture))
        writer.mux(stream.encode())
    return path


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
