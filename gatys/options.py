"""Options of the commands: types, defaults, help and validation. This module imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from stylekit.options import THREADS, Hidden, Keep, check_at_least, check_positive, default_is

STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
"""The style layers of the paper, which calls them conv1_1 ... conv5_1 but uses the output of the ReLU."""


@dataclass(frozen=True)
class StylizeConfig:
    """Options of `gatys.stylize.stylize`."""

    # Pictures.
    size: Annotated[int | None, default_is("that of the photograph, at most 512", "INT")] = None
    """Longer side of the result in pixels."""

    style_scale: float = 1.0
    """Size of the painting relative to the result: below 1 gives finer strokes, above 1 coarser ones."""

    style_weights: Annotated[tuple[float, ...], Hidden] = ()
    """Relative weight of each style, in the order given; equal if empty."""

    init: str = "content"
    """Initial image: content, noise (as in the paper), style, or a FILE."""

    preserve_color: Literal["none", "luminance", "histogram"] = "none"
    """Keep the photograph's colors: luminance stylizes only luminance; histogram first recolors the painting."""

    # Objective.
    alpha: float = 1.0
    """Weight of the content loss (eq. 1, divided by the number of activations)."""

    beta: float = 30.0
    """Weight of the style loss (eq. 5)."""

    content_layer: str = "relu4_2"
    """Layer of the content loss; earlier layers keep more detail of the photograph."""

    style_layers: tuple[str, ...] = STYLE_LAYERS
    """Layers of the style loss, with equal weights; later layers add larger patterns."""

    tv: float = 0.0
    """Weight of the total variation, which smooths the image."""

    # Network.
    network: Literal["compact", "vgg16", "vgg19"] = "compact"
    """Feature network: compact (bundled), vgg16 or vgg19 (downloaded once; the paper uses vgg19)."""

    vgg_weights: Annotated[str | None, default_is("download", "FILE")] = None
    """File with the weights of vgg16 or vgg19, with torchvision's or Caffe's tensor names."""

    pooling: Literal["max", "average"] = "max"
    """Pooling of the network; the paper found average slightly more appealing."""

    # Optimization.
    optimizer: Literal["lbfgs", "adam"] = "lbfgs"
    """L-BFGS, as in the paper, or Adam, which needs less memory."""

    steps: int = 40
    """Optimization steps per scale."""

    min_size: int = 128
    """Longer side at the first scale; scales grow by sqrt(2). Set it to --size for one scale, as in the paper."""

    lr: Annotated[float | None, default_is("1 for L-BFGS, 0.03 for Adam", "FLOAT")] = None
    """Learning rate."""

    seed: int = 0
    """Random seed for --init noise. The same seed gives the same picture on the same machine."""

    # Machine.
    device: str = "auto"
    """auto, cpu, mps, cuda or cuda:N."""

    memory: Annotated[float | None, default_is("half of the free memory", "FLOAT")] = None
    """Memory limit in gigabytes; larger pictures are processed in tiles, with the same result."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "size", "steps", "min_size")
        check_at_least(self, 0, "alpha", "beta", "tv", "seed")
        check_positive(self, "style_scale", "lr", "memory")
        check_style_layers(self.style_layers)
        check_vgg_weights(self.vgg_weights, self.network)
        if not self.alpha + self.beta:
            raise ValueError("--alpha and --beta are both 0; there is nothing to optimize")


@dataclass(frozen=True)
class StylizeCommand(StylizeConfig):
    """Render a photograph in the style of paintings, bundled styles or both.

    Bundled styles are listed by `gatys styles`; new ones are created by `gatys make-style`.
    """

    threads: Annotated[int | None, THREADS] = None
    """CPU threads."""

    inputs: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="PHOTO [PAINTING[=WEIGHT] ...]", help_behavior_hint="(required)"),
    ] = ()
    """The photograph or a folder of photographs, followed by any paintings. - is standard input."""

    content: Annotated[tuple[str, ...], default_is("the first input", "PHOTO [PHOTO ...]")] = ()
    """Photographs and folders to paint. With this option, all positional inputs are paintings."""

    style: Annotated[tuple[str, ...], default_is("none", "NAME[=WEIGHT] ...")] = ()
    """Bundled styles (see `gatys styles`) or files of `gatys make-style`; blended, like several paintings."""

    output: Annotated[Path, default_is("out.png, or the folder out", "PATH", ("-o",))] = Path("out.png")
    """PNG, JPEG, WebP, AVIF, BMP or 16-bit TIFF (all but BMP store the options); a folder for several photographs; or
    - for a PNG on standard output."""

    mask: Annotated[str | None, default_is("paint everything", "FILE")] = None
    """White areas are painted, black ones keep the photograph, gray is between. One mask for all photographs."""

    keep: Annotated[Keep | None, default_is("nothing", "{faces}")] = None
    """Keep the photograph where faces are found (extra `faces`)."""

    regions: Annotated[str | None, default_is("none", "FILE")] = None
    """Regions of the photograph in black, white and pure colors; needs --style-regions."""

    style_regions: Annotated[tuple[str, ...], default_is("none", "FILE ...")] = ()
    """Regions of each painting, which give their style to the regions of the same color in --regions."""

    save_every: int = 0
    """Steps between intermediate pictures (out-0100.png ...); 0 saves none."""

    overwrite: bool = False
    """Replace existing output."""

    json: bool = False
    """Print a line of JSON for each picture: input, output, seconds, width and height; or input and error."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "threads")
        check_at_least(self, 0, "save_every")
        if not self.photographs:
            raise ValueError(
                "no photograph given; try `gatys photo.jpg painting.jpg` or `gatys photo.jpg --style NAME`"
            )
        if not self.paintings and not self.style:
            raise ValueError("no style given; add a painting, or --style NAME (`gatys styles` lists names)")
        if self.regions is not None and self.several:
            raise ValueError("--regions marks the regions of one photograph, but there are several")

    @property
    def photographs(self) -> tuple[str, ...]:
        """The pictures to paint, and folders of them."""
        return self.content or self.inputs[:1]

    @property
    def paintings(self) -> tuple[str, ...]:
        """The pictures whose style is taken, with their weights."""
        return self.inputs if self.content else self.inputs[1:]

    @property
    def several(self) -> bool:
        """Whether the result is a folder."""
        return len(self.photographs) > 1 or Path(self.photographs[0]).is_dir()


