"""Neural style transfer by optimizing the image (Gatys, Ecker & Bethge 2016).

Departures from the paper:

* The image is optimized coarse to fine, because strokes larger than the receptive field cannot form at full size.
* The initial image is the photograph, unless noise is requested.
* The first convolution replicates the border. The later ones pad with zeros, which would become visible as a frame, so
  the image is optimized with a reflected margin that is cropped at the end.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, overload

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from gatys.objective import Objective, Region, tile_size
from gatys.optim import OptimizerState, optimize
from gatys.options import StylizeConfig
from gatys.regions import Masks, blend_grams, resize, split_by_color
from gatys.styles import Preset, Style, check_preset, load_preset
from stylekit.devices import to_device
from stylekit.networks.vgg import VGGFeatures
from stylekit.options import Keep, check_weights
from stylekit.pictures import images
from stylekit.pictures.color import color_moments, match_colors
from stylekit.pictures.inputs import Picture, like, to_batch
from stylekit.pictures.masks import paint_weight
from stylekit.pictures.strokes import combine

Styles: TypeAlias = "Picture | Style | Sequence[Picture | Style] | Mapping[str | Path | Tensor, float]"
"""Pictures of paintings, presets and their names; or a mapping from styles to weights."""


@dataclass(frozen=True)
class Step:
    """The argument of `on_step`, after each step."""

    number: int
    """Number of the step over all scales, from 1."""
    total: int
    """Number of steps over all scales."""
    size: tuple[int, int]
    """Height and width at this scale."""
    terms: Mapping[str, Tensor]
    """The weighted loss terms before the step, on the device."""
    current: Tensor
    """The current image, (1, 3, h, w): a view that later steps may change, possibly slightly outside [0, 1]."""

    def image(self) -> Tensor:
        """A copy of the current image in [0, 1]."""
        return self.current.clamp(0, 1)


@overload
def stylize(content: Tensor, styles: Styles, config: StylizeConfig | None = ..., **options: Any) -> Tensor: ...
@overload
def stylize(content: Picture, styles: Styles, config: StylizeConfig | None = ..., **options: Any) -> Image.Image: ...
def stylize(  # type: ignore[misc]  # The overloads leave out the options.
    content: Picture | Tensor,
    styles: Styles,
    config: StylizeConfig | None = None,
    *,
    network: VGGFeatures | None = None,
    mask: Picture | Tensor | None = None,
    keep: Keep | None = None,
    regions: Picture | Tensor | None = None,
    style_regions: Sequence[Picture | Tensor] = (),
    init: Picture | Tensor | None = None,
    on_step: Callable[[Step], object] | None = None,
) -> Tensor | Image.Image:
    """Render a photograph in the style of paintings.

    A picture is a PIL image, the path of a file, an array (H, W, 3) of uint8 or of floats in [0, 1], or a tensor
    (3, H, W) or (1, 3, H, W) of floats in [0, 1].

    Args:
        content: The photograph.
        styles: One style or several: pictures of paintings, of any size; presets; names or files of presets. A mapping
            from files, names or tensors to weights sets `config.style_weights`.
        config: Options; default: `StylizeConfig()`.
        network: Result of `build_network(config)`, which is called by default.
        mask: White is painted, black keeps the photograph; a picture, or a tensor (see `paint_weight`).
        keep: "faces" keeps the photograph where faces are found (see `find_faces`).
        regions: A picture in black, white and pure colors. Each color is a region that takes the style of the
            paintings' regions of that color.
        style_regions: One such picture per painting.
        init: Initial image; overrides `config.init`.
        on_step: Called after each step. If it returns False, the current image is the result.

    Returns:
        A tensor (3, h, w) or (1, 3, h, w) in [0, 1] for a tensor, of its type and on its device; otherwise a PIL image.

    Raises:
        FileNotFoundError: A picture or a preset does not exist.
        ValueError: An argument is invalid, or does not fit the others.
        FloatingPointError: The loss is infinite or NaN; try a smaller learning rate.
    """
    config = config or StylizeConfig()
    if isinstance(styles, Mapping):
        config, styles = dataclasses.replace(config, style_weights=tuple(styles.values())), list(styles)
    network = network or build_network(config)
    photograph = _load("content", content, network)
    loaded = [
        _load_style(f"style {i}", style, photograph, network, config)
        for i, style in enumerate(styles if isinstance(styles, list | tuple) else [styles], start=1)
    ]
    by_color = None if regions is None else _load("regions", regions, network)
    in_styles = [_load(f"style regions {i}", picture, network) for i, picture in enumerate(style_regions, start=1)]
    _check_arguments(loaded, config, by_color, in_styles, init)
    masks = split_by_color(by_color, in_styles, len(loaded))
    sizes = scale_sizes(photograph.shape[2], photograph.shape[3], config)
    resized = resize(photograph, sizes[-1])
    weight = paint_weight(resized, mask, keep)
    if init is None:
        image = _initial_image(photograph, loaded, config, sizes[0])
    else:
        image = _load("initial image", init, network)
    for step in _optimize(image, photograph, loaded, masks, network, config, sizes):
        image = step.current
        if on_step is not None and on_step(step) is False:
            break
    image = resize(image, sizes[-1]).clamp(0, 1)
    return like(content, combine(resized, image, weight, config.preserve_color == "luminance"))


def build_network(config: StylizeConfig, device: torch.device | str = "cpu") -> VGGFeatures:
    """The network with the layers of `config`, normalized as in Gatys et al.; raises what `VGGFeatures` raises."""
    layers = dict.fromkeys((config.content_layer, *config.style_layers))
    network = VGGFeatures(layers, config.network, config.vgg_weights, config.pooling, "replicate", normalize=True)
    return to_device(network, device)


def scale_sizes(height: int, width: int, config: StylizeConfig) -> list[tuple[int, int]]:
    """Height and width of the image at each scale, coarse to fine; the last is the size of the result."""
    longer = max(height, width)
    final = config.size or min(512, longer)
    sizes = [final]
    while (smaller := round(final / math.sqrt(2) ** len(sizes))) >= config.min_size:
        sizes.append(smaller)
    return [(max(1, round(height * s / longer)), max(1, round(width * s / longer))) for s in reversed(sizes)]


def _load(name: str, picture: Picture | Tensor, network: VGGFeatures) -> Tensor:
    try:
        image = to_batch(picture, network.mean.device, network.mean.dtype)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if len(image) > 1:
        raise ValueError(f"{name}: expected one picture, got a batch of {len(image)}")
    return image


def _load_style(
    name: str, style: Picture | Style, photograph: Tensor, network: VGGFeatures, config: StylizeConfig
) -> Style:
    """A preset that fits the network, or a painting, in the colors of the photograph if requested."""
    if isinstance(style, str | Path) and Path(style).suffix.lower() not in (*images.FORMATS, *images.READ_ONLY):
        style = load_preset(style)
    if isinstance(style, Preset):
        check_preset(style, network, config.style_layers)
        return style
    painting = _load(name, style, network)
    return match_colors(painting, color_moments(photograph)) if config.preserve_color == "histogram" else painting


def _check_arguments(
    styles: Sequence[Style],
    config: StylizeConfig,
    regions: Tensor | None,
    style_regions: Sequence[Tensor],
    init: object,
) -> None:
    if not styles:
        raise ValueError("expected at least one style")
    check_weights("style_weights", config.style_weights)
    if config.style_weights and len(config.style_weights) != len(styles):
        raise ValueError(f"style_weights: got {len(config.style_weights)} weights for {len(styles)} styles")
    presets = any(isinstance(style, Preset) for style in styles)
    if (regions is not None or style_regions) and (regions is None or len(style_regions) != len(styles) or presets):
        raise ValueError("--regions needs one picture per painting in --style-regions; bundled styles have no regions")
    if presets and config.preserve_color == "histogram":
        raise ValueError("--preserve-color histogram: a preset has no colors to change; use luminance")
    if init is None and config.init not in ("content", "noise", "style"):
        raise ValueError(f"--init {config.init}: expected content, noise, style, or a picture file")
    if init is None and config.init == "style" and isinstance(styles[0], Preset):
        raise ValueError("--init style needs a painting; a preset has no picture to start from")


def _initial_image(photograph: Tensor, styles: Sequence[Style], config: StylizeConfig, size: tuple[int, int]) -> Tensor:
    if config.init == "noise":
        noise = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(config.seed))
        return (0.5 + 0.2 * noise).clamp(0, 1).to(photograph.device)
    return styles[0] if config.init == "style" and isinstance(styles[0], Tensor) else photograph


def _optimize(
    image: Tensor,
    photograph: Tensor,
    styles: Sequence[Style],
    masks: Sequence[Masks],
    network: VGGFeatures,
    config: StylizeConfig,
    sizes: Sequence[tuple[int, int]],
) -> Iterator[Step]:
    """Optimize the image, with a reflected margin, at each scale."""
    state, number = OptimizerState(), 0
    for size in sizes:
        regions = [
            Region(
                None if mask.content is None else _resize_and_pad(mask.content, size),
                blend_grams(styles, mask.styles, network, config, max(size) * config.style_scale),
            )
            for mask in masks
        ]
        content, margin = _resize_and_pad(photograph, size), _margin(size)
        tile = tile_size(network, (content.shape[2], content.shape[3]), config)
        objective = Objective(network, content, regions, config, tile)
        for terms, padded in optimize(_resize_and_pad(image, size), objective, config, state):
            number += 1
            image = padded[..., margin : margin + size[0], margin : margin + size[1]]
            yield Step(number, len(sizes) * config.steps, size, terms, image)


def _margin(size: tuple[int, int]) -> int:
    """Width of the reflected margin: 1/64 of the longer side, as far as the shorter side allows reflection."""
    return min(max(size) // 64, min(size) - 1)


def _resize_and_pad(image: Tensor, size: tuple[int, int]) -> Tensor:
    margin = _margin(size)
    image = resize(image, size)
    return functional.pad(image, (margin,) * 4, mode="reflect") if margin else image
