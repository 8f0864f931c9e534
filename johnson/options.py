"""Options of every command: defaults, types, help and validation. Imports nothing heavy, so `--help` is fast."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import tyro

from gatys.options import STYLE_LAYERS, check_style_layers, check_vgg_weights
from stylekit.options import (
    EvaluateOptions,
    ExportOptions,
    Hidden,
    PictureOptions,
    RunConfig,
    Schedule,
    TrainingData,
    also,
    check_at_least,
    default_is,
)


@dataclass(frozen=True)
class PhotographData(TrainingData):
    """Photographs and how they are cropped."""

    dataroot: Annotated[str, also("--dataset", "--train-path")]
    """Folder of photographs of any kind, searched recursively."""

    batch_size: int = 4
    """Photographs per step, in each process."""

    val_dataroot: Annotated[str | None, default_is("pictures from DATAROOT", "STR", ("--test-dir",))] = None
    """Validation picture or folder."""


@dataclass(frozen=True)
class NetworkConfig:
    """Network architecture, saved in `config.json` next to the weights."""

    width: int = 32
    """Channels after the first convolution; the paper uses 32. With 16, the network has a quarter of the parameters."""

    n_blocks: int = 5
    """Residual blocks."""

    upsample: Annotated[Literal["nearest", "bilinear"], Hidden] = "bilinear"
    """Interpolation: "nearest", as published, leaves a fine texture in flat regions; "bilinear" does not."""

    bound: Annotated[bool, Hidden] = True
    """End with instance normalization and a softsign, which bound the colors. fast_neural_style has neither. The style
    loss is most sensitive to the mean and the contrast of the colors, which then depend on six parameters only."""

    skip: Annotated[bool, Hidden] = True
    """Add the features of the encoder to those of the decoder. Without it, as published, all detail passes through a
    quarter of the resolution, which takes longer to learn."""

    noise: Annotated[float, Hidden] = 0.1
    """Standard deviation of the input noise. It seeds strokes in flat regions; too much and the network ignores the
    photograph. 0 removes the channel."""

    limit: Annotated[float, Hidden] = 0.0
    """Largest absolute value of normalized features, such as 3, against black and white blots; 0: no limit."""

    keep_colors: float = 0.0
    """Fraction of the photograph's local color to preserve, for example 0.5; 0 disables it."""

    keep_black: Annotated[bool, Hidden] = True
    """With `keep_colors`: the photograph shows through where it is black, instead of blotches."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "width")
        check_at_least(self, 0, "n_blocks", "noise", "limit")
        if self.upsample not in ("nearest", "bilinear"):
            raise ValueError(f"upsample must be nearest or bilinear, got {self.upsample!r}")
        if not 0 <= self.keep_colors <= 1:
            raise ValueError(f"--keep-colors {self.keep_colors:g}: expected a value from 0 to 1")


@dataclass(frozen=True)
class LossConfig:
    """Training losses: content, style, and a penalty on regular patterns in smooth areas."""

    content_weight: float = 1.0
    """Weight of the feature reconstruction loss (eq. 2)."""

    style_weight: float = 3.0
    """Weight of the style reconstruction loss (eq. 4) of each layer."""

    pixel_weight: float = 2.0
    """Weight of the pixel loss, which preserves brightness and some color; the paper does not use it for style."""

    weave_weight: float = 0.0
    """Weight of the penalty on regular patterns in smooth areas, such as hatching in skies; 2 removes most."""

    content_layer: str = "relu2_2"
    """Layer of the content loss. Deeper layers preserve less of the photograph."""

    style_layers: tuple[str, ...] = STYLE_LAYERS[:4]
    """Layers of the style loss; the paper uses relu1_2 relu2_2 relu3_3 relu4_3, which bundled styles do not have."""

    loss_network: Literal["compact", "vgg16", "vgg19"] = "compact"
    """Loss network: compact (bundled), vgg16 (the paper's) or vgg19 (both downloaded once)."""

    vgg_weights: Annotated[str | None, default_is("download", "FILE")] = None
    """File with the weights of vgg16 or vgg19, with torchvision's or Caffe's tensor names."""

    def __post_init__(self) -> None:
        check_at_least(self, 0, "content_weight", "style_weight", "pixel_weight", "weave_weight")
        if not self.content_weight + self.style_weight + self.pixel_weight:
            raise ValueError("--content-weight, --style-weight and --pixel-weight are all 0: nothing to train")
        check_style_layers(self.style_layers)
        check_vgg_weights(self.vgg_weights, self.loss_network, "--loss-network")


@dataclass(frozen=True)
class StyleSchedule(Schedule):
    """Length of the run, optimizer and learning rate."""

    n_epochs: Annotated[int, also("--epochs")] = 1
    """Epochs at the full learning rate."""

    n_epochs_decay: int = 1
    """Further epochs over which the learning rate decays to zero."""

    lr: Annotated[float, also("--learning-rate")] = 1e-3
    """Learning rate."""

    ema_decay: float = 0.99
    """Decay of the exponential moving average of the weights. The averaged weights are saved; 0 disables averaging."""

    optimizer: Literal["muon", "adam"] = "muon"
    """muon reduces the loss two to four times as fast as adam, the paper's optimizer (benchmarks/README.md)."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """Train a network for one style.

    CHECKPOINTS_DIR/NAME receives the checkpoint, the network, validation pictures after every epoch and the losses.
    Ctrl-C saves and stops; --resume continues exactly where the run stopped. Use the network with
    johnson stylize photo.jpg --style CHECKPOINTS_DIR/NAME.
    """

    style: Annotated[tuple[str, ...], also("--style-image")]
    """Paintings (files or folders), bundled styles (see `gatys styles`) or `gatys make-style` files, averaged."""

    style_size: int = 512
    """Shrink paintings whose longer side exceeds this many pixels. Smaller paintings give finer strokes."""

    init: Annotated[str | None, default_is("train from scratch", "STR", ("--init-weights",))] = None
    """Fine-tune a network, in any form that `johnson stylize --style` accepts: much faster than from scratch."""

    data: PhotographData
    network: NetworkConfig = field(default_factory=NetworkConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    schedule: StyleSchedule = field(default_factory=StyleSchedule)

    PROJECT = "johnson"

    PRESETS: ClassVar = {
        "paper": {},
        "paint": {
            "limit": 3.0,
            "keep_colors": 0.5,
            "weave_weight": 2.0,
            "lr": 5e-4,
            "load_size": 360,
            "crop_size": 224,
            "batch_size": 1,
            "n_epochs": 500,
            "n_epochs_decay": 500,
            "max_minutes": 60.0,
        },
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.style:
            raise ValueError("no style: add --style with a painting or a name listed by `gatys styles`")
        check_at_least(self, 1, "style_size")
        self.data.check_crop_size(16, "the loss network")


@dataclass(frozen=True)
class StylizeConfig(PictureOptions):
    """Stylize pictures, folders or videos with a trained network. Their size is kept unless --size is given.

    Transparency, 16 bits and animations are kept if the format can store them; of EXIF only the date, camera, exposure,
    lens and author, and no position (GPS). Results are in sRGB.
    """

    style: Annotated[tuple[str, ...], also("-s", "--weights", "-w", "--model")] = ("starry-night",)
    """Bundled styles (see `johnson styles`), runs, folders, .pth files or Hub ids; mosaic=2 sunflowers=1 blends two."""


@dataclass(frozen=True)
class EvaluateConfig(EvaluateOptions):
    """Measure a network and compare it with the painting and the photographs.

    Style loss by layer, content kept, weave and halo. Stylizes the photographs in DATAROOT. Style losses are relative:
    0 for the style of the painting, 1 for a flat picture.
    """

    dataroot: Annotated[str, also("--dataset")]
    """Folder of photographs, searched recursively."""

    weights: Annotated[str, tyro.conf.arg(aliases=("-w", "--model"))] = "starry-night"
    """Network, in any form that `johnson stylize --style` accepts."""

    style: Annotated[tuple[str, ...], default_is("the bundled style with that name", aliases=("-s",))] = ()
    """Its style, given like --style of `johnson train`. Only pictures give the baseline of the painting."""

    style_size: int = 512
    """Shrink paintings whose longer side exceeds this many pixels; use the value of the training."""

    loss_network: Literal["compact", "vgg16", "vgg19"] = "compact"
    """Network of the style loss: compact (bundled), vgg16 or vgg19 (both downloaded once)."""

    vgg_weights: Annotated[str | None, default_is("download", "FILE")] = None
    """File with the weights of vgg16 or vgg19, with torchvision's or Caffe's tensor names."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 32, "style_size")
        check_vgg_weights(self.vgg_weights, self.loss_network, "--loss-network")


@dataclass(frozen=True)
class ExportConfig(ExportOptions):
    """Export a network as an ONNX file or a torch.export program, for use without this library.

    Pictures of any size with sides of at least 36 pixels go in and come out, as in `johnson stylize`. The file is
    compared with PyTorch on a photograph at two sizes; the exit code is 1 if a value differs by more than a gray level.

    Needs the extra `export`: pip install ".[export]".
    """

    weights: Annotated[str, tyro.conf.arg(aliases=("-w", "--style", "-s", "--model"))] = "starry-night"
    """Network, in any form that `johnson stylize --style` accepts."""


@dataclass(frozen=True)
class StylesConfig:
    """List the bundled networks, for `johnson stylize --style`."""
