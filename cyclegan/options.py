"""Options of every command: defaults, types, help and validation. Imports nothing heavy, so `--help` is fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from stylekit.options import (
    EvaluateOptions,
    ExportOptions,
    Hidden,
    Output,
    PictureOptions,
    RunConfig,
    TrainingData,
    also,
    check_at_least,
    check_positive,
    default_is,
)


@dataclass(frozen=True)
class UnpairedData(TrainingData):
    """Two folders of unpaired pictures, and how they are cropped."""

    dataroot: str
    """Folder with trainA, trainB and optionally testA, testB. train_A, A/train and train/A work too."""

    direction: Literal["AtoB", "BtoA"] = "AtoB"
    """BtoA swaps the folders: X is trainB. vangogh2photo, for example, has its paintings in trainA."""

    augment: str = "paper"
    """none, paper (crop, flip), strong (also zoom, rotation, colors), detail (unscaled) or an albumentations FILE."""

    @property
    def domains(self) -> tuple[str, str]:
        """The folders of X and of Y: A or B."""
        return ("A", "B") if self.direction == "AtoB" else ("B", "A")


@dataclass(frozen=True)
class GeneratorConfig:
    """Generator architecture, saved in `config.json` next to the weights."""

    ngf: int = 64
    """Channels after the first convolution."""

    n_blocks: int = 9
    """Residual blocks; the paper uses 6 for 128 px pictures, 9 for larger ones."""

    upsample: Literal["resize", "transposed"] = "resize"
    """resize (interpolation, convolution) avoids checkerboard artifacts; transposed is the paper's layer."""

    dropout: Annotated[bool, Hidden] = False
    """Dropout(0.5) in the residual blocks, as in some published networks."""

    antialias: bool = False
    """Blur before strided convolutions: removes woven patterns from flat regions."""

    noise: float = 0.0
    """Standard deviation of a noise channel that seeds strokes in flat regions (Ulyanov et al. 2016); try 0.2."""

    noise_size: Annotated[int, Hidden] = 1
    """Width of the grains of the noise in pixels. With 4, broad strokes begin anywhere; 1 is white noise."""

    limit: Annotated[float, Hidden] = 0.0
    """Largest absolute value of normalized features, such as 4, against smears and blots; 0: no limit."""

    keep_colors: float = 0.0
    """Fraction of the input's local color to preserve, for example 0.6; 0 disables it."""

    draft: Annotated[bool, Hidden] = False
    """In use, the network paints over a draft of brush strokes (`stylekit.pictures.brush`)."""

    keep_black: Annotated[bool, Hidden] = True
    """With `keep_colors`: the input shows through where it is black, instead of blotches."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "ngf", "noise_size")
        check_at_least(self, 0, "n_blocks", "noise", "limit")
        if self.upsample not in ("resize", "transposed"):
            raise ValueError(f"--upsample {self.upsample}: expected resize or transposed")
        if self.noise_size > 64:
            raise ValueError(f"noise_size must be in [1, 64], got {self.noise_size}")
        if not 0 <= self.keep_colors <= 1:
            raise ValueError(f"--keep-colors {self.keep_colors:g}: expected a value from 0 to 1")


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Architecture of the discriminators, and what they see."""

    ndf: int = 64
    """Channels after the first convolution."""

    n_layers_d: Annotated[int, also("--n-layers-D")] = 3
    """Strided convolutions; 3 gives a receptive field of 70 x 70 px."""

    discriminator: Literal["patch", "feature", "both"] = "patch"
    """patch is the paper's; feature has small heads on frozen VGG features and learns faster; both combines them."""

    diffaugment: bool = False
    """Shift pictures and vary their brightness and contrast before the discriminators see them."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "ndf", "n_layers_d")


@dataclass(frozen=True)
class CycleLosses:
    """The objective of the paper."""

    gan_mode: Annotated[Literal["lsgan", "vanilla"], also("--gan-loss")] = "lsgan"
    """Adversarial loss: least squares (the paper's choice) or the original log-likelihood."""

    lambda_x: Annotated[float, also("--lambda-A")] = 10.0
    """Weight of the cycle loss X -> Y -> X, for pictures in [-1, 1]."""

    lambda_y: Annotated[float, also("--lambda-B")] = 10.0
    """Weight of the cycle loss Y -> X -> Y."""

    lambda_identity: float = 0.5
    """Weight of the identity loss, which preserves colors, relative to the cycle loss; 0 disables it."""

    pool_size: int = 50
    """Number of past generated pictures kept for training the discriminators; 0 disables the pool."""

    def __post_init__(self) -> None:
        check_at_least(self, 0, "lambda_x", "lambda_y", "lambda_identity", "pool_size")


@dataclass(frozen=True)
class PerceptualLosses:
    """Losses that replace the cycle loss: VGG content and style, local color, and a penalty on regular patterns."""

    lambda_content: float = 0.4
    """Weight of the VGG content loss (relu4_1)."""

    lambda_color: float = 4.0
    """Weight of the difference in local color; a lower weight lets the painter's palette dominate."""

    palette: float = 0.25
    """Shift color targets toward the other domain: 0 is no shift, 1 a full shift."""

    lambda_style: float = 5.0
    """Weight of the style loss (Gatys et al.) against the mean style of the other collection."""

    lambda_weave: float = 2.0
    """Weight of the penalty on regular patterns in smooth areas, such as a cloth texture in skies; 0 disables it."""

    def __post_init__(self) -> None:
        check_at_least(self, 0, "lambda_content", "lambda_color", "palette", "lambda_style", "lambda_weave")
        if self.palette > 1:
            raise ValueError(f"--palette {self.palette:g}: expected a value from 0 to 1")


@dataclass(frozen=True)
class EvaluatedOutput(Output):
    """Logs, copies and evaluations. The run is saved after every epoch and every ten minutes."""

    eval_every: int = 0
    """Evaluate every N epochs and at the end; keep the best networks in best/. 0 disables it. Needs extra `eval`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 0, "eval_every")


PAINT_NETWORKS: Mapping[str, Any] = {
    "ngf": 32,
    "n_blocks": 6,
    "antialias": True,
    "noise": 0.2,
    "noise_size": 4,
    "limit": 4.0,
    "keep_colors": 0.6,
    "ndf": 32,
    "discriminator": "both",
    "diffaugment": True,
    "augment": "detail",
    "load_size": 160,
    "crop_size": 160,
    "n_epochs": 500,
    "n_epochs_decay": 500,
    "ema_decay": 0.98,
}
"""Preset `paint`: networks and crops with which two hours of one CPU core suffice."""


@dataclass(frozen=True, kw_only=True)
class UnpairedConfig(RunConfig):
    """What both trainings of this package have."""

    data: UnpairedData
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    output: EvaluatedOutput = field(default_factory=EvaluatedOutput)

    PROJECT = "cyclegan"


@dataclass(frozen=True, kw_only=True)
class TrainConfig(UnpairedConfig):
    """Train two generators on two folders of unpaired pictures.

    G: X -> Y and F: Y -> X; X is DATAROOT/trainA, Y is DATAROOT/trainB. CHECKPOINTS_DIR/NAME receives the checkpoint,
    the generators, validation pictures after every epoch and the losses. Ctrl-C saves and stops; --resume continues
    exactly where the run stopped.
    """

    init: Annotated[tuple[str, ...], default_is("train from scratch")] = ()
    """Start from a run, or one or two networks or pretrained runs (G, then F), with their discriminators."""

    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    losses: CycleLosses = field(default_factory=CycleLosses)

    RENAMED: ClassVar = {"gan_loss": "gan_mode"}

    PRESETS: ClassVar = {
        "paper": {},
        "paint": {
            **PAINT_NETWORKS,
            "lr": 2e-4,
            "lambda_x": 4.0,
            "lambda_y": 4.0,
            "lambda_identity": 0.0,
            "max_minutes": 60.0,
        },
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.init) > 2:
            raise ValueError(f"--init: expected a run, or one or two networks (G, F), got {len(self.init)}")
        depth = self.discriminator.n_layers_d
        self.data.check_crop_size(max(16, 2 ** (depth + 2)), f"--n-layers-d {depth}")
        if self.discriminator.discriminator != "patch":
            self.data.check_crop_size(32, f"--discriminator {self.discriminator.discriminator}")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(UnpairedConfig):
    """Train one generator, G: X -> Y, without the cycle loss. This is faster and initializes `cyclegan train`.

    Content and color losses replace the cycle loss. X is DATAROOT/trainA, Y is DATAROOT/trainB; --direction BtoA trains
    the other generator. CHECKPOINTS_DIR/NAME receives the checkpoint, the generator, its discriminators, validation
    pictures after every epoch and the losses. Ctrl-C saves and stops; --resume continues exactly where the run stopped.
    """

    preset: Literal["paper", "paint"] = "paint"
    """Networks of the paper's size, or those that paint best on two CPU cores."""

    init: Annotated[str | None, default_is("train from scratch", "STR")] = None
    """Start from a pretrained run or a network, in any form that `cyclegan translate --weights` accepts."""

    ndf: int = 64
    """Channels after the first convolution of the PatchGAN discriminator."""

    losses: PerceptualLosses = field(default_factory=PerceptualLosses)

    PRESETS: ClassVar = {"paper": {}, "paint": {**PAINT_NETWORKS, "lr": 3e-4, "max_minutes": 120.0}}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "ndf")
        self.data.check_crop_size(32, "features of a VGG")


