"""Painting by optimisation (Gatys, Ecker & Bethge 2016): of a photograph, what it shows; of paintings, how.

Departures from the paper: the picture grows from coarse to fine, each scale starting from the last, because strokes
that are larger than what the network sees cannot be found at full size; the start is the photograph, unless noise is
asked for; the first convolution repeats the border instead of seeing a black frame around the picture. The later ones
do see one, and would paint it: so the picture is worked on with a mirrored margin, which is cut off in the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from gatys.lbfgs import HISTORY, LBFGS
from gatys.objective import MARGIN, Objective, Region, bytes_per_pixel, gram_matrices
from gatys.options import StylizeConfig
from gatys.styles import Preset, check_preset
from stylekit import images
from stylekit.tiling import free_memory
from stylekit.vgg import VGGFeatures

FIRST_STEP = 0.02
LONGEST_STEP = 0.2
"""Of L-BFGS, root mean squares over the pixels: a line search would cost a second evaluation for each step. The first
step, which knows no scale yet, is made as long as said."""


@dataclass(frozen=True)
class Step:
    """What `on_step` is told after each step."""

    number: int
    """Of the step, over all scales, from 1."""
    total: int
    size: tuple[int, int]
    """Height and width at this scale."""
    terms: Mapping[str, Tensor]
    """The weighted terms of the loss before the step, on the device."""
    current: Tensor
    """What is optimised: the picture so far, (1, 3, h, w), a view that changes, perhaps a little outside [0, 1]."""

    def image(self) -> Tensor:
        """The picture so far, a copy in [0, 1]."""
        return self.current.clamp(0, 1)


def stylize(
    content: Tensor,
    styles: Sequence[Tensor | Preset],
    config: StylizeConfig | None = None,
    *,
    network: VGGFeatures | None = None,
    content_mask: Tensor | None = None,
    style_masks: Sequence[Tensor] = (),
    init: Tensor | None = None,
    on_step: Callable[[Step], object] | None = None,
) -> Tensor:
    """Paint a photograph in the style of paintings.

    Args:
        content: The photograph, (1, 3, H, W) in [0, 1], on any device.
        styles: Paintings, of any sizes, in [0, 1], or presets.
        config: All that can be chosen.
        network: What `build_network(config)` returns; made here if it is not given.
        content_mask: (1, 3, H, W), in black, white and pure colours. Without `style_masks`, white is painted and black
            kept. With them, each colour is a region that takes the style of the regions of that colour.
        style_masks: One for each painting.
        init: The picture to start from, instead of what `config.init` says.
        on_step: Called after each step. If it returns False, the picture so far is the result.

    Returns:
        (1, 3, h, w) in [0, 1], on the content's device.

    Raises:
        ValueError: A shape, or a combination of arguments, makes no sense; a preset was made with another network, or
            lacks a layer; a region of the content mask is in no style mask.
        FloatingPointError: The loss is no longer finite; try a smaller learning rate.
    """
    config = config or StylizeConfig()
    _check(content, styles, config, content_mask, style_masks, init)
    network = network or build_network(config)
    device = network.mean.device
    shares = _shares(config.style_weights, len(styles))
    paintings = [style if isinstance(style, Preset) else style.to(device) for style in styles]
    for style in styles:
        if isinstance(style, Preset):
            check_preset(style, network, config.style_layers)
    photograph = content.to(device)
    if config.preserve_color == "histogram":
        paintings = [_recolor(p, photograph) if isinstance(p, Tensor) else p for p in paintings]
    regions = _regions(content_mask, style_masks, len(styles))

    sizes = plan(content.shape[2], content.shape[3], config)
    image = _start(photograph, paintings, config, init, sizes[0])
    memory = LBFGS(sizes[0], device)
    moments: dict[str, Tensor] = {}
    for i, size in enumerate(sizes):
        longer = max(size) * config.style_scale
        margin = _margin(size)
        parts = [
            Region(
                None if mask is None else _extend(resize(mask, size), margin),
                _blend(paintings, masks, shares, network, config, longer),
            )
            for mask, masks in regions
        ]
        extended = _extend(resize(photograph, size), margin)
        height, width = extended.shape[2:]
        objective = Objective(network, extended, parts, config, tile_size(network, (height, width), config))
        start = _extend(resize(image, size), margin)
        stop = False
        if config.optimizer == "lbfgs":
            memory = memory.at((height, width))
            steps = _lbfgs(start, objective, config, memory)
        else:
            steps = _adam(start, objective, config, moments)
        for number, terms, canvas in steps:
            image = canvas[..., margin : height - margin, margin : width - margin]
            if on_step is not None:
                step = Step(i * config.steps + number, len(sizes) * config.steps, size, terms, image)
                stop = on_step(step) is False
            if stop:
                break
        if stop:
            break

    image = resize(image, sizes[-1]).clamp(0, 1)
    photograph = resize(photograph, sizes[-1])
    if config.preserve_color == "luminance":
        image = images.with_luminance_of(image, photograph)
    if content_mask is not None and not style_masks:
        keep = functional.interpolate(content_mask.to(device).mean(1, keepdim=True), sizes[-1], mode="bilinear")
        image = torch.lerp(photograph, image, keep)
    return image.to(content.device)


def build_network(config: StylizeConfig, device: torch.device | str = "cpu") -> VGGFeatures:
    """The network with the layers that `config` names, normalised as Gatys et al. did.

    Raises:
        ValueError: There is no such layer; the message lists those there are. Or the weights do not fit.
        OSError: The weights cannot be read, or downloaded.
    """
    layers = dict.fromkeys((config.content_layer, *config.style_layers))
    network = VGGFeatures(layers, config.network, config.vgg_weights, config.pooling, config.padding, normalize=True)
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def plan(height: int, width: int, config: StylizeConfig) -> list[tuple[int, int]]:
    """Height and width of each scale, coarse to fine; the last is that of the result."""
    longer = max(height, width)
    final = config.size or min(512, longer)
    sizes = [final]
    while (smaller := round(final / math.sqrt(2) ** len(sizes))) >= config.min_size:
        sizes.append(smaller)
    return [(max(1, round(height * s / longer)), max(1, round(width * s / longer))) for s in reversed(sizes)]


def tile_size(network: VGGFeatures, size: tuple[int, int], config: StylizeConfig) -> int | None:
    """The side of the tiles that fit into the memory there is; None if the whole picture does."""
    budget = config.memory * 2**30 if config.memory else 0.5 * free_memory(network.mean.device)
    if memory_needed(network, size, None, config) <= budget:
        return None
    left = budget - memory_needed(network, size, 0, config)
    return max(128, int(math.sqrt(max(0.0, left) / bytes_per_pixel(network)) - 2 * MARGIN) // 16 * 16)


def memory_needed(network: VGGFeatures, size: tuple[int, int], tile: int | None, config: StylizeConfig) -> float:
    """Bytes that a scale needs: for the optimiser, and for the features of a tile or, with None, of everything."""
    pixels = size[0] * size[1]
    # L-BFGS keeps steps and changes of the gradient; besides, there are the picture, its gradient and the like.
    pictures = 12 * pixels * (10 + (2 * HISTORY if config.optimizer == "lbfgs" else 0))
    at_once = pixels if tile is None else min(pixels, (tile + 2 * MARGIN) ** 2) if tile else 0
    return pictures + at_once * bytes_per_pixel(network)


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(1, 3, H, W) -> (1, 3, *size), bicubic, smoothed before it is shrunk."""
    if tuple(image.shape[2:]) == size:
        return image.detach().clone()
    return functional.interpolate(image.detach(), size=size, mode="bicubic", antialias=True, align_corners=False).clamp(
        0, 1
    )


