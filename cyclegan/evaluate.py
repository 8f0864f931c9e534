"""Measure a trained generator: distances between its pictures and real ones, and what it keeps, adds and loses.

Every metric has two baselines: what it would be if real pictures of Y took the place of the output, and if the
untranslated input did. Names follow the direction X -> Y; for y2x the roles of the collections are exchanged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Literal, cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from cyclegan.data import find_domain
from cyclegan.models import Generator
from cyclegan.options import EvaluateConfig, UnpairedData
from cyclegan.translate import load_generator, translate
from stylekit import devices
from stylekit.atomic import check_writable
from stylekit.measures import features
from stylekit.measures.features import Estimate
from stylekit.measures.patterns import halo, weave
from stylekit.measures.table import Evaluation, Metric, Samples
from stylekit.networks import weights
from stylekit.pictures import images
from stylekit.pictures.collection import Collection
from stylekit.training.data import evenly_spaced
from stylekit.training.log import print0

MONITOR_PICTURES = 50
"""Test pictures of each collection that are translated when a run is evaluated."""

Pairs = Iterable[tuple[Tensor, Tensor]]
"""Inputs and outputs, each (1, 3, H, W) in [0, 1], on the device."""

SCORE = ("kid_efficientnet_lite0", "palette_distance")
"""The metrics that choose the best networks of a run (see `score`)."""


def evaluate(config: EvaluateConfig) -> Evaluation[EvaluateConfig]:
    """Compute all metrics of a generator, or of pictures that another method has made.

    X is testA, or trainA without it; Y is trainB and testB together, since the published sets have few test paintings.
    The options of the result have the weights and the direction that were used; its counts are those of X, of Y, and of
    the part of Y that stands for output in the baseline `real` of distances.

    Raises:
        FileNotFoundError: The network does not exist, or there are no pictures.
        ValueError: The weights do not fit, too few pictures can be read, a picture in `config.outputs` does not fit its
            input, or a package of the extra `eval` is missing.
        MemoryError: A picture is too large.
    """
    check_writable(config.output)
    direction = find_direction(config)
    device = devices.choose_device(config.device)
    x_paths, y_paths = find_pictures(config.dataroot, direction)
    most, errors = config.max_dataset_size, list[str]()
    y = Collection(y_paths[:most], config.size, device, errors)
    back = None
    if config.outputs is None:
        name = config.weights or ("landscape2vangogh" if direction == "x2y" else "vangogh2landscape")
        there, back = (devices.to_device(g, device) if g else None for g in load_generators(name, direction))
        pairs = translated(Collection(x_paths[:most], config.size, device, errors), cast(Generator, there))
    else:
        name = None
        made = find_outputs(config.outputs, x_paths)
        pairs = read_pairs(Collection(list(made)[:most], config.size, device, errors), made)
    with devices.memory_hint("; shrink the pictures, as with --size 1000"):
        reference = Reference(y, feature_networks(config.inception_weights), device)
        metrics = reference.measure(pairs, back)
    measured = dataclasses.replace(config, weights=name, direction=direction)
    return Evaluation(measured, reference.counts, metrics, errors)


class Reference:
    """Real pictures of Y, with which translations of X are compared.

    Args:
        y: Each (1, 3, H, W) in [0, 1].
        networks: Feature networks by name, among them "vgg_compact"; "inception" also gives FID.

    Raises:
        ValueError: Fewer than four pictures can be read.
    """

    @torch.inference_mode()
    def __init__(
        self, y: Sequence[Tensor] | Collection, networks: Mapping[str, nn.Module], device: torch.device | str = "cpu"
    ) -> None:
        self.y = y
        self.networks = {name: network.to(device) for name, network in networks.items()}
        self.vgg = cast(features.CompactVGG, self.networks["vgg_compact"]).vgg
        self.real, self.untranslated = Samples(), Samples()
        for picture in _progress(y, "real Y"):
            self.real.add(**self._describe(picture, picture, self.vgg(picture)))
        self.counts = {"y": len(self.real.values["palette"])}
        if self.counts["y"] < 4:
            raise ValueError(f"evaluation needs at least 4 pictures of Y; {self.counts['y']} can be read")

    @torch.inference_mode()
    def measure(self, pairs: Pairs, back: Generator | None = None) -> dict[str, Metric]:
        """The metrics of a translation, by name; with `back`, which translates back, also the cycle error.

        The first call also measures its inputs, for the baselines. ValueError if there are fewer than two pairs.
        """
        output, first = Samples(), not self.untranslated.values
        for i, (picture, fake) in enumerate(pairs):
            before, after = self.vgg(picture), self.vgg(fake)
            kept = features.content_kept(before["relu4_1"], after["relu4_1"])
            output.add(content_kept=kept, halo=halo(fake, picture), **self._describe(fake, picture, after))
            if back is not None:
                output.add(cycle_error=float((translate(fake, back, draft=False) - picture).abs().mean()))
            if first:
                self.untranslated.add(content_kept=1.0, halo=halo(picture, picture))
                self.untranslated.add(**self._describe(picture, picture, before))
                unrelated = self.vgg(self.y[i % len(self.y)], ["relu4_1"])
                self.real.add(content_kept=features.content_kept(before["relu4_1"], unrelated["relu4_1"]))
        count = len(output.values["palette"])
        if count < 2:
            raise ValueError(f"evaluation needs at least 2 pictures of X; {count} can be read")
        # As many real pictures as outputs, so that the baseline has the bias and the uncertainty of the metric.
        held_out = min(count, self.counts["y"] // 2)
        order = torch.randperm(self.counts["y"], generator=torch.Generator().manual_seed(0))
        self.counts |= {"x": count, "y_held_out": held_out, **{name: output.count(name) for name in ("weave", "halo")}}

        def distance(samples: str, function: Callable[[Tensor, Tensor], Estimate]) -> Metric:
            real, inputs = self.real.stack(samples), self.untranslated.stack(samples)
            baseline = function(real[order[:held_out]], real[order[held_out:]])
            return Metric(function(output.stack(samples), real), baseline, function(inputs, real))

        metrics = {f"kid_{name}": distance(name, features.kid) for name in self.networks}
        if "inception" in self.networks:
            metrics["fid_inception"] = distance("inception", features.fid)
        metrics["palette_distance"] = distance("palette", features.palette_distance)
        for name in ("content_kept", "cycle_error", "weave", "halo"):
            if (estimate := output.mean(name)) is not None:
                metrics[name] = Metric(estimate, self.real.mean(name), self.untranslated.mean(name))
        return metrics

    def _describe(self, picture: Tensor, before: Tensor, layers: dict[str, Tensor]) -> dict[str, Tensor | float]:
        """Features of all networks, palette, weave of a picture made from `before`; `layers` are those of the VGG."""
        found: dict[str, Tensor | float] = {"palette": features.palette(picture), "weave": weave(picture, before)}
        for name, network in self.networks.items():
            pooled = network.pool(layers) if isinstance(network, features.CompactVGG) else network(picture)
            found[name] = pooled[0].cpu()
        return found


class Monitor:
    """Measures the generators of a run, with F if `both` are trained. It reads real pictures once.

    Pictures to translate are spaced evenly over the test pictures of a collection, or over the training pictures if
    there are none; real ones, twice as many, over both. No random state changes.
    """

    def __init__(self, data: UnpairedData, device: torch.device, both: bool = True) -> None:
        networks, errors = feature_networks(), list[str]()
        size = max(256, data.load_size)
        directions = ("x2y", "y2x") if data.direction == "AtoB" else ("y2x", "x2y")
        self.directions: dict[str, tuple[Reference, Collection]] = {}
        for name, direction in zip(("x2y", "y2x") if both else ("x2y",), directions, strict=False):
            x, y = find_pictures(data.dataroot, direction)
            inputs = Collection(evenly_spaced(x, MONITOR_PICTURES), size, device, errors)
            real = Collection(evenly_spaced(y, 2 * MONITOR_PICTURES), size, device, errors)
            reference = Reference(real, networks, device)
            # Pictures that cannot be read are found before training starts, and not again.
            reference.measure((picture, picture) for picture in inputs)
            self.directions[name] = reference, inputs
        for error in dict.fromkeys(errors):
            print0(f"not evaluated: {error}")

    def measure(self, generators: Sequence[Generator]) -> dict[str, dict[str, Metric]]:
        """The metrics of G (x2y) and, if it is trained, F (y2x), by direction and name."""
        backs = generators[::-1] if len(generators) == 2 else [None]
        return {
            name: reference.measure(translated(inputs, there), back)
            for (name, (reference, inputs)), there, back in zip(self.directions.items(), generators, backs, strict=True)
        }


def _progress(pictures: Iterable[Tensor], title: str) -> Iterable[Tensor]:
    return tqdm(pictures, title, unit="picture", disable=None, delay=1, leave=False)


def translated(inputs: Collection, generator: Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Each picture and its translation by the network alone, without a draft."""
    for picture in _progress(inputs, "translate"):
        yield picture, translate(picture, generator, draft=False)


