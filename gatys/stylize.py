"""Neural style transfer by optimizing the image (Gatys, Ecker & Bethge 2016).

Departures from the paper:

* The image is optimized coarse to fine, because strokes larger than the receptive field cannot form at full size.
* The initial image is the photograph, unless noise is requested.
* The first convolution replicates the border. The later ones pad with zeros, which would become visible as a frame, so
  the image is optimized with a reflected margin that is cropped at the end.
"""

from __future__ import annotations

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
from stylekit.pictures import images
from stylekit.pictures.color import color_moments, match_colors, with_luma_of
from stylekit.pictures.inputs import Picture, like, to_batch

Styles: TypeAlias = "Picture | Style | Sequence[Picture | Style]"
"""Pictures of paintings, presets, and their names."""


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
    content_mask: Picture | Tensor | None = None,
    style_masks: Sequence[Picture | Tensor] = (),
    init: Picture | Tensor | None = None,
    on_step: Callable[[Step], object] | None = None,
) -> Tensor | Image.Image:
    """Render a photograph in the style of paintings.

    A picture is a PIL image, the path of a file, an array (H, W, 3) of uint8 or of floats in [0, 1], or a tensor
    (3, H, W) or (1, 3, H, W) of floats in [0, 1].

    Args:
        content: The photograph.
        styles: One style or several: pictures of paintings, of any size; presets; names or files of presets.
        config: Options; default: `StylizeConfig()`.
        network: Result of `build_network(config)`, which is called by default.
        content_mask: A picture in black, white and pure colors. Without `style_masks`, white is stylized and black is
            kept. With them, each color is a region that takes the style of the paintings' regions of that color.
        style_masks: One picture per painting.
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
    network = network or build_network(config)
    photograph = _load("content", content, network)
    loaded = [
        _load_style(f"style {i}", style, photograph, network, config)
        for i, style in enumerate(styles if isinstance(styles, list | tuple) else [styles], start=1)
    ]
    keep_mask = None if content_mask is None else _load("content mask", content_mask, network)
    regions = [_load(f"style mask {i}", mask, network) for i, mask in enumerate(style_masks, start=1)]
    _check_arguments(loaded, config, keep_mask, regions, init)
    masks = split_by_color(keep_mask, regions, len(loaded))
    sizes = scale_sizes(photograph.shape[2], photograph.shape[3], config)
    if init is None:
        image = _initial_image(photograph, loaded, config, sizes[0])
    else:
        image = _load("initial image", init, network)
    for step in _optimize(image, photograph, loaded, masks, network, config, sizes):
        image = step.current
        if on_step is not None and on_step(step) is False:
            break
    return like(content, _finish(image, resize(photograph, sizes[-1]), None if regions else keep_mask, config))


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
    content_mask: Tensor | None,
    style_masks: Sequence[Tensor],
    init: object,
) -> None:
    if not styles:
        raise ValueError("expected at least one style")
    if config.style_weights and len(config.style_weights) != len(styles):
        raise ValueError(f"--style-weights: got {len(config.style_weights)} weights for {len(styles)} styles")
    presets = any(isinstance(style, Preset) for style in styles)
    if style_masks and (content_mask is None or len(style_masks) != len(styles) or presets):
        raise ValueError("--style-mask needs --content-mask and one mask per style; presets have no regions")
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


def _finish(image: Tensor, photograph: Tensor, keep_mask: Tensor | None, config: StylizeConfig) -> Tensor:
    """Resize to the final size, then restore the photograph's chroma or its masked pixels where requested."""
    height, width = photograph.shape[2:]
    image = resize(image, (height, width)).clamp(0, 1)
    if config.preserve_color == "luminance":
        image = with_luma_of(image, photograph)
    if keep_mask is not None:
        stylized = keep_mask.mean(1, keepdim=True)
        image = torch.lerp(photograph, image, functional.interpolate(stylized, (height, width), mode="bilinear"))
    return image
