"""Figures of a trained network beside the marks that give them a meaning: as a table, and as plain values for JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylekit.atomic import atomic_write
from stylekit.networks.metrics import Estimate


@dataclass(frozen=True)
class Figure:
    """A figure of the output and its marks; None where there is none."""

    output: Estimate
    real: Estimate | None = None
    """With real pictures of the target (paintings) as output: what a perfect network would reach."""
    untranslated: Estimate | None = None
    """With the input as output."""


class Saved:
    """A dataclass with figures that can be written to a file."""

    figures: dict[str, Figure]

    def save(self, path: Path) -> None:
        """Write JSON, completely or not at all; null instead of NaN.

        Raises:
            OSError: The file cannot be written.
        """
        plain = dataclasses.asdict(self) | {"figures": to_plain(self.figures)}  # type: ignore[call-overload]
        with atomic_write(path) as file:
            file.write((json.dumps(plain, indent=2) + "\n").encode())


def to_plain(figures: Mapping[str, Figure]) -> dict[str, Any]:
    """Figures as nested dicts for JSON; None instead of NaN."""
    return {
        name: {part: _plain(estimate) for part, estimate in vars(figure).items()} for name, figure in figures.items()
    }


def table(figures: Mapping[str, Figure], headings: Sequence[str]) -> str:
    """Figures as Markdown; readable on a terminal too. KID is multiplied by 1000.

    Args:
        headings: Of the columns with the marks `real` and `untranslated`.
    """
    rows: list[tuple[str, ...]] = [("", "output", "95 % interval", *headings)]
    for name, figure in figures.items():
        scale = 1000 if name.startswith("kid_") else 1
        kid = f"{name} x 1000" if scale > 1 else name
        low, high = (shown(v * scale) for v in figure.output[1:])
        marks = (shown(mark.value * scale) if mark else "" for mark in (figure.real, figure.untranslated))
        interval = f"{low} to {high}" if not math.isnan(figure.output.low) else ""
        rows.append((kid, shown(figure.output.value * scale), interval, *marks))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rows.insert(1, tuple("-" * width for width in widths))
    lines = (" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(f"| {line} |" for line in lines)


def shown(value: float) -> str:
    """A value with three digits, "none" for NaN."""
    return "none" if math.isnan(value) else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _plain(estimate: Estimate | None) -> dict[str, float | None] | None:
    if estimate is None:
        return None
    return {key: None if math.isnan(value) else value for key, value in estimate._asdict().items()}
