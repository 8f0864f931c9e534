"""Metrics beside the baselines that give them a meaning: collected per picture, as a table, and as JSON."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from stylekit.atomic import write_json
from stylekit.measures.features import Estimate, mean
from stylekit.options import EvaluateOptions

C = TypeVar("C", bound=EvaluateOptions)


@dataclass(frozen=True)
class Metric:
    """A metric of the output and its baselines; None where there is none."""

    output: Estimate
    real: Estimate | None = None
    """With real pictures of the target (paintings) as output: what a perfect network would reach."""
    untranslated: Estimate | None = None
    """With the input as output."""


class Samples:
    """What was measured on single pictures: numbers and vectors by name."""

    def __init__(self) -> None:
        self.values: dict[str, list[float | Tensor]] = defaultdict(list)

    def add(self, **values: float | Tensor) -> None:
        """Add the measurements of a picture."""
        for name, value in values.items():
            self.values[name].append(value)

    def stack(self, name: str) -> Tensor:
        """The measurements of all pictures, (pictures, ...)."""
        return torch.stack([torch.as_tensor(value) for value in self.values[name]])

    def mean(self, name: str) -> Estimate | None:
        """The mean of a number over pictures; None if it was never measured."""
        return mean(self.stack(name)) if name in self.values else None

    def count(self, name: str) -> int:
        """The number of pictures for which a number is not NaN."""
        return int((~self.stack(name).isnan()).sum())


@dataclass
class Evaluation(Generic[C]):
    """All metrics of a network."""

    config: C
    """What was measured."""
    counts: dict[str, int] = field(default_factory=dict)
    """Pictures by role, and those that count for weave and halo: not every one has smooth areas or strong edges."""
    metrics: dict[str, Metric] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    """Pictures that could not be read."""

    def save(self) -> None:
        """Write JSON to `config.output`, completely or not at all; null instead of NaN."""
        plain = dataclasses.asdict(self.config) | vars(self) | {"metrics": to_plain(self.metrics)}
        del plain["config"]
        write_json(self.config.output, plain)


def to_plain(metrics: Mapping[str, Metric]) -> dict[str, Any]:
    """Metrics as nested dicts for JSON; None instead of NaN."""

    def plain(estimate: Estimate) -> dict[str, float | None]:
        return {key: None if math.isnan(value) else value for key, value in estimate._asdict().items()}

    return {name: {part: e and plain(e) for part, e in vars(metric).items()} for name, metric in metrics.items()}


def table(metrics: Mapping[str, Metric], headings: Sequence[str]) -> str:
    """Metrics as Markdown, with headings for the baselines `real` and `untranslated`. KID is multiplied by 1000."""
    rows: list[tuple[str, ...]] = [("", "output", "95 % interval", *headings)]
    for name, metric in metrics.items():
        scale = 1000 if name.startswith("kid_") else 1
        title = f"{name} x 1000" if scale > 1 else name
        value, low, high = (format_value(v * scale) for v in metric.output)
        interval = f"{low} to {high}" if not math.isnan(metric.output.low) else ""
        baselines = (metric.real, metric.untranslated)
        rows.append((title, value, interval, *(format_value(b.value * scale) if b else "" for b in baselines)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rows.insert(1, tuple("-" * width for width in widths))
    lines = (" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(f"| {line} |" for line in lines)


def format_value(value: float) -> str:
    """A value with three digits, "none" for NaN."""
    return "none" if math.isnan(value) else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
