"""Regions and their styles: masks by color, blended Gram matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

from gatys.objective import gram_matrices, tile_size
from gatys.options import StylizeConfig
from gatys.styles import Preset, Style, mean_grams
from stylekit.networks.vgg import VGGFeatures

COLORS = ("black", "blue", "green", "cyan", "red", "magenta", "yellow", "white")


class Masks(NamedTuple):
    """The masks of one region, (1, 1, H, W) each; None for the whole picture."""

    content: Tensor | None
    styles: Sequence[Tensor | None]


def split_by_color(regions: Tensor | None, style_regions: Sequence[Tensor], styles: int) -> list[Masks]:
    """The masks of each region, one region per color of `regions`.

    Args:
        regions: Those of the photograph, (1, 3, H, W) in [0, 1]; each pixel counts as the nearest of `COLORS`. None:
            the only region is the whole picture.
        style_regions: One for each of the `styles`.

    Raises:
        ValueError: A color of `regions` is missing in the regions of a style.
    """
    if regions is None:
        return [Masks(None, [None] * styles)]
    indices = _color_indices(regions)
    split = []
    for color in sorted(set(indices.unique().tolist())):
        masks = [(_color_indices(mask) == color).float() for mask in style_regions]
        for i, mask in enumerate(masks, 1):
            if not mask.any():
                raise ValueError(
                    f"style regions {i} have no {COLORS[color]}, but those of the photograph have; "
                    "every color of --regions must occur in each of --style-regions"
                )
        split.append(Masks((indices == color).float(), masks))
    return split


def blend_grams(
    styles: Sequence[Style], masks: Sequence[Tensor | None], network: VGGFeatures, config: StylizeConfig, longest: float
) -> dict[str, Tensor]:
    """Gram matrices by layer: the mean over the styles, weighted by `config.style_weights`.

    Args:
        masks: The region of each painting, (1, 1, H, W) in [0, 1]; None for presets and whole paintings.
        longest: Longer side in pixels that paintings are shrunk to; they are never enlarged.
    """
    weights = config.style_weights or (1.0,) * len(styles)
    return mean_grams(
        (_style_grams(style, mask, network, config, longest) for style, mask in zip(styles, masks, strict=True)),
        weights,
    )


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(1, 3, H, W) -> (1, 3, *size), bicubic with antialiasing; always a copy."""
    if tuple(image.shape[2:]) == size:
        return image.detach().clone()
    resized = functional.interpolate(image.detach(), size, mode="bicubic", antialias=True, align_corners=False)
    return resized.clamp(0, 1)


def _style_grams(
    style: Style, mask: Tensor | None, network: VGGFeatures, config: StylizeConfig, longest: float
) -> dict[str, Tensor]:
    if isinstance(style, Preset):
        device = network.mean.device
        return {layer: gram.to(device) for layer, gram in style.at(longest).items() if layer in config.style_layers}
    scale = min(1.0, longest / max(style.shape[2:]))
    size = (max(1, round(style.shape[2] * scale)), max(1, round(style.shape[3] * scale)))
    return gram_matrices(network, resize(style, size), config.style_layers, mask, tile_size(network, size, config))


def _color_indices(mask: Tensor) -> Tensor:
    """Index of the nearest of `COLORS`, (1, 1, H, W)."""
    bits = (mask > 0.5).long()
    return bits[:, 0:1] * 4 + bits[:, 1:2] * 2 + bits[:, 2:3]
