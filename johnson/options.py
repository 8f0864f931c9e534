"""The options of every command: defaults, types, help, and what contradicts what. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from gatys.options import STYLE_LAYERS
from stylekit.options import RunConfig, also, check_at_least, check_shares


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """Train a network that paints photographs in one style.

    The run is kept in CHECKPOINTS_DIR/NAME: the last state (last.pt), the network (model/), the same validation
    pictures after every epoch (samples/) and the losses (metrics.jsonl, losses.png). Ctrl-C saves and stops; --resume
    goes on, exactly. Then: `johnson stylize photo.jpg --style CHECKPOINTS_DIR/NAME`.
    """

    dataroot: Annotated[str, also("--dataset", "--train-path")]
    """Folder of photographs, of any subjects; the folders below it are searched as well."""

    batch_size: int = 4
    """Photographs per step and per process."""

    n_epochs: Annotated[int, also("--epochs")] = 1
    """Epochs with the full learning rate."""

    n_epochs_decay: int = 1
    """Epochs over which the learning rate then goes linearly to zero."""

    lr: Annotated[float, also("--learning-rate")] = 1e-3
    """Learning rate."""

    optimizer: Literal["muon", "adam"] = "muon"
    """muon learned two to four times as much in the same time as adam, which is the paper's."""

    ema_decay: float = 0.99
    """Share that the averaged network, which is the one to use, keeps at each step; 0 turns averaging off."""

    n_samples: int = 4
    """Validation photographs, painted after every epoch."""

    wandb_project: Annotated[str, also("--wandb-project-name")] = "johnson"
    """Its project there."""

    # The style.
    style: Annotated[tuple[str, ...], also("--style-image")] = ()
    """Paintings (files, or folders of them), or styles by name (`gatys styles` lists them), or files of `gatys
    make-style`. Of several, the mean."""

    style_weights: tuple[float, ...] = ()
    """How much of each style, in the order given; default: equal shares."""

    style_size: int = 512
    """Longer side that paintings are seen at, in pixels: it decides how large strokes are. Smaller paintings stay as
    they are."""

    # The network.
    width: int = 32
    """Channels of the first convolution; the paper has 32. With 16 the network is four times smaller, for phones."""

    n_blocks: int = 5
    """Residual blocks."""

    upsample: Literal["nearest", "bilinear"] = "bilinear"
    """How the network enlarges: `nearest`, as published, weaves fine patterns into flat areas, `bilinear` does not."""

    bound: bool = True
    """End with instance normalisation and a softsign, which bound colours; --no-bound is as in fast_neural_style."""

    skip: bool = True
    """Hand detail from the encoder to the decoder; --no-skip is the published network, which learns more slowly."""

    noise: float = 0.1
    """Standard deviation of the noise that the network is given beside the photograph, in training and afterwards: in
    smooth areas strokes begin at it; without, --noise 0, they form a regular weave there. If there is more than of the
    photograph, a network learns to paint nothing else."""

    init: Annotated[str | None, also("--init-weights")] = None
    """A trained network to start from, in the same form as --style of `johnson stylize`: another style is learned in a
    fraction of the time."""

    # The objective.
    content_weight: float = 1.0
    """Weight of the feature reconstruction loss (eq. 2)."""

    style_weight: float = 3.0
    """Weight of the style reconstruction loss (eq. 4), at each layer."""

    pixel_weight: float = 2.0
    """Weight of the pixel loss, which the paper has for other tasks: it keeps what is bright bright, and some of the
    photograph's colours; 0 leaves it out."""

    tv_weight: float = 0.0
    """Weight of the total variation, which smooths."""

    layer_weights: tuple[float, ...] = ()
    """Weights of the style layers relative to one another, scaled to a mean of 1; default: equal."""

    content_layer: str = "relu2_2"
    """Where the content is compared; the paper has relu3_3 for style. Later layers keep less of the photograph."""

    style_layers: tuple[str, ...] = STYLE_LAYERS[:4]
    """Where the style is compared: relu5_1 adds patterns that are larger than what the network sees. Styles by name
    have the layers of Gatys et al.; the paper has relu1_2 relu2_2 relu3_3 relu4_3 of VGG-16."""

    loss_network: Literal["compact", "vgg16", "vgg19"] = "compact"
    """Whose eyes: compact is ours and comes with the library; vgg16, the paper's, and vgg19 are downloaded once."""

    vgg_weights: str | None = None
    """A file with the weights of vgg16 or vgg19, in any of the usual layouts."""

    # The pictures.
    augment: str = "crop"
    """none (resize, centre crop), crop (resize, random crop, flip), or a FILE (.json, .yaml): an albumentations
    pipeline saved by `albumentations.save`."""

    val_dataroot: Annotated[str | None, also("--test-dir")] = None
    """A picture, or a folder of them, to paint after every epoch; default: some of DATAROOT."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.style:
            raise ValueError("no style given: add --style with a painting, or with a name that `gatys styles` lists")
        check_at_least(self, 1, "width", "style_size")
        check_at_least(self, 0, "n_blocks", "noise")
        check_at_least(self, 0, "content_weight", "style_weight", "pixel_weight", "tv_weight")
        if self.style_weights:
            if len(self.style_weights) != len(self.style):
                raise ValueError(f"--style-weights: {len(self.style_weights)} for {len(self.style)} styles")
            check_shares(self, "style_weights")
        if not self.content_weight + self.style_weight + self.pixel_weight:
            raise ValueError("--content-weight, --style-weight and --pixel-weight are all 0: nothing to learn")
        if len(set(self.style_layers)) != len(self.style_layers) or not self.style_layers:
            raise ValueError("--style-layers: expected at least one layer, and none twice")
        if self.layer_weights:
            if len(self.layer_weights) != len(self.style_layers):
                raise ValueError(
                    f"--layer-weights: {len(self.layer_weights)} for {len(self.style_layers)} style layers"
                )
            check_shares(self, "layer_weights")
        if self.vgg_weights is not None and self.loss_network == "compact":
            raise ValueError(
                "--vgg-weights: the compact network has weights of its own; add --loss-network vgg19 or vgg16"
            )
        self.check_crop_size(16, "the loss network")


@dataclass(frozen=True)
class StylizeConfig:
    """Paint photographs, whole folders of them, or videos, in a style that was learned. Sizes stay as they are."""

    inputs: tyro.conf.Positional[tuple[str, ...]]
    """Pictures, videos and folders; folders are searched for pictures, and their structure is kept."""

    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = Path("out")
    """A folder; or, for a single picture or video, a file."""

    style: Annotated[str, tyro.conf.arg(aliases=("-s", "--weights", "-w", "--model"))] = "starry-night"
    """A style that comes with the library (`johnson styles` lists them), a folder with config.json and
    model.safetensors, a training run, a .pth file of fast_neural_style, or a Hugging Face Hub id."""

    strength: float = 1.0
    """How much of the painting is laid over the photograph, from 0 to 1."""

    preserve_color: bool = False
    """Keep the colours of the photograph: paint its luminance only."""

    size: int | None = None
    """Shrink pictures to this longer side first, in pixels. Brush strokes have a fixed size in pixels, so a smaller
    picture is painted in broader strokes."""

    format: Literal["jpg", "png", "webp", "tiff", "bmp", "avif"] | None = None
    """Format of painted pictures; default: that of the input."""

    smoothing: float = 0.98
    """Videos: share that the statistics of the normalisation layers keep from frame to frame, against flicker; 0 treats
    every frame alone."""

    tile: int | None = None
    """Side of the tiles that large pictures are painted in, in pixels; default: as large as the memory allows. Videos
    are painted frame by frame, each whole."""

    sheet: bool = False
    """Also write sheet.jpg (NAME-sheet.jpg for a single file): each picture beside its painting."""

    overwrite: bool = False
    """Replace output that is there already. Input is never replaced."""

    device: str = "auto"
    """auto, cpu, mps, cuda or cuda:N."""

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ValueError("nothing to paint: give a picture or a folder, as in `johnson stylize photo.jpg`")
        if not 0 <= self.strength <= 1:
            raise ValueError(f"--strength must lie in [0, 1], got {self.strength}")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"--smoothing must lie in [0, 1), got {self.smoothing}")
        check_at_least(self, 1, "size")
        check_at_least(self, 64, "tile")
