"""What notebooks need: pictures side by side, and a run that is watched, its curves and pictures as they come."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from stylekit import images
from stylekit.log import plot_losses, read_metrics

# tqdm asks for ipywidgets, to draw bars that a saved notebook cannot show.
warnings.filterwarnings("ignore", message="IProgress not found")

NOT_LOSSES = ("step", "epoch", "lr", "images_per_second", "memory_gb")


def show(rows: Iterable[Sequence[Image.Image]], titles: Sequence[str] = (), height: int = 256) -> None:
    """Show pictures as a contact sheet (`stylekit.images.sheet`), as JPEG: a notebook keeps what it shows."""
    from IPython.display import Image as Shown
    from IPython.display import display

    display(Shown(_jpeg(images.sheet(rows, titles, height))))


def watch(
    arguments: Sequence[object],
    folder: str | Path,
    plots: Mapping[str, Sequence[str]] | None = None,
    every: float = 5.0,
) -> int:
    """Start a training, and show until it ends what it has written so far: the losses and the last validation sheet.

    Interrupting the cell is Ctrl-C for the training: it saves, and can be resumed. A training that fails shows what it
    said.

    Args:
        arguments: After `python`, such as `["-m", "johnson", "train", "--dataroot", ...]`.
        folder: Of the run, CHECKPOINTS_DIR/NAME.
        plots: The panels and the terms in each, such as `cyclegan.train.PLOTS`; None for one panel with all.
        every: Seconds between two looks.

    Returns:
        The exit code of the training.
    """
    from IPython.display import DisplayHandle
    from IPython.display import Image as Shown

    folder = Path(folder)
    text, curves, sheet = (DisplayHandle() for _ in range(3))
    for handle in (text, curves, sheet):
        handle.display({"text/plain": ""}, raw=True)
    with tempfile.TemporaryDirectory() as place:
        said = Path(place) / "said.txt"
        with said.open("w") as output:
            command = [sys.executable, *map(str, arguments)]
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        shown: dict[Path, float] = {}

        def show() -> None:
            lines = said.read_text(errors="replace").splitlines()
            # All of it if it failed, else where it is.
            text.update({"text/plain": "\n".join(lines if process.poll() else lines[-1:])}, raw=True)
            lines_written = read_metrics(folder)
            if len(lines_written) > 1:
                terms = [name for name in lines_written[-1] if name not in NOT_LOSSES]
                plot = plot_losses(folder, plots or {"losses": terms})
                if plot is not None:
                    curves.update(Shown(plot.read_bytes()))
            sheets = sorted((folder / "samples").glob("*.png"), key=lambda path: path.stat().st_mtime)
            if sheets and shown.get(sheets[-1]) != sheets[-1].stat().st_mtime:
                shown[sheets[-1]] = sheets[-1].stat().st_mtime
                sheet.update(Shown(_jpeg(images.load(sheets[-1]))))

        interrupted = False
        while process.poll() is None:
            try:
                show()
                time.sleep(every)
            except KeyboardInterrupt:
                # In a terminal it has reached the training already; a notebook's kernel is interrupted alone.
                if not interrupted:
                    process.send_signal(signal.SIGINT)
                interrupted = True
        show()
    return process.returncode


def _jpeg(image: Image.Image) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=88)
    return encoded.getvalue()
