"""Options of every command: defaults, types, help and validation. Imports nothing heavy, so `--help` is fast."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from stylekit.options import (
    THREADS,
    ExportOptions,
    PaintConfig,
    RunConfig,
    also,
    check_at_least,
    check_positive,
    default_is,
)


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """Train two generators, G: X -> Y and F: Y -> X, on two folders of unpaired pictures.

    X is DATAROOT/trainA, Y is DATAROOT/trainB. CHECKPOINTS_DIR/NAME receives the checkpoint, the generators,
    validation pictures after every epoch and the losses. Ctrl-C saves and stops; --resume continues exactly where the
    run stopped.
    """

    dataroot: str
    """Folder with trainA, trainB and optionally testA, testB. train_A, A/train and train/A work too."""

    direction: Literal["AtoB", "BtoA"] = "AtoB"
    """BtoA swaps the folders: X is trainB. vangogh2photo, for example, has its paintings in trainA."""

    init: Annotated[tuple[str, ...], default_is("train from scratch")] = ()
    """Fine-tune a training run, or one or two networks (G, F), given like --weights of `cyclegan translate`."""

    wandb_project: Annotated[str, also("--wandb-project-name")] = "cyclegan"
    """W&B project."""

    # Networks.
    ngf: int = 64
    """Channels after the first convolution of the generators."""

    ndf: int = 64
    """Channels after the first convolution of the discriminators."""

    n_blocks: int = 9
    """Residual blocks of the generators; the paper uses 6 for 128 px pictures, 9 for larger ones."""

    n_layers_d: Annotated[int, also("--n-layers-D")] = 3
    """Strided convolutions of the discriminators; 3 gives a receptive field of 70 x 70 px."""

    upsample: Literal["resize", "transposed"] = "resize"
    """Upsampling in the generators: resize avoids checkerboard artifacts; transposed is the paper's layer."""

    dropout: bool = False
    """Dropout(0.5) in the residual blocks."""

    antialias: bool = False
    """Blur before strided convolutions of the generators: removes woven patterns from flat regions. Recommended."""

    discriminator: Literal["patch", "feature", "both"] = "patch"
    """patch is the paper's; feature has small heads on frozen VGG features and learns faster; both uses the two."""

    diffaugment: bool = False
    """Shift pictures and vary their brightness and contrast before the discriminators see them. Recommended."""

    noise: float = 0.0
    """Standard deviation of a noise channel that seeds strokes. Train with 0.2; less in use keeps flat regions calm."""

    noise_size: int = 1
    """Width of the grains of the noise in pixels. With 4, broad strokes begin anywhere; 1 is white noise."""

    limit: float = 0.0
    """Largest absolute value of normalized features, such as 4, against smears and blots; 0: no limit."""

    keep_colors: float = 0.0
    """Part of the local colors of the input that the generators keep, such as 0.6; 0: none."""

    keep_black: bool = True
    """With --keep-colors: the input shows through where it is black, instead of blotches."""

    # Objective.
    gan_loss: Annotated[Literal["lsgan", "vanilla"], also("--gan-mode")] = "lsgan"
    """Adversarial loss: least squares (the paper's choice) or the original log-likelihood."""

    lambda_x: Annotated[float, also("--lambda-A")] = 10.0
    """Weight of the cycle loss X -> Y -> X, for pictures in [-1, 1]."""

    lambda_y: Annotated[float, also("--lambda-B")] = 10.0
    """Weight of the cycle loss Y -> X -> Y."""

    lambda_identity: float = 0.5
    """Weight of the identity loss, which preserves colors, relative to the cycle loss; 0 disables it."""

    one_sided_steps: int = 0
    """Train the first N steps without the cycle, which is cheaper: VGG features and local colors hold the picture."""

    one_way: bool = False
    """Train only G: X -> Y, in one-sided steps, for half of their cost. The run has no F and no D_X."""

    lambda_content: float = 0.4
    """One-sided steps: weight of the VGG content loss (relu4_1)."""

    lambda_tone: float = 4.0
    """One-sided steps: weight of the difference in local brightness."""

    lambda_color: float = 2.0
    """One-sided steps: weight of the difference in local color; less leaves more to the painter's palette."""

    palette: float = 0.25
    """One-sided steps: how far the colors to keep are moved to those of the other collection; 0: not, 1: whole."""

    lambda_style: float = 8.0
    """One-sided steps: weight of the style loss (Gatys et al.) against the mean style of the other collection."""

    lambda_weave: float = 2.0
    """One-sided steps: weight of regular patterns in smooth areas, such as a weave in skies; 0 disables it."""

    lr_d: Annotated[float | None, default_is("that of --lr", "FLOAT")] = None
    """Learning rate of the discriminators."""

    warmup_steps: int = 0
    """Raise the learning rate from 0 over the first N steps; use it with --init, since a cold start harms networks."""

    beta1: float = 0.5
    """First beta of Adam; the second is 0.999."""

    pool_size: int = 50
    """Number of past generated pictures kept for training the discriminators; 0 disables the pool."""

    # Pictures.
    augment: str = "paper"
    """none, paper (crop, flip), strong (also zoom, rotation, colors), detail (unscaled) or an albumentations FILE."""

    serial_batches: bool = False
    """Take both collections in order, instead of shuffling X and drawing Y at random."""

    # Evaluation.
    eval_every: int = 0
    """Measure G and F every N epochs and at the end, and keep the best in best/; 0: never. Needs the extra `eval`."""

    eval_pictures: int = 50
    """Test pictures of each collection to translate; they are compared with twice as many real ones."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 0, "eval_every")
        check_at_least(self, 2, "eval_pictures")
        check_at_least(self, 1, "ngf", "ndf", "n_layers_d", "noise_size")
        check_at_least(self, 0, "n_blocks", "pool_size", "lambda_x", "lambda_y", "lambda_identity", "noise", "limit")
        check_at_least(self, 0, "one_sided_steps", "lambda_content", "lambda_tone", "lambda_color", "lambda_style")
        check_at_least(self, 0, "lambda_weave", "palette", "warmup_steps")
        if not 0 <= self.keep_colors <= 1:
            raise ValueError(f"--keep-colors {self.keep_colors:g}: expected a value from 0 to 1")
        if self.palette > 1:
            raise ValueError(f"--palette {self.palette:g}: expected a value from 0 (the picture's colors) to 1")
        if self.noise_size > 64:
            raise ValueError(f"--noise-size must be in [1, 64], got {self.noise_size}")
        check_positive(self, "lr_d")
        if len(self.init) > 2:
            raise ValueError(f"--init: expected a run, or one or two networks (G, F), got {len(self.init)}")
        if not 0 <= self.beta1 < 1:
            raise ValueError(f"--beta1 must be in [0, 1), got {self.beta1}")
        self.check_crop_size(max(16, 2 ** (self.n_layers_d + 2)), f"--n-layers-d {self.n_layers_d}")
        if self.discriminator != "patch" or self.is_one_sided(0):
            self.check_crop_size(32, "features of a VGG")

    def is_one_sided(self, step: int) -> bool:
        """Whether a step, counted from 0, is one without the cycle."""
        return self.one_way or step < self.one_sided_steps

    @property
    def directions(self) -> tuple[str, str]:
        """What G and F do with the folders: "x2y" translates A into B."""
        return ("x2y", "y2x") if self.direction == "AtoB" else ("y2x", "x2y")


@dataclass(frozen=True)
class TranslateConfig(PaintConfig):
    """Translate pictures, folders or videos with a trained generator. Their size is kept unless --size is given.

    Transparency, 16 bits and animations are kept if the format can store them; of EXIF the date, camera, exposure,
    lens and author are kept; position (GPS), maker notes, serial numbers, comments and thumbnails are dropped. Results
    are in sRGB.
    """

    weights: Annotated[
        str | None, default_is("landscape2vangogh, or vangogh2landscape with --direction y2x", "STR", ("-w",))
    ] = None
    """A bundled network (see `cyclegan weights`), a training run, a folder, an official .pth file, or a Hub id."""

    direction: Literal["x2y", "y2x", "AtoB", "BtoA"] = "x2y"
    """Which generator of a training run to use: x2y (or AtoB) is G, y2x (or BtoA) is F."""


@dataclass(frozen=True)
class ExportConfig(ExportOptions):
    """Export a generator for use without this library, as an ONNX file or a torch.export program.

    Pictures of any size with sides of at least 36 pixels go in and come out, as in `cyclegan translate`. The file is
    compared with PyTorch on a photograph at two sizes; the exit code is 1 if a value differs by more than a gray level.

    Needs the extra `export`: pip install ".[export]".
    """

    weights: Annotated[
        str | None, default_is("landscape2vangogh, or vangogh2landscape with --direction y2x", "STR", ("-w",))
    ] = None
    """A bundled network (see `cyclegan weights`), a training run, a folder, an official .pth file, or a Hub id."""

    direction: Literal["x2y", "y2x", "AtoB", "BtoA"] = "x2y"
    """Which generator of a training run to export: x2y (or AtoB) is G, y2x (or BtoA) is F."""


@dataclass(frozen=True)
class WeightsConfig:
    """List the bundled networks, for --weights."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure a generator: distances to real pictures (KID, FID), content kept, cycle error, weave, halo, palette.

    Translates DATAROOT/testA (trainA if there is none) and compares the result with trainB and testB together; with
    --direction y2x, testB with trainA and testA. --outputs measures pictures that another method has made of them.

    Needs the extra `eval`: pip install ".[eval]".
    """

    dataroot: str
    """Folder with trainA, trainB and optionally testA, testB. train_A, A/train and train/A work too."""

    weights: Annotated[
        str | None, default_is("landscape2vangogh, or vangogh2landscape with --direction y2x", "STR", ("-w",))
    ] = None
    """A bundled network (see `cyclegan weights`), a training run, a folder, an official .pth file, or a Hub id."""

    direction: Annotated[
        Literal["x2y", "y2x", "AtoB", "BtoA"] | None,
        default_is("x2y, or y2x with --weights vangogh2landscape", "{x2y,y2x,AtoB,BtoA}"),
    ] = None
    """x2y (or AtoB) translates A with G of a run, y2x (or BtoA) B with F; a single network is used in both."""

    outputs: Annotated[Path | None, default_is("translate with --weights", "DIR")] = None
    """Measure the pictures in this folder, each made from the picture of X with its name. There is no cycle error."""

    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = Path("evaluation.json")
    """JSON file with all figures; replaced if it exists."""

    size: Annotated[int | None, default_is("full size", "INT")] = None
    """First shrink pictures of both collections whose longer side exceeds this many pixels."""

    max_dataset_size: Annotated[int | None, default_is("all", "INT")] = None
    """Use only the first N pictures of each collection, sorted by name, those of the test folder first."""

    inception_weights: Annotated[Path | None, default_is("none: no fid_inception", "PATH")] = None
    """torch-fidelity's weights-inception-2015-12-05-6726825d.pth, for fid_inception and kid_inception."""

    device: str = "auto"
    """auto, cpu, mps, cuda or cuda:N."""

    threads: Annotated[int | None, THREADS] = None
    """CPU threads."""

    def __post_init__(self) -> None:
        check_at_least(self, 16, "size")
        check_at_least(self, 1, "max_dataset_size", "threads")
        if self.output.suffix != ".json":
            raise ValueError(f"--output {self.output}: expected a .json file")
        if self.outputs is not None and self.weights is not None:
            raise ValueError(f"--outputs {self.outputs} and --weights {self.weights} exclude each other; give one")

    @property
    def resolved_direction(self) -> Literal["x2y", "y2x"]:
        """The direction in the words of the paper, also if none was given."""
        if self.direction is None:
            return "y2x" if self.weights == "vangogh2landscape" else "x2y"
        return "y2x" if self.direction in ("y2x", "BtoA") else "x2y"

    @property
    def resolved_weights(self) -> str:
        """The weights, also if none were given."""
        default = "landscape2vangogh" if self.resolved_direction == "x2y" else "vangogh2landscape"
        return self.weights or default