def read_pairs(inputs: Collection, outputs: Mapping[Path, Path]) -> Iterator[tuple[Tensor, Tensor]]:
    """Each picture, and what another method made of it: the output by the path of its input, of the same size."""
    for path, picture in inputs.items():
        output = inputs.read(outputs[path])
        if output.shape != picture.shape:
            size, expected = (f"{p.shape[3]} x {p.shape[2]}" for p in (output, picture))
            common = min(max(output.shape[2:]), max(picture.shape[2:]))
            raise ValueError(
                f"{outputs[path]} has {size} pixels, its input {path} {expected}; shrink both with --size {common}"
            )
        yield picture, output


def score(measured: Mapping[str, Mapping[str, Metric]]) -> float:
    """One number that chooses the best networks of a run: the mean, over both directions, of `SCORE` relative to the
    untranslated pictures. 1 is no better than these; smaller is better.

    The features are not those of the VGG, which a discriminator may have. They alone would favor a generator that
    changes little, and colors alone one that paints no strokes.
    """
    chosen = [metrics[name] for metrics in measured.values() for name in SCORE]
    # Two collections that are nearly the same have a distance of 0, or less for KID.
    return mean(m.output.value / max(cast(Estimate, m.untranslated).value, 1e-3) for m in chosen)


def feature_networks(inception_weights: Path | None = None) -> dict[str, nn.Module]:
    """The networks whose features are compared, by name; ValueError if a package of the extra `eval` is missing."""
    with torch.random.fork_rng(devices=[]):  # New layers draw weights before these are read from files.
        networks = {"vgg_compact": features.CompactVGG(), "efficientnet_lite0": features.EfficientNetLite0()}
        if inception_weights is not None:
            networks["inception"] = features.Inception(inception_weights)
    return networks


