"""Measure a trained generator: distances between its pictures and real ones, and what it keeps, adds and loses.

Every figure has two marks: what it would be if real pictures of Y took the place of the output, and if the untranslated
input did. Names follow the direction X -> Y; for y2x the roles of the collections are exchanged.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from cyclegan.data import find_domain
from cyclegan.models import Generator
from cyclegan.options import EvaluateConfig
from cyclegan.translate import load_generator, translate
from stylekit import devices
from stylekit.atomic import atomic_write, check_writable
from stylekit.networks import metrics, weights
from stylekit.networks.metrics import Estimate
from stylekit.pictures import images

Translate = Callable[[Tensor], Tensor]
"""A picture, (1, 3, H, W) in [0, 1], on the device -> its translation, the same."""


@dataclass(frozen=True)
class Figure:
    """A figure of the output and its marks; None where there is none."""

    output: Estimate
    real: Estimate | None = None
    """With real pictures of Y as output: for distances, some pictures of Y against the others."""
    untranslated: Estimate | None = None
    """With the input as output."""


@dataclass
class Evaluation:
    """All figures of a generator, with what they were measured on."""

    weights: str
    direction: str
    dataroot: str
    size: int | None
    counts: dict[str, int]
    """Pictures of X and of Y, of Y those that stand for output in the mark `real` of distances, and the outputs that
    count for weave and halo, since not every picture has smooth areas or strong edges."""
    figures: dict[str, Figure] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    """Pictures that could not be read."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; None instead of NaN."""
        plain = dataclasses.asdict(self)
        plain["figures"] = {
            name: {part: _plain(estimate) for part, estimate in vars(figure).items()}
            for name, figure in self.figures.items()
        }
        return plain

    def save(self, path: Path) -> None:
        """Write JSON, completely or not at all.

        Raises:
            OSError: The file cannot be written.
        """
        with atomic_write(path) as file:
            file.write((json.dumps(self.to_dict(), indent=2) + "\n").encode())


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Load a generator and both collections and compute all figures.

    X is testA, or trainA without it; Y is trainB and testB together, since the published sets have few test paintings.

    Raises:
        FileNotFoundError: There are no such weights or no pictures.
        ValueError: The weights are damaged or of another network, too few pictures can be read, or a package of the
            extra `eval` is missing.
        OSError: The result could not be written.
        MemoryError: A picture is too large.
    """
    metrics.check_installed()
    check_writable(config.output)
    direction = config.resolved_direction
    device = devices.choose_device(config.device)
    generator, other = load_generators(config.resolved_weights, direction)
    x_paths, y_paths = find_pictures(config.dataroot, direction, config.max_dataset_size)
    evaluation = Evaluation(config.resolved_weights, direction, str(config.dataroot), config.size, {})
    x, y = (_Pictures(paths, config.size, device, evaluation.errors) for paths in (x_paths, y_paths))
    networks: dict[str, nn.Module] = {
        "vgg_compact": metrics.CompactVGG(),
        "efficientnet_lite0": metrics.EfficientNetLite0(),
    }
    if config.inception_weights is not None:
        networks["inception"] = metrics.Inception(config.inception_weights)
    try:
        measure(evaluation, x, y, _on(generator, device), _on(other, device) if other else None, networks, device)
    except (RuntimeError, MemoryError) as error:
        if not devices.is_out_of_memory(error):
            raise
        raise MemoryError("out of memory; shrink the pictures, as with --size 1000") from error
    return evaluation


@torch.inference_mode()
def measure(
    evaluation: Evaluation,
    x: Sequence[Tensor] | _Pictures,
    y: Sequence[Tensor] | _Pictures,
    there: Translate,
    back: Translate | None,
    networks: dict[str, nn.Module],
    device: torch.device | str = "cpu",
) -> None:
    """Compute all figures of a translation and put them into `evaluation`.

    Args:
        x: Pictures to translate, each (1, 3, H, W) in [0, 1].
        y: Real pictures of the other collection.
        back: Translates back, for the cycle error.
        networks: Feature networks by name, among them "vgg_compact"; "inception" also gives FID.

    Raises:
        ValueError: There are fewer than two pictures of X, or four of Y.
    """
    networks = {name: network.to(device) for name, network in networks.items()}
    vgg = cast(metrics.CompactVGG, networks["vgg_compact"]).vgg
    real = _Set()
    for picture in tqdm(y, desc="Y", unit="picture", disable=None, delay=1):
        real.add(picture, picture, _features(networks, picture))
    if real.count < 4:
        raise ValueError(f"evaluation needs at least 4 pictures of Y; {real.count} can be read")

    output, untranslated = _Set(), _Set()
    for i, picture in enumerate(tqdm(x, desc="X", unit="picture", disable=None, delay=1)):
        fake = there(picture)
        before, after, unrelated = (vgg(p) for p in (picture, fake, y[i * len(y) // len(x)]))
        output.add(fake, picture, _features(networks, fake, after))
        output.note("halo", metrics.halo(fake, picture))
        untranslated.add(picture, picture, _features(networks, picture, before))
        output.note("content_kept", metrics.content_kept(before["relu4_1"], after["relu4_1"]))
        real.note("content_kept", metrics.content_kept(before["relu4_1"], unrelated["relu4_1"]))
        untranslated.note("content_kept", 1.0)
        untranslated.note("halo", 0.0)
        if back is not None:
            output.note("cycle_error", float((back(fake) - picture).abs().mean()))
    if output.count < 2:
        raise ValueError(f"evaluation needs at least 2 pictures of X; {output.count} can be read")

    # As many real pictures as outputs, so that the mark has the bias and the uncertainty of the figure.
    held_out = min(output.count, real.count // 2)
    order = torch.randperm(real.count, generator=torch.Generator().manual_seed(0))
    one, others = order[:held_out], order[held_out:]
    evaluation.counts = {"x": output.count, "y": real.count, "y_held_out": held_out}

    def distance(name: str, of: Callable[[Tensor, Tensor], Estimate], key: str) -> None:
        fakes, reals, inputs = output.stacked(key), real.stacked(key), untranslated.stacked(key)
        marks = of(reals[one], reals[others]), of(inputs, reals)
        evaluation.figures[name] = Figure(of(fakes, reals), *marks)

    for name in networks:
        distance(f"kid_{name}", metrics.kid, name)
        if name == "inception":
            distance("fid_inception", metrics.fid, name)
    distance("palette_distance", metrics.palette_distance, "palette")
    for name in ("content_kept", "cycle_error", "weave", "halo"):
        estimate = output.mean(name)
        if estimate is not None:
            evaluation.figures[name] = Figure(estimate, real.mean(name), untranslated.mean(name))
        if name in ("weave", "halo"):
            evaluation.counts[name] = output.counted(name)


def load_generators(name: str | Path, direction: str) -> tuple[Generator, Generator | None]:
    """The generator to evaluate and, if it is known, the one that translates back: of a run or of a bundled pair.

    Args:
        name: As for `load_generator`. A single network is taken whatever the direction, which then only says
            which collection it translates.
        direction: "x2y" or "y2x".

    Raises:
        FileNotFoundError: There are no such weights.
        ValueError: They are damaged or belong to another network.
        OSError: The Hub cannot be reached.
    """
    if (Path(name) / "G").is_dir():
        there, back = ("x2y", "y2x") if direction == "x2y" else ("y2x", "x2y")
        return load_generator(name, there), load_generator(name, back)  # type: ignore[arg-type]
    inverse = "2".join(reversed(str(name).split("2")))
    bundled = {str(name), inverse} <= weights.bundled().keys() and not Path(name).exists()
    return load_generator(name), load_generator(inverse) if bundled else None


def find_pictures(dataroot: str | Path, direction: str, most: int | None = None) -> tuple[list[Path], list[Path]]:
    """The pictures to translate and the real ones to compare with; at most `most` of each.

    Raises:
        FileNotFoundError: There are none.
    """
    a, b = ("A", "B") if direction == "x2y" else ("B", "A")
    x = find_domain(dataroot, "test", a) or find_domain(dataroot, "train", a)
    y = find_domain(dataroot, "test", b) + find_domain(dataroot, "train", b)
    for domain, found in ((a, x), (b, y)):
        if not found:
            raise FileNotFoundError(f"no pictures in {dataroot}: expected test{domain} or train{domain}")
    return x[:most], y[:most]


def table(evaluation: Evaluation) -> str:
    """The figures as Markdown; readable on a terminal too. KID is multiplied by 1000."""
    rows: list[tuple[str, ...]] = [("", "output", "95 % interval", "real Y", "untranslated X")]
    for name, figure in evaluation.figures.items():
        scale = 1000 if name.startswith("kid_") else 1
        kid = f"{name} x 1000" if scale > 1 else name
        low, high = (_shown(v * scale) for v in figure.output[1:])
        marks = (_shown(mark.value * scale) if mark else "" for mark in (figure.real, figure.untranslated))
        interval = f"{low} to {high}" if not math.isnan(figure.output.low) else ""
        rows.append((kid, _shown(figure.output.value * scale), interval, *marks))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rows.insert(1, tuple("-" * width for width in widths))
    lines = (" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(f"| {line} |" for line in lines)


class _Pictures:
    """Pictures of files, read when they are iterated; those that cannot be read are reported and skipped."""

    def __init__(self, paths: Sequence[Path], size: int | None, device: torch.device, errors: list[str]) -> None:
        self.paths, self.size, self.device, self.errors = list(paths), size, device, errors

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        picture = images.load(self.paths[index])
        picture = images.resize(picture, self.size) if self.size is not None else picture
        if min(picture.size) < 16:
            raise ValueError(f"{self.paths[index]}: {picture.width} x {picture.height} pixels; expected at least 16")
        return images.to_tensor(picture).to(self.device)

    def __iter__(self) -> Iterator[Tensor]:
        bad = []
        for i, path in enumerate(self.paths):
            try:
                picture = self[i]
            except ValueError as error:
                self.errors.append(str(error))
                bad.append(path)
            else:
                yield picture
        self.paths = [path for path in self.paths if path not in bad]


class _Set:
    """What is known of the pictures of a set: vectors for distances and numbers for means."""

    def __init__(self) -> None:
        self.count = 0
        self.vectors: dict[str, list[Tensor]] = {}
        self.numbers: dict[str, list[float]] = {}

    def add(self, picture: Tensor, before: Tensor, features: dict[str, Tensor]) -> None:
        """Take in a picture; `before` is the input it was made from, or itself."""
        self.count += 1
        for key, vector in (features | {"palette": metrics.palette(picture)}).items():
            self.vectors.setdefault(key, []).append(vector)
        self.note("weave", metrics.weave(picture, before))

    def note(self, name: str, value: float) -> None:
        self.numbers.setdefault(name, []).append(value)

    def stacked(self, key: str) -> Tensor:
        return torch.stack(self.vectors[key])

    def counted(self, name: str) -> int:
        return sum(not math.isnan(value) for value in self.numbers[name])

    def mean(self, name: str) -> Estimate | None:
        return metrics.mean(torch.tensor(self.numbers[name])) if name in self.numbers else None


def _features(
    networks: dict[str, nn.Module], picture: Tensor, layers: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The features of a picture by network; `layers` are those of the compact VGG, if they are already known."""
    found = {}
    for name, network in networks.items():
        known = layers is not None and isinstance(network, metrics.CompactVGG)
        found[name] = (network.pool(layers) if known else network(picture))[0].cpu()  # type: ignore[operator]
    return found


def _on(generator: Generator, device: torch.device) -> Translate:
    generator = devices.to_device(generator, device)
    return lambda picture: translate(picture, generator)


def _plain(estimate: Estimate | None) -> dict[str, float | None] | None:
    if estimate is None:
        return None
    return {key: None if math.isnan(value) else value for key, value in estimate._asdict().items()}


def _shown(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