Weights = Annotated[
    str | None, default_is("landscape2vangogh, or vangogh2landscape with --direction y2x", "STR", ("-w",))
]


@dataclass(frozen=True)
class GeneratorOptions:
    """Which trained generator a command uses."""

    weights: Weights = None
    """A bundled network (see `cyclegan weights`), a training run, a folder, an official .pth file, or a Hub id."""

    direction: Literal["x2y", "y2x", "AtoB", "BtoA"] = "x2y"
    """Which generator of a training run to use: x2y (or AtoB) is G, y2x (or BtoA) is F."""


@dataclass(frozen=True)
class TranslateConfig(GeneratorOptions, PictureOptions):
    """Translate pictures, folders or videos with a trained generator. Their size is kept unless --size is given.

    Transparency, 16 bits and animations are kept if the format can store them; of EXIF only the date, camera, exposure,
    lens and author, and no position (GPS). Results are in sRGB.
    """


@dataclass(frozen=True)
class ExportConfig(GeneratorOptions, ExportOptions):
    """Export a generator as an ONNX file or a torch.export program, for use without this library.

    Pictures of any size with sides of at least 36 pixels go in and come out, as in `cyclegan translate`. The file is
    compared with PyTorch on a photograph at two sizes; the exit code is 1 if a value differs by more than a gray level.

    Needs the extra `export`: pip install ".[export]".
    """


