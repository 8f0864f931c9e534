"""The log of a run: standard output, metrics.jsonl, evaluations.jsonl, plots of both and Weights & Biases."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from stylekit import distributed
from stylekit.atomic import atomic_write


def print0(text: str) -> None:
    """Print a line in the main process only, without breaking a progress bar."""
    if distributed.is_main():
        with contextlib.suppress(OSError):  # The reader has gone: `| head`, or a closed terminal.
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()


def format_duration(seconds: float) -> str:
    """Seconds as hours:minutes:seconds."""
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


class Log:
    """The log of one run, written by the main process; in other processes it does nothing.

    An active `wandb.run` (in a notebook or a sweep) is used and left open at the end. Errors in Weights & Biases never
    stop a run: the first one is reported, and training continues.

    Args:
        folder: Folder of the run; its metrics.jsonl and evaluations.jsonl are continued.
        name, config: Name of the run and its options, for Weights & Biases.
        step: Step at which the run starts; later lines in these files, left by a killed process, are dropped.
        project: Project in Weights & Biases, unless WANDB_PROJECT is set; None does not import it.
        run_id: The W&B run to continue.
    """

    _run: Any = None
    _ours = False  # Whether the W&B run ends with this log.
    _reported = False

    def __init__(
        self,
        folder: Path,
        name: str,
        config: Mapping[str, Any],
        step: int = 0,
        project: str | None = None,
        run_id: str | None = None,
    ) -> None:
        self.folder = folder
        self.run_id = run_id
        if not distributed.is_main():
            return
        if project is not None:
            self._start_wandb(name, config, os.environ.get("WANDB_PROJECT", project))
        # The names of earlier versions.
        for old, new in (("figures.jsonl", "evaluations.jsonl"), ("best/figures.json", "best/evaluation.json")):
            if (folder / old).is_file() and not (folder / new).exists():
                (folder / old).rename(folder / new)
        for path in (folder / "metrics.jsonl", folder / "evaluations.jsonl"):
            if path.exists():
                kept = "".join(json.dumps(line) + "\n" for line in _read_lines(path) if line["step"] <= step)
                with atomic_write(path) as file:
                    file.write(kept.encode())

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers at a step: a line in metrics.jsonl, and `train/NAME` in Weights & Biases."""
        if not distributed.is_main():
            return
        _append(self.folder / "metrics.jsonl", {"step": step, **values})
        self._to_wandb(lambda run: run.log({"train/step": step, **{f"train/{key}": v for key, v in values.items()}}))

    def evaluation(self, step: int, line: Mapping[str, Any], values: Mapping[str, float]) -> None:
        """Log an evaluation: a line in evaluations.jsonl, and `evaluation/NAME` in Weights & Biases."""
        _append(self.folder / "evaluations.jsonl", {"step": step, **line})
        named = {f"evaluation/{key}": value for key, value in values.items()}
        self._to_wandb(lambda run: run.log({"train/step": step, **named}))

    def pictures(self, step: int, pictures: Mapping[str, Sequence[Image.Image]]) -> None:
        """Log groups of pictures to Weights & Biases as `val/NAME`, captioned by their name."""

        def send(run: Any) -> None:
            import wandb

            media = {f"val/{name}": [wandb.Image(p, caption=name) for p in group] for name, group in pictures.items()}
            run.log({"train/step": step, **media})

        self._to_wandb(send)

    def artifact(self, name: str, folders: Sequence[Path], aliases: Sequence[str], metadata: Mapping[str, Any]) -> None:
        """Upload folders to Weights & Biases as a new version of a model artifact."""

        def send(run: Any) -> None:
            import wandb

            artifact = wandb.Artifact(name, type="model", metadata=dict(metadata))
            for folder in folders:
                artifact.add_dir(str(folder), name=folder.name)
            run.log_artifact(artifact, aliases=list(aliases))

        self._to_wandb(send)

    def alert(self, title: str, text: str) -> None:
        """Print a warning, and send it as an alert to Weights & Biases."""
        print0(f"warning: {text}")
        self._to_wandb(lambda run: run.alert(title=title, text=text))

    def close(self, exit_code: int = 0) -> None:
        """Finish the W&B run, unless it was active before."""
        if self._ours:
            self._to_wandb(lambda run: run.finish(exit_code=exit_code))

    def _start_wandb(self, name: str, config: Mapping[str, Any], project: str) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ValueError("--wandb: Weights & Biases is not installed; try pip install wandb") from error
        if wandb.run is not None:
            self._run = wandb.run
            self._run.config.update(dict(config), allow_val_change=True)
        else:
            # wandb reads WANDB_ENTITY itself.
            mode: Any = os.environ.get("WANDB_MODE", "online")
            if mode == "online" and not (os.environ.get("WANDB_API_KEY") or wandb.login(prompt=False, verify=False)):
                raise ValueError("--wandb: not logged in; run `wandb login` or set WANDB_MODE=offline")

            options: dict[str, Any] = {"project": project, "name": name, "config": dict(config), "id": self.run_id}
            options |= {"dir": str(self.folder), "resume": "allow" if self.run_id else None, "job_type": "train"}
            options |= {"settings": wandb.Settings(silent=True)}

            try:
                self._run = wandb.init(**options, mode=mode)
            except wandb.Error as error:
                if mode != "online":
                    raise ValueError(f"--wandb: {error}") from error
                print0(f"cannot reach Weights & Biases ({error}); logging offline, upload later with `wandb sync`")
                self._run = wandb.init(**options, mode="offline")
            self._ours = True
        self.run_id = self._run.id
        self._run.define_metric("train/step")
        for group in ("train", "val", "evaluation"):
            self._run.define_metric(f"{group}/*", step_metric="train/step")

    def _to_wandb(self, send: Callable[[Any], object]) -> None:
        if self._run is None:
            return
        try:
            send(self._run)
        except Exception as error:  # Logging must never cost hours of training.
            if not self._reported:
                print0(f"Weights & Biases: {error} (training continues; further W&B errors are not shown)")
            self._reported = True


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl, oldest first; a truncated last line is skipped."""
    return _read_lines(Path(folder) / "metrics.jsonl")


def read_evaluations(folder: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's evaluations.jsonl, oldest first; a truncated last line is skipped."""
    return _read_lines(Path(folder) / "evaluations.jsonl")