@dataclass(frozen=True)
class FetchConfig:
    """Fetch a data set: one of the published sets by name, or pictures of X and of Y from the web or your folders.

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
    """Pictures of each side at most. A larger number adds pictures to a data set. Published sets are complete."""

    license: Annotated[Literal["derivatives", "commercial", "any"], also("--licence")] = "derivatives"
    """Flickr: take licenses that allow derivatives, those that allow also commercial use, or any."""

    genre: Annotated[str | None, default_is("all", "STR")] = None
    """WikiArt: take only paintings of this genre by the artist, such as landscape. One request for each painting."""

    size: Annotated[int | None, default_is("512; published sets are kept as they are", "INT")] = None
    """Reduce pictures so that the shorter side has this many pixels."""

    min_size: Annotated[int | None, default_is("256; published sets are kept as they are", "INT")] = None
    """Leave out pictures whose shorter side has fewer pixels."""

    test_share: float = 0.05
    """Share of pictures for testA and testB, chosen by their content. Published sets have their own."""

    rate: float = 5.0
    """Requests per second to one server at most."""

    dry_run: bool = False
    """Say what would be fetched, and write nothing."""

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

    @property
    def resolved_output(self) -> Path:
        """The folder of the data set, also if none was given."""
        return self.output or Path("datasets") / str(self.name)


@dataclass(frozen=True)
class CheckConfig:
    """Check a data set before training: unreadable, small, gray, framed, repeated pictures, and the size of details.

    Writes a contact sheet of both sides with their colors. The exit code is 1 if training would suffer.
    """

    dataroot: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATAROOT")]
    """Folder with trainA, trainB and optionally testA, testB. train_A, A/train and train/A work too."""

    photos: Annotated[Path | None, default_is("none", "PATH")] = None
    """Folder of pictures to translate, to compare the size of their details with that in training."""

    size: Annotated[int | None, default_is("full size", "INT")] = None
    """The --size that `cyclegan translate` will be given for these pictures."""

    direction: Literal["AtoB", "BtoA"] = "AtoB"
    """BtoA swaps the folders, as in training: the pictures to translate are compared with trainB."""

    load_size: int = 286
    """The --load-size of the training: shorter side of the training pictures."""

    min_size: int = 256
    """Shorter side below which a picture is too small; the --crop-size of the training."""

    fix: bool = False
    """Move pictures that would harm the training to DATAROOT/rejected. Nothing is deleted."""

    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = Path("check.jpg")
    """Contact sheet; replaced if it exists."""

    threads: Annotated[int | None, THREADS] = None
    """CPU threads."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "threads", "min_size", "load_size", "size")
        if self.size is not None and self.photos is None:
            raise ValueError(f"--size {self.size} goes with --photos, the pictures to translate")