def find_direction(config: EvaluateConfig) -> Literal["x2y", "y2x"]:
    """The direction of --direction; else that of a bundled network, "y2x" if its name is not landscape2...; else "x2y".

    Bundled networks have names SOURCE2TARGET, and were trained with landscapes as X.
    """
    if config.direction is not None:
        return "y2x" if config.direction in ("y2x", "BtoA") else "x2y"
    path = Path(config.weights or "landscape2vangogh")
    bundled = path.name in weights.bundled() and not (path / "G").is_dir()
    return "y2x" if bundled and not path.name.startswith("landscape2") else "x2y"


def load_generators(name: str | Path, direction: str) -> tuple[Generator, Generator | None]:
    """The generator to evaluate and, if it is known, the one that translates back: of a run or of a bundled pair.

    Bundled networks SOURCE2TARGET-cycle and TARGET2SOURCE-cycle were trained together. A single network is taken
    whatever the direction, which then only says which collection it translates.
    """
    if (Path(name) / "G").is_dir():
        G, F = load_generator(name, "x2y"), load_generator(name, "y2x")
        return (G, F) if direction == "x2y" else (F, G)
    source, _, target = str(name).removesuffix("-cycle").partition("2")
    inverse = f"{target}2{source}-cycle"
    trained_together = str(name) in weights.bundled() and str(name).endswith("-cycle") and not Path(name).exists()
    return load_generator(name), load_generator(inverse) if trained_together else None


def find_pictures(dataroot: str | Path, direction: str) -> tuple[list[Path], list[Path]]:
    """The pictures to translate and the real ones to compare with, those of the test folder first; never none."""
    a, b = ("A", "B") if direction == "x2y" else ("B", "A")
    x = find_domain(dataroot, "test", a) or find_domain(dataroot, "train", a)
    y = find_domain(dataroot, "test", b) + find_domain(dataroot, "train", b)
    for domain, found in ((a, x), (b, y)):
        if not found:
            raise FileNotFoundError(f"no pictures in {dataroot}: expected test{domain} or train{domain}")
    return x, y


def find_outputs(folder: Path, inputs: Sequence[Path]) -> dict[Path, Path]:
    """The pictures in a folder that have the name of an input, in any format, by input; never none."""
    made = {path.stem: path for path in images.find(folder)}
    found = {path: made[path.stem] for path in inputs if path.stem in made}
    if not found:
        raise FileNotFoundError(
            f"--outputs {folder}: no picture has the name of an input; expected names as in {inputs[0].parent}, such "
            f"as {inputs[0].name}"
        )
    return found