def plot_losses(folder: str | Path, groups: Mapping[str, Sequence[str]]) -> Path | None:
    """Plot the metrics of a run to losses.png: raw values pale under a running mean. The highest 2 % are cut off.

    `groups` are the metrics of each panel, by its title. Returns the file; None before two steps have been logged.
    """
    import numpy as np

    lines = read_metrics(folder)
    groups = {title: names for title, names in groups.items() if any(name in line for line in lines for name in names)}
    if len(lines) < 2 or not groups:
        return None
    figure, axes = _panels(1, len(groups), 4.6, 3.4)
    all_steps = np.array([line["step"] for line in lines])
    window = max(1, len(lines) // 25)
    for axis, (title, names) in zip(axes, groups.items(), strict=True):
        shown = []
        for name in names:
            values = np.array([line.get(name, np.nan) for line in lines], dtype=float)
            known = ~np.isnan(values)  # A stage of training has its own terms.
            if not known.any():
                continue
            steps, values = all_steps[known], values[known]
            (pale,) = axis.plot(steps, values, alpha=0.25, linewidth=0.8)
            padded = np.pad(values, (window // 2, window - 1 - window // 2), mode="edge")
            mean = np.convolve(padded, np.ones(window) / window, mode="valid")
            axis.plot(steps, mean, color=pale.get_color(), linewidth=1.6, label=name)
            shown.append(values)
        highest = np.percentile(np.concatenate([*shown, [0]]), 98)  # The first steps would hide the others.
        axis.set(title=title, xlabel="step", ylabel="loss", ylim=(0, 1.1 * highest or 1))
        axis.legend(fontsize=8)
    return _save(figure, Path(folder) / "losses.png")


def plot_evaluations(folder: str | Path) -> Path | None:
    """Plot all evaluations of a run to evaluations.png: one panel per metric, one color per group.

    Pale bands are intervals. Dotted lines show the value of real pictures, dashed ones that of untranslated pictures.
    Returns the file; None if nothing has been evaluated.
    """
    import numpy as np

    lines = read_evaluations(folder)
    if not lines:
        return None
    groups = [name for name, value in lines[-1].items() if isinstance(value, dict)]
    names = list(dict.fromkeys(name for group in groups for name in lines[-1][group]))
    figure, axes = _panels(-(-len(names) // 4), 4, 4, 3.2)
    epochs = [line["epoch"] for line in lines]

    def series(group: str, name: str, part: str, key: str) -> Any:
        parts = [line.get(group, {}).get(name, {}).get(part) or {} for line in lines]
        return np.array([part.get(key) for part in parts], dtype=float)

    for axis, name in zip(axes, names, strict=False):
        for group in groups:
            (line,) = axis.plot(epochs, series(group, name, "output", "value"), marker=".", label=group)
            low, high = (series(group, name, "output", key) for key in ("low", "high"))
            axis.fill_between(epochs, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
            for part, style in (("real", ":"), ("untranslated", "--")):
                baseline = series(group, name, part, "value")[-1]
                if np.isfinite(baseline):
                    label = f"{group}, {part}"
                    axis.axhline(baseline, color=line.get_color(), linestyle=style, linewidth=1, label=label)
        axis.set(title=name.replace("_", " "), xlabel="epoch")
    for axis in axes[len(names) :]:
        axis.axis("off")
    handles, labels = max((axis.get_legend_handles_labels() for axis in axes), key=lambda found: len(found[1]))
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8)
    return _save(figure, Path(folder) / "evaluations.png")


def _panels(rows: int, columns: int, width: float, height: float) -> tuple[Any, list[Any]]:
    """A figure and its panels, of a width and height in inches each."""
    from matplotlib.figure import Figure

    figure = Figure((width * columns, height * rows), dpi=110, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.grid(alpha=0.25)
    return figure, axes


def _save(figure: Any, path: Path) -> Path:
    with atomic_write(path) as file:
        figure.savefig(file, format="png")
    return path


def _append(path: Path, line: Mapping[str, Any]) -> None:
    try:
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        raise OSError(f"could not write {path} ({error.strerror})") from error


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects with a step in a file of JSON lines; what a kill or an editor left between them is skipped."""
    lines = []
    for text in path.read_text(errors="replace").splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines
