"""Measure a trained generator: distances between its pictures and real ones, and what it keeps, adds and loses.

Every figure has two marks: what it would be if real pictures of Y took the place of the output, and if the untranslated
input did. Names follow the direction X -> Y; for y2x the roles of the collections are exchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from cyclegan.data import find_domain
from cyclegan.models import Generator, GeneratorPair
from cyclegan.options import EvaluateConfig, TrainConfig
from cyclegan.translate import load_generator, translate
from stylekit import devices
from stylekit.atomic import check_writable
from stylekit.networks import metrics
from stylekit.networks.figures import Figure, Saved
from stylekit.networks.metrics import Estimate
from stylekit.pictures import images
from stylekit.pictures.collection import Collection
from stylekit.training.data import evenly_spaced
from stylekit.training.log import print0

Translate = Callable[[Tensor], Tensor]
"""A picture, (1, 3, H, W) in [0, 1], on the device -> its translation, the same."""

MARKS = ("real Y", "untranslated X")
"""The columns of the table with the marks."""

SCORE = ("kid_efficientnet_lite0", "palette_distance")
"""The figures that choose the best networks of a run (see `score`)."""


@dataclass
class Evaluation(Saved):
    """All figures of a generator, with what they were measured on."""

    weights: str | None
    """None if the pictures were made by another method."""
    outputs: str | None
    """The folder with these pictures."""
    direction: str
    dataroot: str
    size: int | None
    counts: dict[str, int]
    """Pictures of X and of Y, of Y those that stand for output in the mark `real` of distances, and the pictures of X
    that count for weave and halo, since not every picture has smooth areas or strong edges."""
    figures: dict[str, Figure] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    """Pictures that could not be read."""


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Compute all figures of a generator, or of pictures that another method has made.

    X is testA, or trainA without it; Y is trainB and testB together, since the published sets have few test paintings.

    Raises:
        FileNotFoundError: There are no such weights or no pictures.
        ValueError: The weights are damaged or of another network, too few pictures can be read, a picture in
            `config.outputs` does not fit its input, or a package of the extra `eval` is missing.
        OSError: The result could not be written.
        MemoryError: A picture is too large.
    """
    metrics.check_installed()
    check_writable(config.output)
    direction = config.resolved_direction
    device = devices.choose_device(config.device)
    x_paths, y_paths = find_pictures(config.dataroot, direction)
    there: Translate | None = None
    back: Translate | None = None
    if config.outputs is None:
        generator, other = load_generators(config.resolved_weights, direction)
        there, back = _on(generator, device), _on(other, device) if other else None
    else:
        made = find_outputs(config.outputs, x_paths)
        x_paths = list(made)
    name = config.resolved_weights if config.outputs is None else None
    outputs = None if config.outputs is None else str(config.outputs)
    evaluation = Evaluation(name, outputs, direction, str(config.dataroot), config.size, {})
    most = config.max_dataset_size
    x, y = (Collection(paths[:most], config.size, device, evaluation.errors) for paths in (x_paths, y_paths))
    try:
        reference = Reference(x, y, feature_networks(config.inception_weights), device)
        if there is None:
            there = _painted(x, Collection([made[path] for path in x.paths], config.size, device, []))
        evaluation.counts, evaluation.figures = reference.counts, reference.measure(there, back)
    except (RuntimeError, MemoryError) as error:
        if not devices.is_out_of_memory(error):
            raise
        raise MemoryError("out of memory; shrink the pictures, as with --size 1000") from error
    return evaluation