@dataclass(frozen=True)
class WeightsConfig:
    """List the bundled networks, for --weights."""


@dataclass(frozen=True)
class EvaluateConfig(EvaluateOptions):
    """Measure a generator and compare it with baselines.

    Distances to real pictures (KID, FID), content kept, cycle error, weave, halo and palette. Translates DATAROOT/testA
    (trainA if there is none) and compares the result with testB and trainB together; with --direction y2x, testB with
    testA and trainA. --outputs measures pictures that another method has made of them.

    Needs the extra `eval`: pip install ".[eval]".
    """

    dataroot: str
    """Folder with trainA, trainB and optionally testA, testB. train_A, A/train and train/A work too."""

    weights: Weights = None
    """A bundled network (see `cyclegan weights`), a training run, a folder, an official .pth file, or a Hub id."""

    direction: Annotated[
        Literal["x2y", "y2x", "AtoB", "BtoA"] | None,
        default_is("that of a bundled network, else x2y", "{x2y,y2x,AtoB,BtoA}"),
    ] = None
    """x2y (or AtoB) translates A with G, y2x (or BtoA) translates B with F. A single network serves either."""

    outputs: Annotated[Path | None, default_is("translate with --weights", "DIR")] = None
    """Measure the outputs in this folder, named like the inputs from X. The cycle error is not computed."""

    inception_weights: Annotated[Path | None, default_is("none: no fid_inception", "PATH")] = None
    """File weights-inception-2015-12-05-6726825d.pth of torch-fidelity: adds fid_inception and kid_inception."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.outputs is not None and self.weights is not None:
            raise ValueError(f"--outputs {self.outputs} and --weights {self.weights} exclude each other; give one")


@dataclass(frozen=True)
class FetchConfig:
    """Fetch a published data set, or pictures of X and of Y from the web or your folders.

    Sources of --x and --y: flickr:TAG, flickr:group:NAME, flickr:search:WORDS (all need a key in FLICKR_API_KEY),
    wikiart:ARTIST, wikiart:style:NAME, wikiart:genre:NAME, or a folder. The pictures go to OUTPUT/trainA (X) and
    OUTPUT/trainB (Y), some to testA and testB; manifest.csv and CREDITS.md name their authors and licenses. Run the
    same command again to continue after an interruption, or to try failed pictures once more.
    """

    name: Annotated[
        tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[NAME]", help_behavior_hint="(or --x and --y)")
    ] = None
    """A published set, such as vangogh2photo, monet2photo or horse2zebra; datasets/README.md lists them."""

    x: Annotated[str | None, default_is("none", "SOURCE")] = None
    """Source of X."""

    y: Annotated[str | None, default_is("none", "SOURCE")] = None
    """Source of Y."""

    output: Annotated[Path | None, default_is("datasets/NAME", "PATH", ("-o",))] = None
    """Folder of the data set. Required with --x or --y."""

    limit: int = 1000
    """Maximum number of pictures per side; raise it to extend a data set. Flickr returns at most 4,000."""

    license: Literal["derivatives", "commercial", "any"] = "derivatives"
    """Flickr: take licenses that allow derivatives, those that also allow commercial use, or any."""

    genre: Annotated[str | None, default_is("all", "STR")] = None
    """WikiArt: take only paintings of this genre by the artist, such as landscape. One request for each painting."""

    size: Annotated[int | None, default_is("512; published sets are kept as they are", "INT")] = None
    """Downscale pictures so that the shorter side has this many pixels."""

    min_size: Annotated[int | None, default_is("256; published sets are kept as they are", "INT")] = None
    """Skip pictures whose shorter side is below this many pixels."""

    test_share: float = 0.05
    """Fraction held out as testA and testB, chosen by content. Published sets come with their own test split."""

    rate: float = 5.0
    """Maximum requests per second per server."""

    dry_run: bool = False
    """Print what would be fetched without writing anything."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "limit")
        check_at_least(self, 16, "size")
        check_at_least(self, 0, "min_size", "test_share")
        check_positive(self, "rate")
        if self.test_share >= 1:
            raise ValueError(f"--test-share must be less than 1, got {self.test_share}")
        if (self.name is None) == (self.x is None and self.y is None):
            raise ValueError("give the name of a published set, as in `cyclegan fetch vangogh2photo`, or --x and --y")
        if self.name is None and self.output is None:
            raise ValueError("--x and --y need --output: the folder of the data set, as in -o datasets/mine")
        if self.name is not None and self.limit != FetchConfig.limit:
            raise ValueError("--limit goes with --x and --y: published sets are fetched whole")


