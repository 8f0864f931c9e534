"""Stylize pictures and videos of any size with a trained network (Johnson et al. 2016)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, overload

from PIL import Image
from torch import Tensor

from johnson.models import TransformerNet
from stylekit.networks import weights
from stylekit.networks.export import run_whole
from stylekit.networks.inference import Networks, Run, apply_networks, load_networks
from stylekit.networks.tiling import Smoothing
from stylekit.options import Keep
from stylekit.pictures.inputs import Picture

KIND = "johnson"
"""Subfolder of weights/ with the bundled styles."""


@overload
def stylize(image: Tensor, network: Networks[TransformerNet], **options: Any) -> Tensor: ...
@overload
def stylize(image: Picture, network: Networks[TransformerNet], **options: Any) -> Image.Image: ...
def stylize(  # type: ignore[misc]  # The overloads leave out the options.
    image: Picture | Tensor,
    network: Networks[TransformerNet],
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
    """Stylize photographs of any size. Threads may share a network, but not the smoothing.

    Pictures are padded by reflection, and processed in tiles if they are large (see `run_tiled`). Every call uses the
    same input noise (`fixed_noise`).

    Args:
        image: A PIL image, the path of a picture, an array (H, W, 3) of uint8 or of floats in [0, 1], or a tensor
            (3, H, W) or (B, 3, H, W) of floats in [0, 1].
        network: A network, which runs in eval mode, or an argument of `load_network`, which then loads it in every
            call. A mapping from several of these to weights blends their results.
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
        FileNotFoundError: The picture, the mask or the network does not exist.
        ValueError: A picture is damaged, or has another shape, type or range; an option is out of range.

    Examples:
        >>> stylize(Image.new("RGB", (80, 60), "green"), "starry-night", stroke_size=2).size
        (80, 60)
    """
    networks = load_networks(network, TransformerNet, load_network)
    look = stroke_size, strength, preserve_color, draft, mask, keep
    return apply_networks(image, networks, forward, *look, tile, smoothing)


def forward(image: Tensor, network: TransformerNet, run: Run = run_whole) -> Tensor:
    """Run a network on pictures (B, 3, H, W) in [0, 1]; by default as an exported file does it."""
    return run(image, network).clamp(0, 1)


def load_network(name: str | Path = "starry-night") -> TransformerNet:
    """Load a trained network in eval mode.

    Args:
        name: A bundled style, a folder with config.json and model.safetensors, a training run (a folder with model/), a
            .pth file of fast_neural_style, or a Hugging Face Hub id (hf:owner/name).

    Raises:
        FileNotFoundError: The network does not exist; the message lists the bundled styles.
        ValueError: The weights are damaged or belong to another network.
        OSError: The Hub cannot be reached.
    """
    found = weights.find(name, KIND)
    if isinstance(found, Path) and (found / "model").is_dir():
        found = found / "model"
    return weights.load(TransformerNet, found, "a style network", "a training run with model/")