class Reference:
    """Two collections and all that is known without a generator: features of real pictures, and the marks.

    Args:
        x: Pictures to translate, each (1, 3, H, W) in [0, 1]; they are read anew for every measurement.
        y: Real pictures of the other collection.
        networks: Feature networks by name, among them "vgg_compact"; "inception" also gives FID.

    Raises:
        ValueError: Fewer than two pictures of X, or four of Y, can be read.
    """

    @torch.inference_mode()
    def __init__(
        self,
        x: Sequence[Tensor] | Collection,
        y: Sequence[Tensor] | Collection,
        networks: Mapping[str, nn.Module],
        device: torch.device | str = "cpu",
    ) -> None:
        self.x = x
        self.networks = {name: network.to(device) for name, network in networks.items()}
        self.vgg = cast(metrics.CompactVGG, self.networks["vgg_compact"]).vgg
        self.real, self.untranslated = _Set(), _Set()
        for picture in _progress(y, "real Y"):
            self.real.add(picture, picture, _features(self.networks, picture))
        if self.real.count < 4:
            raise ValueError(f"evaluation needs at least 4 pictures of Y; {self.real.count} can be read")
        for i, picture in enumerate(_progress(x, "real X")):
            before, unrelated = self.vgg(picture), self.vgg(y[i * len(y) // len(x)], ["relu4_1"])
            self.untranslated.add(picture, picture, _features(self.networks, picture, before))
            self.untranslated.note("content_kept", 1.0)
            self.untranslated.note("halo", metrics.halo(picture, picture))
            self.real.note("content_kept", metrics.content_kept(before["relu4_1"], unrelated["relu4_1"]))
        if self.untranslated.count < 2:
            raise ValueError(f"evaluation needs at least 2 pictures of X; {self.untranslated.count} can be read")

        # As many real pictures as outputs, so that the mark has the bias and the uncertainty of the figure.
        held_out = min(self.untranslated.count, self.real.count // 2)
        order = torch.randperm(self.real.count, generator=torch.Generator().manual_seed(0))
        one, others = order[:held_out], order[held_out:]
        self.counts = {"x": self.untranslated.count, "y": self.real.count, "y_held_out": held_out}
        self.counts |= {name: self.untranslated.counted(name) for name in ("weave", "halo")}

        self.distances: dict[str, tuple[str, Callable[[Tensor, Tensor], Estimate]]] = {}
        """The key of the vectors, and the function, of every distance by name."""
        for name in networks:
            self.distances[f"kid_{name}"] = (name, metrics.kid)
            if name == "inception":
                self.distances[f"fid_{name}"] = (name, metrics.fid)
        self.distances["palette_distance"] = ("palette", metrics.palette_distance)
        self.marks: dict[str, tuple[Estimate | None, Estimate | None]] = {}
        for name, (key, distance) in self.distances.items():
            real = self.real.stacked(key)
            self.marks[name] = distance(real[one], real[others]), distance(self.untranslated.stacked(key), real)
        for name in ("content_kept", "cycle_error", "weave", "halo"):
            self.marks[name] = self.real.mean(name), self.untranslated.mean(name)

    @torch.inference_mode()
    def measure(self, there: Translate, back: Translate | None = None) -> dict[str, Figure]:
        """The figures of a translation, by name. No random state changes.

        Args:
            there: Translates pictures of X; called for one after the other.
            back: Translates back, for the cycle error.
        """
        output = _Set()
        for picture in _progress(self.x, "translate"):
            fake = there(picture)
            before, after = self.vgg(picture, ["relu4_1"]), self.vgg(fake)
            output.add(fake, picture, _features(self.networks, fake, after))
            output.note("content_kept", metrics.content_kept(before["relu4_1"], after["relu4_1"]))
            output.note("halo", metrics.halo(fake, picture))
            if back is not None:
                output.note("cycle_error", float((back(fake) - picture).abs().mean()))
        found: dict[str, Figure] = {}
        for name, marks in self.marks.items():
            if name in self.distances:
                key, distance = self.distances[name]
                estimate: Estimate | None = distance(output.stacked(key), self.real.stacked(key))
            else:
                estimate = output.mean(name)
            if estimate is not None:
                found[name] = Figure(estimate, *marks)
        return found


class Monitor:
    """Measures the generators of a run in both directions, or only G with --one-way. It reads real pictures once.

    The first direction is that of G. Pictures to translate are spaced evenly over the test pictures of a collection, or
    over the training pictures if there are none; real ones, twice as many, over both. They are shrunk to the load size,
    at least 256 px. No random state changes.

    Raises:
        ValueError: A package of the extra `eval` is missing, or too few pictures can be read.
    """

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        metrics.check_installed()
        networks = feature_networks()
        self.references: dict[str, Reference] = {}
        count, size = config.eval_pictures, max(256, config.load_size)
        errors: list[str] = []
        names = ("x2y",) if config.one_way else ("x2y", "y2x")
        for name, direction in zip(names, config.directions, strict=False):
            x, y = find_pictures(config.dataroot, direction)
            translated = Collection(evenly_spaced(x, count), size, device, errors)
            real = Collection(evenly_spaced(y, 2 * count), size, device, errors)
            self.references[name] = Reference(translated, real, networks, device)
        for error in dict.fromkeys(errors):
            print0(f"not evaluated: {error}")

    def measure(self, pair: GeneratorPair) -> dict[str, dict[str, Figure]]:
        """The figures of G (x2y) and F (y2x), by direction and name."""
        if "y2x" not in self.references:
            return {"x2y": self.references["x2y"].measure(_translator(pair.G))}
        there, back = (_translator(generator) for generator in (pair.G, pair.F))
        return {
            "x2y": self.references["x2y"].measure(there, back),
            "y2x": self.references["y2x"].measure(back, there),
        }


def score(measured: Mapping[str, Mapping[str, Figure]]) -> float:
    """One number that chooses the best networks of a run: the mean, over both directions, of `SCORE` relative to the
    untranslated pictures. 1 is no better than these; smaller is better.

    The features are not those of the VGG, which a discriminator may have. They alone would favor a generator that
    changes little, and colors alone one that paints no strokes.
    """
    ratios = []
    for found in measured.values():
        for name in SCORE:
            untranslated = cast(Estimate, found[name].untranslated).value
            # Two collections that are nearly the same have a distance of 0, or less for KID.
            ratios.append(found[name].output.value / max(untranslated, 1e-3))
    return sum(ratios) / len(ratios)


def feature_networks(inception_weights: Path | None = None) -> dict[str, nn.Module]:
    """The networks whose features are compared, by name. The random state, which gives new layers their weights before
    these are read from files, is left as it was.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A package of the extra `eval` is missing, or the file is of another network.
    """
    with torch.random.fork_rng(devices=[]):
        networks: dict[str, nn.Module] = {
            "vgg_compact": metrics.CompactVGG(),
            "efficientnet_lite0": metrics.EfficientNetLite0(),
        }
        if inception_weights is not None:
            networks["inception"] = metrics.Inception(inception_weights)
    return networks


PAIRS = {
    "landscape2vangogh-cycle": "vangogh2landscape-cycle",
    "vangogh2landscape-cycle": "landscape2vangogh-cycle",
}
"""Bundled networks that were trained together."""


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
    inverse = None if Path(name).exists() else PAIRS.get(str(name))
    return load_generator(name), load_generator(inverse) if inverse else None


def find_pictures(dataroot: str | Path, direction: str) -> tuple[list[Path], list[Path]]:
    """The pictures to translate and the real ones to compare with, those of the test folder first.

    Raises:
        FileNotFoundError: There are none.
    """
    a, b = ("A", "B") if direction == "x2y" else ("B", "A")
    x = find_domain(dataroot, "test", a) or find_domain(dataroot, "train", a)
    y = find_domain(dataroot, "test", b) + find_domain(dataroot, "train", b)
    for domain, found in ((a, x), (b, y)):
        if not found:
            raise FileNotFoundError(f"no pictures in {dataroot}: expected test{domain} or train{domain}")
    return x, y


def find_outputs(folder: Path, inputs: Sequence[Path]) -> dict[Path, Path]:
    """The pictures in a folder that have the name of an input, in any format, by input.

    Raises:
        FileNotFoundError: There is no such folder, or no such picture in it.
    """
    made = {path.stem: path for path in images.find(folder)}
    found = {path: made[path.stem] for path in inputs if path.stem in made}
    if not found:
        raise FileNotFoundError(
            f"--outputs {folder}: no picture has the name of an input; expected names as in {inputs[0].parent}, such "
            f"as {inputs[0].name}"
        )
    return found


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
    return _translator(devices.to_device(generator, device))


def _translator(generator: Generator) -> Translate:
    return lambda picture: translate(picture, generator)


def _painted(inputs: Collection, outputs: Collection) -> Translate:
    """A "translation" that returns the pictures of a folder, one at each call; their sizes must be those of inputs."""
    numbers = iter(range(len(outputs)))

    def there(picture: Tensor) -> Tensor:
        i = next(numbers)
        output = outputs[i]
        if output.shape != picture.shape:
            sizes = [f"{p.shape[3]} x {p.shape[2]}" for p in (output, picture)]
            raise ValueError(
                f"{outputs.paths[i]} has {sizes[0]} pixels, its input {inputs.paths[i]} {sizes[1]}; shrink both with "
                f"--size {min(max(output.shape[2:]), max(picture.shape[2:]))}"
            )
        return output

    return there


def _progress(pictures: Any, name: str) -> Any:
    return tqdm(pictures, desc=name, unit="picture", disable=None, delay=1, leave=False)
