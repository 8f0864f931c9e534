"""Neural style transfer by optimizing the image (Gatys, Ecker & Bethge 2016).

Departures from the paper:

* The image is optimized coarse to fine, because strokes larger than the receptive field cannot form at full size.
* The initial image is the photograph, unless noise is requested.
* The first convolution replicates the border. The later ones pad with zeros, which would become visible as a frame, so
  the image is optimized with a reflected margin that is cropped at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from gatys.objective import Objective, Region, tile_size
from gatys.optim import OptimizerState, optimize
from gatys.options import StylizeConfig
from gatys.regions import Masks, blend_grams, resize, split_by_color
from gatys.styles import Preset, Style, check_preset
from stylekit.devices import to_device
from stylekit.networks.vgg import VGGFeatures
from stylekit.pictures.color import color_moments, match_colors, with_luma_of


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


def stylize(
    content: Tensor,
    styles: Sequence[Style],
    config: StylizeConfig | None = None,
    *,
    network: VGGFeatures | None = None,
    content_mask: Tensor | None = None,
    style_masks: Sequence[Tensor] = (),
    init: Tensor | None = None,
    on_step: Callable[[Step], object] | None = None,
) -> Tensor:
    """Render a photograph in the style of paintings.

    Args:
        content: The photograph, (1, 3, H, W) in [0, 1], on any device.
        styles: Paintings in [0, 1], of any size, or presets.
        config: Options; default: `StylizeConfig()`.
        network: Result of `build_network(config)`, which is called by default.
        content_mask: (1, 3, H, W) in black, white and pure colors. Without `style_masks`, white is stylized and black
            is kept. With them, each color is a region that takes the style of the paintings' regions of that color.
        style_masks: One per painting.
        init: Initial image; overrides `config.init`.
        on_step: Called after each step. If it returns False, the current image is the result.

    Returns:
        (1, 3, h, w) in [0, 1], on the content's device.

    Raises:
        ValueError: A shape or a combination of arguments is invalid; a preset was made with another network or lacks a
            layer; a color of the content mask is missing in a style mask.
        FloatingPointError: The loss is infinite or NaN; try a smaller learning rate.
    """
    config = config or StylizeConfig()
    _check_arguments(content, styles, config, content_mask, style_masks, init)
    network = network or build_network(config)
    photograph = content.to(network.mean.device)
    styles = [_prepare_style(style, photograph, network, config) for style in styles]
    masks = split_by_color(content_mask, style_masks, len(styles))

    sizes = scale_sizes(content.shape[2], content.shape[3], config)
    image = _initial_image(photograph, styles, config, init, sizes[0])
    state = OptimizerState()
    stop = False
    for i, size in enumerate(sizes):
        objective = _objective(photograph, styles, masks, network, config, size)
        steps = optimize(_resize_and_pad(image, size), objective, config, state)
        for number, (terms, padded) in enumerate(steps, start=i * config.steps + 1):
            image = _crop(padded, size)
            step = Step(number, len(sizes) * config.steps, size, terms, image)
            stop = on_step is not None and on_step(step) is False
            if stop:
                break
        if stop:
            break
    keep_mask = None if style_masks else content_mask
    return _finish(image, resize(photograph, sizes[-1]), keep_mask, config).to(content.device)


def build_network(config: StylizeConfig, device: torch.device | str = "cpu") -> VGGFeatures:
    """The network with the layers of `config`, its activations normalized as in Gatys et al.

    Raises:
        ValueError: A layer does not exist (the message lists those that do), or the weights do not fit.
        OSError: The weights cannot be read or downloaded.
    """
    layers = dict.fromkeys((config.content_layer, *config.style_layers))
    network = VGGFeatures(layers, config.network, config.vgg_weights, config.pooling, config.padding, normalize=True)
    return to_device(network, device)


def scale_sizes(height: int, width: int, config: StylizeConfig) -> list[tuple[int, int]]:
    """Height and width of the image at each scale, coarse to fine; the last is the size of the result."""
    longer = max(height, width)
    final = config.size or min(512, longer)
    sizes = [final]
    while (smaller := round(final / math.sqrt(2) ** len(sizes))) >= config.min_size:
        sizes.append(smaller)
    return [(max(1, round(height * s / longer)), max(1, round(width * s / longer))) for s in reversed(sizes)]


def _check_arguments(
    content: Tensor,
    styles: Sequence[Style],
    config: StylizeConfig,
    content_mask: Tensor | None,
    style_masks: Sequence[Tensor],
    init: Tensor | None,
) -> None:
    pictures = {"content": content, "content mask": content_mask, "initial image": init}
    pictures |= {f"style {i}": s for i, s in enumerate(styles, 1) if isinstance(s, Tensor)}
    pictures |= {f"style mask {i}": m for i, m in enumerate(style_masks, 1)}
    for name, picture in pictures.items():
        if picture is not None and (picture.ndim != 4 or picture.shape[:2] != (1, 3) or 0 in picture.shape):
            raise ValueError(f"{name}: expected a picture of shape (1, 3, H, W), got {tuple(picture.shape)}")
    if not styles:
        raise ValueError("expected at least one style")
    if config.style_weights and len(config.style_weights) != len(styles):
        raise ValueError(f"--style-weights: got {len(config.style_weights)} weights for {len(styles)} styles")
    presets = any(isinstance(style, Preset) for style in styles)
    if style_masks and (content_mask is None or len(style_masks) != len(styles) or presets):
        raise ValueError("style masks require a content mask, and one style mask per style; presets have no regions")
    if presets and config.preserve_color == "histogram":
        raise ValueError("--preserve-color histogram: a preset has no colors to change; use luminance")
    if init is None and config.init not in ("content", "noise", "style"):
        raise ValueError(f"--init {config.init}: expected content, noise, style, or a picture file")
    if init is None and config.init == "style" and not isinstance(styles[0], Tensor):
        raise ValueError("--init style: the first style is a preset, which has no picture to start from")


def _prepare_style(style: Style, photograph: Tensor, network: VGGFeatures, config: StylizeConfig) -> Style:
    if isinstance(style, Preset):
        check_preset(style, network, config.style_layers)
        return style
    style = style.to(photograph.device)
    return match_colors(style, color_moments(photograph)) if config.preserve_color == "histogram" else style


def _initial_image(
    photograph: Tensor, styles: Sequence[Style], config: StylizeConfig, init: Tensor | None, size: tuple[int, int]
) -> Tensor:
    if init is not None:
        return init.to(photograph.device)
    if config.init == "noise":
        noise = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(config.seed))
        return (0.5 + 0.2 * noise).clamp(0, 1).to(photograph.device)
    if config.init == "style":
        assert isinstance(styles[0], Tensor)
        return styles[0]
    return photograph


def _objective(
    photograph: Tensor,
    styles: Sequence[Style],
    masks: Sequence[Masks],
    network: VGGFeatures,
    config: StylizeConfig,
    size: tuple[int, int],
) -> Objective:
    """The objective at one scale, for an image with a reflected margin."""
    longest = max(size) * config.style_scale
    regions = [
        Region(
            None if mask.content is None else _resize_and_pad(mask.content, size),
            blend_grams(styles, mask.styles, network, config, longest),
        )
        for mask in masks
    ]
    content = _resize_and_pad(photograph, size)
    height, width = content.shape[2:]
    return Objective(network, content, regions, config, tile_size(network, (height, width), config))


def _margin(size: tuple[int, int]) -> int:
    """Width of the reflected margin: 1/64 of the longer side, as far as the shorter side allows reflection."""
    return min(max(size) // 64, min(size) - 1)


def _resize_and_pad(image: Tensor, size: tuple[int, int]) -> Tensor:
    margin = _margin(size)
    image = resize(image, size)
    return functional.pad(image, (margin,) * 4, mode="reflect") if margin else image


def _crop(padded: Tensor, size: tuple[int, int]) -> Tensor:
    margin = _margin(size)
    return padded[..., margin : margin + size[0], margin : margin + size[1]]


def _finish(image: Tensor, photograph: Tensor, keep_mask: Tensor | None, config: StylizeConfig) -> Tensor:
    """Resize to the final size, then restore the photograph's chroma or its masked pixels where requested."""
    height, width = photograph.shape[2:]
    image = resize(image, (height, width)).clamp(0, 1)
    if config.preserve_color == "luminance":
        image = with_luma_of(image, photograph)
    if keep_mask is not None:
        stylized = keep_mask.to(image.device).mean(1, keepdim=True)
        image = torch.lerp(photograph, image, functional.interpolate(stylized, (height, width), mode="bilinear"))
    return image