def _margin(size: tuple[int, int]) -> int:
    """How much is mirrored around a picture: a 64th of its longer side, if it is large enough to be mirrored."""
    return min(max(size) // 64, min(size) - 1)


def _extend(image: Tensor, margin: int) -> Tensor:
    return functional.pad(image, (margin,) * 4, mode="reflect") if margin else image


def _check(
    content: Tensor,
    styles: Sequence[Tensor | Preset],
    config: StylizeConfig,
    content_mask: Tensor | None,
    style_masks: Sequence[Tensor],
    init: Tensor | None,
) -> None:
    pictures = {"the content": content, "the content mask": content_mask, "the start": init}
    pictures |= {f"style {i}": s for i, s in enumerate(styles, 1) if isinstance(s, Tensor)}
    pictures |= {f"style mask {i}": m for i, m in enumerate(style_masks, 1)}
    for name, picture in pictures.items():
        if picture is not None and (picture.ndim != 4 or picture.shape[:2] != (1, 3) or 0 in picture.shape):
            raise ValueError(f"{name} must be a picture (1, 3, H, W), got {tuple(picture.shape)}")
    if not styles:
        raise ValueError("at least one style is needed")
    if config.style_weights and len(config.style_weights) != len(styles):
        raise ValueError(f"--style-weights: {len(config.style_weights)} for {len(styles)} styles")
    presets = any(isinstance(style, Preset) for style in styles)
    if style_masks and (content_mask is None or len(style_masks) != len(styles) or presets):
        raise ValueError("style masks need a content mask, and one for each style, which must be paintings")
    if presets and config.preserve_color == "histogram":
        raise ValueError("--preserve-color histogram: a preset has no colours to change; try luminance")
    if init is None and config.init not in ("content", "noise", "style"):
        raise ValueError(f"--init {config.init}: expected content, noise, style, or a file with a picture")
    if init is None and config.init == "style" and not isinstance(styles[0], Tensor):
        raise ValueError("--init style: a preset is no picture to start from")


def _shares(weights: Sequence[float], count: int) -> list[float]:
    weights = weights or [1.0] * count
    return [weight / sum(weights) for weight in weights]


def _start(
    photograph: Tensor,
    styles: Sequence[Tensor | Preset],
    config: StylizeConfig,
    init: Tensor | None,
    size: tuple[int, int],
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


def _lbfgs(
    image: Tensor, objective: Objective, config: StylizeConfig, memory: LBFGS
) -> Iterator[tuple[int, dict[str, Tensor], Tensor]]:
    """The steps at one scale: their numbers, the terms before each, and the picture after it, not clamped."""
    before = gradient_before = None
    for number in range(1, config.steps + 1):
        terms, gradient = _evaluate(objective, image)
        if before is not None and gradient_before is not None:
            memory.learn(image - before, gradient - gradient_before)
        step = memory.propose(gradient) * (config.lr or 1.0)
        length = float(step.square().mean().sqrt())
        if not memory.steps:
            step *= FIRST_STEP / max(length, 1e-30)
        elif length > LONGEST_STEP:
            step *= LONGEST_STEP / length
        before, gradient_before = image, gradient
        image = image + step
        yield number, terms, image


def _adam(
    image: Tensor, objective: Objective, config: StylizeConfig, moments: dict[str, Tensor]
) -> Iterator[tuple[int, dict[str, Tensor], Tensor]]:
    """The same with Adam: the picture is the average over the steps. The moments go on to the next scale."""
    optimizer = torch.optim.Adam([image], lr=config.lr or 0.03, betas=(0.9, 0.99))
    if moments:
        # What it knows of the landscape holds at the next scale as well.
        size = tuple(image.shape[2:])
        optimizer.state[image] = {
            "step": moments["step"],
            "exp_avg": functional.interpolate(moments["exp_avg"], size, mode="bilinear"),
            "exp_avg_sq": functional.interpolate(moments["exp_avg_sq"], size, mode="bilinear"),
        }
    average, weight = image.clone(), 0.0
    for number in range(1, config.steps + 1):
        terms, image.grad = _evaluate(objective, image)
        optimizer.step()
        image.clamp_(0, 1)
        # As Adam does with its moments: the first pictures must not weigh more than the others.
        weight = config.average * weight + 1 - config.average
        average.lerp_(image, (1 - config.average) / weight)
        moments.update(optimizer.state[image])
        yield number, terms, average


def _evaluate(objective: Objective, image: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The terms of the loss, and the gradient of their sum."""
    leaf = image.detach().requires_grad_()
    terms = objective(leaf)
    if not torch.stack(list(terms.values())).sum().isfinite():
        raise FloatingPointError("the loss is no longer finite; try a smaller --lr, or --optimizer adam")
    assert leaf.grad is not None
    return terms, leaf.grad


def _blend(
    styles: Sequence[Tensor | Preset],
    masks: Sequence[Tensor | None],
    shares: Sequence[float],
    network: VGGFeatures,
    config: StylizeConfig,
    longer: float,
) -> dict[str, Tensor]:
    """The Gram matrices of several styles, blended; each painting as large as the result, if it is not smaller."""
    device = network.mean.device
    total: dict[str, Tensor] = {}
    for style, mask, share in zip(styles, masks, shares, strict=True):
        if share == 0:
            continue
        if isinstance(style, Preset):
            grams = {layer: gram.to(device) for layer, gram in style.at(longer).items() if layer in config.style_layers}
        else:
            grams = _painting_grams(style, mask, network, config, longer)
        for layer, gram in grams.items():
            total[layer] = total[layer] + share * gram if layer in total else share * gram
    return total


@torch.no_grad()
def _painting_grams(
    painting: Tensor, mask: Tensor | None, network: VGGFeatures, config: StylizeConfig, longer: float
) -> dict[str, Tensor]:
    scale = min(1.0, longer / max(painting.shape[2:]))
    size = (max(1, round(painting.shape[2] * scale)), max(1, round(painting.shape[3] * scale)))
    painting = resize(painting, size)
    return gram_matrices(network, painting, config.style_layers, mask, tile_size(network, size, config))


def _regions(
    content_mask: Tensor | None, style_masks: Sequence[Tensor], styles: int
) -> list[tuple[Tensor | None, Sequence[Tensor | None]]]:
    """For each region, its mask in the photograph and in each painting, (1, 1, H, W)."""
    if content_mask is None or not style_masks:
        return [(None, [None] * styles)]
    colors = _colors(content_mask)
    regions: list[tuple[Tensor | None, Sequence[Tensor | None]]] = []
    for color in sorted(set(colors.unique().tolist())):
        masks = [(_colors(mask) == color).float() for mask in style_masks]
        for i, mask in enumerate(masks, 1):
            if not mask.any():
                names = ("black", "blue", "green", "cyan", "red", "magenta", "yellow", "white")
                raise ValueError(
                    f"style mask {i} has no {names[color]} region, which the content mask has; "
                    "every colour of the content mask must be in every style mask"
                )
        regions.append(((colors == color).float(), masks))
    return regions


def _colors(mask: Tensor) -> Tensor:
    """The nearest of black, white and the pure colours as a number from 0 to 7, (1, 1, H, W)."""
    bits = (mask > 0.5).long()
    return bits[:, 0:1] * 4 + bits[:, 1:2] * 2 + bits[:, 2:3]


def _recolor(painting: Tensor, photograph: Tensor) -> Tensor:
    """The painting with the mean and the covariance of the photograph's colours (Gatys et al. 2016, Preserving Color in
    Neural Artistic Style Transfer, section 3)."""

    def statistics(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        flat = image[0].flatten(1).double()
        mean = flat.mean(1, keepdim=True)
        covariance = (flat - mean) @ (flat - mean).mT / flat.shape[1] + 1e-6 * torch.eye(3, dtype=torch.double)
        return flat, mean, covariance

    def root(matrix: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        return vectors @ values.clamp(min=0).sqrt().diag() @ vectors.mT

    flat, mean, covariance = statistics(painting.cpu())
    _, wanted_mean, wanted = statistics(photograph.cpu())
    matched = root(wanted) @ torch.linalg.inv(root(covariance)) @ (flat - mean) + wanted_mean
    return matched.clamp(0, 1).to(painting).view_as(painting)