@dataclass(frozen=True)
class StylesConfig:
    """List the bundled styles."""


@dataclass(frozen=True)
class MakeStyleConfig:
    """Save the style of one painting, or the mean style of several, as a file for --style."""

    paintings: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="PAINTING [PAINTING ...]", help_behavior_hint="(required)"),
    ]
    """Pictures and folders of pictures."""

    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))]
    """File to write, NAME.safetensors."""

    network: Literal["compact", "vgg16", "vgg19"] = "compact"
    """Feature network; the style works with this network only."""

    vgg_weights: Annotated[str | None, default_is("download", "FILE")] = None
    """File with the weights of vgg16 or vgg19."""

    pooling: Literal["max", "average"] = "max"
    """Pooling of the network."""

    device: str = "auto"
    """auto, cpu, mps, cuda or cuda:N."""

    threads: Annotated[int | None, THREADS] = None
    """CPU threads."""

    overwrite: bool = False
    """Replace an existing file."""

    def __post_init__(self) -> None:
        if not self.paintings:
            raise ValueError("no painting given; try `gatys make-style painting.jpg -o NAME`")
        check_at_least(self, 1, "threads")
        check_vgg_weights(self.vgg_weights, self.network)


def check_style_layers(layers: Sequence[str]) -> None:
    """Refuse an empty list and repeated layers."""
    if len(set(layers)) != len(layers) or not layers:
        raise ValueError("--style-layers: expected at least one layer and no duplicates")


def check_vgg_weights(vgg_weights: str | None, network: str, flag: str = "--network") -> None:
    """Refuse a file of weights for the bundled network."""
    if vgg_weights is not None and network == "compact":
        raise ValueError(f"--vgg-weights: the compact network has its own weights; add {flag} vgg19 or vgg16")
