"""The options of every command: defaults, types, help, and what contradicts what. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from stylekit.options import RunConfig, also, check_at_least


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """Train two generators, G: X -> Y and F: Y -> X, on two folders of unpaired pictures.

    X is DATAROOT/trainA, Y is DATAROOT/trainB. The run is kept in CHECKPOINTS_DIR/NAME: the last state (last.pt), the
    generators (G/, F/), the same validation pictures after every epoch (samples/) and the losses (metrics.jsonl,
    losses.png). Ctrl-C saves and stops; --resume goes on, exactly.
    """

    dataroot: str
    """Folder with trainA and trainB (or train_A and train_B, or A/train and B/train), and perhaps testA and testB."""

    wandb_project: Annotated[str, also("--wandb-project-name")] = "cyclegan"
    """Its project there."""

    # The networks.
    ngf: int = 64
    """Channels of the generators' first convolution."""

    ndf: int = 64
    """Channels of the discriminators' first convolution."""

    n_blocks: int = 9
    """Residual blocks of the generators; the paper has 6 for 128 px pictures, 9 for larger ones."""

    n_layers_d: Annotated[int, also("--n-layers-D")] = 3
    """Convolutions with stride 2 of the discriminators; 3 judges patches of 70 x 70 px."""

    upsample: Literal["resize", "transposed"] = "resize"
    """How generators enlarge: `resize` leaves no checkerboard, `transposed` is the published layer."""

    dropout: bool = False
    """Dropout(0.5) in the residual blocks."""

    # The objective.
    gan_loss: Annotated[Literal["lsgan", "vanilla"], also("--gan-mode")] = "lsgan"
    """Adversarial loss: least squares (the paper's choice) or the original log-likelihood."""

    lambda_x: Annotated[float, also("--lambda-A")] = 10.0
    """Weight of the cycle loss X -> Y -> X, for pictures in [-1, 1]."""

    lambda_y: Annotated[float, also("--lambda-B")] = 10.0
    """Weight of the cycle loss Y -> X -> Y."""

    lambda_identity: float = 0.5
    """Weight of the identity loss, relative to the cycle loss; 0 leaves it out. It keeps the colours of photographs."""

    beta1: float = 0.5
    """First beta of Adam; the second is 0.999."""

    pool_size: int = 50
    """Past fakes that each discriminator is shown again; 0 for none."""

    # The pictures.
    augment: str = "paper"
    """none (resize, centre crop), paper (resize, random crop, flip), strong (colour and geometry for X, geometry alone
    for Y), or a FILE (.json, .yaml): an albumentations pipeline saved by `albumentations.save`."""

    serial_batches: bool = False
    """Take both collections in order, instead of shuffled X and random Y."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "ngf", "ndf", "n_layers_d")
        check_at_least(self, 0, "n_blocks", "pool_size", "lambda_x", "lambda_y", "lambda_identity")
        if not 0 <= self.beta1 < 1:
            raise ValueError(f"--beta1 must lie in [0, 1), got {self.beta1}")
        self.check_crop_size(max(16, 2 ** (self.n_layers_d + 2)), f"--n-layers-d {self.n_layers_d}")


@dataclass(frozen=True)
class TranslateConfig:
    """Translate photographs, or whole folders of them, with a trained generator. Sizes stay as they are."""

    inputs: tyro.conf.Positional[tuple[str, ...]]
    """Pictures and folders; folders are searched for pictures, and their structure is kept."""

    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = Path("out")
    """A folder; or, for a single picture, a file."""

    weights: Annotated[str | None, tyro.conf.arg(aliases=("-w",))] = None
    """A shipped network (see `cyclegan weights`), a folder with config.json and model.safetensors, a training run, an
    official .pth file, or a Hugging Face Hub id. Default: landscape2vangogh; with --direction y2x vangogh2landscape."""

    direction: Literal["x2y", "y2x", "AtoB", "BtoA"] = "x2y"
    """Of a training run: x2y takes G, y2x takes F."""

    size: int | None = None
    """Shrink pictures to this longer side first, in pixels. Brush strokes have a fixed size in pixels, so a smaller
    picture is painted in broader strokes."""

    format: Literal["jpg", "png", "webp", "tiff", "bmp", "avif"] | None = None
    """Format of the output; default: that of the input."""

    tile: int | None = None
    """Side of the tiles that large pictures are translated in, in pixels; default: as large as the memory allows."""

    sheet: bool = False
    """Also write sheet.jpg (NAME-sheet.jpg for a single file): each picture beside its translation."""

    overwrite: bool = False
    """Replace output that is there already. Input is never replaced."""

    device: str = "auto"
    """auto, cpu, mps, cuda or cuda:N."""

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ValueError("nothing to translate: give a picture or a folder, as in `cyclegan translate photo.jpg`")
        check_at_least(self, 1, "size")
        check_at_least(self, 64, "tile")