@dataclass(frozen=True)
class CheckConfig:
    """Check a data set before training.

    Finds unreadable, small, gray, framed and repeated pictures, and compares the size of details. Writes a contact
    sheet of both sides with their colors. The exit code is 1 if training would suffer.
    """

    dataroot: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATAROOT")]
    """Folder with trainA, trainB and optionally testA, testB. train_A, A/train and train/A work too."""

    photos: Annotated[Path | None, default_is("none", "PATH")] = None
    """Folder of pictures that you plan to translate; their detail size is compared with the training data's."""

    size: Annotated[int | None, default_is("full size", "INT")] = None
    """The --size you will pass to `cyclegan translate`."""

    direction: Literal["AtoB", "BtoA"] = "AtoB"
    """BtoA swaps the folders, as in training: the pictures to translate are compared with trainB."""

    load_size: int = PAINT_NETWORKS["load_size"]
    """The --load-size of the training: shorter side of the training pictures. Use 286 for --preset paper."""

    min_size: int = PAINT_NETWORKS["crop_size"]
    """Shorter side below which a picture is too small: the --crop-size of the training. Use 256 for --preset paper."""

    fix: bool = False
    """Move pictures that would harm the training to DATAROOT/rejected. Nothing is deleted."""

    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = Path("check.jpg")
    """Contact sheet; replaced if it exists."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "min_size", "load_size", "size")
        if self.size is not None and self.photos is None:
            raise ValueError(f"--size {self.size} goes with --photos, the pictures to translate")
