"""The options of every command: defaults, types, help, and what contradicts what. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from stylekit.options import check_at_least, check_positive, check_shares

STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
"""The style layers of the paper (there called conv1_1 ... conv5_1: it looks behind the ReLU)."""


@dataclass(frozen=True)
class StylizeConfig:
    """What is painted, and how."""

    # The pictures.
    size: int | None = None
    """Longer side of the result, in pixels; default: that of the photograph, but at most 512."""

    style_scale: float = 1.0
    """Size of the painting relative to the result: below 1 for finer strokes, above 1 for broader ones."""

    style_weights: tuple[float, ...] = ()
    """How much of each style, in the order given; default: equal shares."""

    init: str = "content"
    """Where the optimisation starts: content, noise (the paper's choice), style, or a FILE."""

    preserve_color: Literal["none", "luminance", "histogram"] = "none"
    """Keep the colours of the photograph: paint its luminance only, or first give the painting its colours (Gatys et
    al. 2016, Preserving Color in Neural Artistic Style Transfer)."""

    # The objective.
    alpha: float = 1.0
    """Weight of the content loss, per activation: the sum of the paper's eq. 1 divided by N * M."""

    beta: float = 30.0
    """Weight of the style loss (eq. 5)."""

    content_layer: str = "relu4_2"
    """Where the content is compared: earlier layers keep more of the photograph."""

    style_layers: tuple[str, ...] = STYLE_LAYERS
    """Where the style is compared: later layers add larger patterns."""

    layer_weights: tuple[float, ...] = ()
    """Weights w_l of the style layers, which are scaled to sum to 1; default: equal, as in the paper."""

    tv: float = 0.0
    """Weight of the total variation, which smooths."""

    # The network.
    network: Literal["compact", "vgg16", "vgg19"] = "compact"
    """Whose eyes: compact is ours and comes with the library, vgg19 is the paper's and is downloaded once."""

    vgg_weights: str | None = None
    """A file with the weights of vgg16 or vgg19, in any of the usual layouts."""

    pooling: Literal["max", "average"] = "max"
    """How the network halves its layers; the paper found average slightly more appealing."""

    padding: Literal["replicate", "zeros"] = "replicate"
    """What the network sees around the picture; zeros, as published, look like a frame to it."""

    # The optimisation.
    optimizer: Literal["lbfgs", "adam"] = "lbfgs"
    """L-BFGS, as in the paper, or Adam, which needs less memory."""

    steps: int = 40
    """Steps at each scale."""

    min_size: int = 128
    """Longer side at the first scale; from there each scale is larger by the square root of 2. As large as --size: one
    scale, as in the paper."""

    lr: float | None = None
    """Learning rate; default: 1 for L-BFGS, 0.03 for Adam."""

    average: float = 0.9
    """Adam: share that the average over steps, which is the result, keeps at each step; 0 turns averaging off."""

    seed: int = 0
    """Of the noise. The same seed gives the same picture on the same machine."""

    # The machine.
    device: str = "auto"
    """auto, cpu, mps, cuda or cuda:N."""

    memory: float | None = None
    """Gigabytes that may be used; larger pictures are worked on in tiles, with the same result. Default: half of what
    is free."""

    def __post_init__(self) -> None:
        def check(condition: bool, message: str) -> None:
            if not condition:
                raise ValueError(message)

        check_at_least(self, 1, "size", "steps", "min_size")
        check_at_least(self, 0, "alpha", "beta", "tv", "seed")
        check_positive(self, "style_scale", "lr", "memory")
        check(0 <= self.average < 1, f"--average must lie in [0, 1), got {self.average}")
        check(self.alpha + self.beta > 0, "--alpha and --beta are both 0: nothing to optimise")
        check(len(self.style_layers) > 0, "--style-layers: expected at least one layer")
        check(len(set(self.style_layers)) == len(self.style_layers), "--style-layers: a layer is named twice")
        check_shares(self, "layer_weights")
        check_shares(self, "style_weights")
        if self.layer_weights:
            count = len(self.style_layers)
            check(
                len(self.layer_weights) == count, f"--layer-weights: {len(self.layer_weights)} for {count} style layers"
            )
        if self.vgg_weights is not None and self.network == "compact":
            raise ValueError("--vgg-weights: the compact network has weights of its own; add --network vgg19 or vgg16")


@dataclass(frozen=True)
class PaintConfig(StylizeConfig):
    """Paint a photograph in the style of paintings, or of a style that comes with the library.

    `gatys styles` lists these styles, `gatys make-style` makes new ones.
    """

    inputs: tyro.conf.Positional[tuple[str, ...]] = ()
    """The photograph, then paintings, if any."""

    style: tuple[str, ...] = ()
    """Styles by name (`gatys styles` lists them), or files that `gatys make-style` wrote."""

    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = Path("out.png")
    """The picture to write: PNG, JPEG, WebP, AVIF, BMP, or TIFF with 16 bits. Its metadata tells the options."""

    content_mask: str | None = None
    """A picture of the photograph's regions in black, white and pure colours, of any size. Alone: white is painted,
    black stays as it is. With --style-mask: each region takes the style of the painting's region of that colour."""

    style_mask: tuple[str, ...] = ()
    """The regions of each painting, in the same colours."""

    save_every: int = 0
    """Steps between pictures on the way (out-0100.png ...); 0 for none."""

    dry_run: bool = False
    """Say what would be done, how long it would take and how much memory it would need."""

    overwrite: bool = False
    """Replace output that is there already."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.inputs:
            raise ValueError(
                "no photograph given, as in `gatys photo.jpg painting.jpg` or `gatys photo.jpg --style NAME`"
            )
        count = len(self.inputs) - 1 + len(self.style)
        if count == 0:
            raise ValueError("no style given: add a painting, or --style NAME (`gatys styles` lists names)")
        if self.style_weights and len(self.style_weights) != count:
            raise ValueError(f"--style-weights: {len(self.style_weights)} for {count} styles")
        if self.style_mask and self.content_mask is None:
            raise ValueError("--style-mask needs --content-mask: which region of the photograph takes which style")
        if self.style_mask and len(self.style_mask) != len(self.inputs) - 1:
            raise ValueError(f"--style-mask: {len(self.style_mask)} for {len(self.inputs) - 1} paintings")
        if self.style_mask and self.style:
            raise ValueError("--style-mask: a style by name has no regions; give the painting itself")
        check_at_least(self, 0, "save_every")
        if self.init == "style" and len(self.inputs) == 1:
            raise ValueError("--init style: a style by name is no picture to start from; give a painting")
        if self.preserve_color == "histogram" and self.style:
            raise ValueError(
                "--preserve-color histogram: a style by name has no colours to change; "
                "give the painting itself, or take luminance"
            )


@dataclass(frozen=True)
class MakeStyleConfig:
    """Keep the style of paintings, their Gram matrices, in a file for --style: of one, or the mean of many."""

    paintings: tyro.conf.Positional[tuple[str, ...]]
    """Pictures, and folders of pictures."""

    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))]
    """The file to write, NAME.safetensors."""

    network: Literal["compact", "vgg16", "vgg19"] = "compact"
    """The network that the style is for: it is of no use with another."""

    vgg_weights: str | None = None
    """A file with the weights of vgg16 or vgg19."""

    pooling: Literal["max", "average"] = "max"
    """How the network halves its layers."""

    device: str = "auto"
    """auto, cpu, mps, cuda or cuda:N."""

    overwrite: bool = False
    """Replace a file that is there already."""

    def __post_init__(self) -> None:
        if not self.paintings:
            raise ValueError("no painting given, as in `gatys make-style painting.jpg -o NAME`")
        if self.vgg_weights is not None and self.network == "compact":
            raise ValueError("--vgg-weights: the compact network has weights of its own; add --network vgg19 or vgg16")
