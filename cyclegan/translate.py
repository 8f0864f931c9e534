"""Translate pictures of any size with a trained generator (Zhu et al. 2017)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, overload

from PIL import Image
from torch import Tensor

from cyclegan.models import Generator
from stylekit.networks import weights
from stylekit.networks.export import run_whole
from stylekit.networks.inference import Networks, Run, apply_networks, load_networks
from stylekit.networks.tiling import Smoothing
from stylekit.options import Keep
from stylekit.pictures.images import to_signed, to_unit
from stylekit.pictures.inputs import Picture

Direction = Literal["x2y", "y2x", "AtoB", "BtoA"]


@overload
def translate(image: Tensor, generator: Networks[Generator], **options: Any) -> Tensor: ...
@overload
def translate(image: Picture, generator: Networks[Generator], **options: Any) -> Image.Image: ...
def translate(  # type: ignore[misc]  # The overloads leave out the options.
    image: Picture | Tensor,
    generator: Networks[Generator],
    *,
    stroke_size: float = 1.0,
    strength: float = 1.0,
    preserve_color: bool = False,
    draft: bool | None = None,
    mask: Picture | Tensor | None = None,
    keep: Keep | None = None,
    tile: int | None = None,
    smoothing: Smoothing | None = None,
) -> Tensor | Image.Image:
    """Translate pictures of any size. Threads may share a generator, but not the smoothing.

    Pictures are padded by reflection, and processed in tiles if they are large (see `run_tiled`). The authors' test.py
    computes `to_unit(generator(to_signed(image)))` for pictures of 256 x 256 pixels.

    Args:
        image: A PIL image, the path of a picture, an array (H, W, 3) of uint8 or of floats in [0, 1], or a tensor
            (3, H, W) or (B, 3, H, W) of floats in [0, 1].
        generator: A generator, which runs in eval mode, or an argument of `load_generator`, which then loads it in
            every call. A mapping from several of these to weights blends their results.
        stroke_size: Relative size of the strokes, which grow with pictures larger than 640 px (see `render`).
        strength: Weight of the painting against the photograph, from 0 to 1.
        preserve_color: Keep the colors of the photograph.
        draft: Paint the photograph with brush strokes before the network sees it (see `with_draft`). None: as the
            config of the network says.
        mask: White is painted, black keeps the photograph; a picture, or a tensor (see `paint_weight`).
        keep: "faces" keeps the photograph where faces are found (see `find_faces`).
        tile: Side of the tiles in pixels. None: 256, or the whole picture if it is small.
        smoothing: Reduces flicker if `image` is the next frame of a video; B must be 1.

    Returns:
        A tensor of the same shape, type and device in [0, 1] for a tensor; otherwise a PIL image, RGB, upright and on
        white.

    Raises:
        FileNotFoundError: The picture, the mask or the generator does not exist.
        ValueError: A picture is damaged, or has another shape, type or range; an option is out of range.

    Examples:
        >>> translate(Image.new("RGB", (80, 60), "green"), "landscape2vangogh", stroke_size=2).size
        (80, 60)
    """
    generators = load_networks(generator, Generator, load_generator)
    look = stroke_size, strength, preserve_color, draft, mask, keep
    return apply_networks(image, generators, forward, *look, tile, smoothing)


def forward(image: Tensor, generator: Generator, run: Run = run_whole) -> Tensor:
    """Run a generator on pictures (B, 3, H, W) in [0, 1]; by default as an exported file does it."""
    return to_unit(run(to_signed(image), generator)).clamp(0, 1)


def load_generator(name: str | Path | None = None, direction: Direction = "x2y") -> Generator:
    """Load a trained generator in eval mode.

    Args:
        name: A bundled network, a folder with config.json and model.safetensors, a training run (a folder with G/ and
            F/), an official .pth file, or a Hugging Face Hub id (hf:owner/name). None: the bundled landscape2vangogh,
            or vangogh2landscape for direction "y2x".
        direction: "x2y" loads G of a training run, "y2x" loads F.

    Raises:
        FileNotFoundError: The generator does not exist; the message lists the bundled networks.
        ValueError: The weights do not fit, or "y2x" is requested of a single network.
        OSError: The Hub cannot be reached.
    """
    backwards = direction in ("y2x", "BtoA")
    if name is None:
        name, backwards = ("vangogh2landscape" if backwards else "landscape2vangogh"), False
    found = weights.find(name)
    if isinstance(found, Path):
        if (found / "G").is_dir():
            found = found / ("F" if backwards else "G")
        elif backwards:
            raise ValueError(
                f"--direction {direction}: {name} is a single network for one direction; expected a training run"
            )
    return weights.load(Generator, found, "a generator", "a training run with G/ and F/")
