"""For notebooks: pictures side by side, and a training run shown live, with its losses and samples."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from stylekit.pictures import images
from stylekit.pictures.sheet import contact_sheet
from stylekit.training.log import plot_losses, read_metrics

# tqdm recommends ipywidgets, whose bars a saved notebook cannot show.
warnings.filterwarnings("ignore", message="IProgress not found")

NOT_LOSSES = ("step", "epoch", "lr", "images_per_second", "memory_gb")


def show(rows: Iterable[Sequence[Image.Image]], titles: Sequence[str] = (), height: int = 256) -> None:
    """Show pictures as a contact sheet (`contact_sheet`), as JPEG to keep the notebook small."""
    from IPython.display import Image as Shown
    from IPython.display import display

    display(Shown(_jpeg(contact_sheet(rows, titles, height))))


def watch(
    arguments: Sequence[object], folder: str | Path, plots: Mapping[str, Sequence[str]] | None = None, every: float = 5
) -> int:
    """Start a training and show its losses and latest validation sheet until it ends.

    Interrupting the cell sends Ctrl-C to the training: it saves and can be resumed. If the training fails, its output
    is shown. Returns the exit code of the training.

    Args:
        arguments: Arguments of `python`, such as `["-m", "johnson", "train", "--dataroot", ...]`.
        folder: Folder of the run, CHECKPOINTS_DIR/NAME.
        plots: The panels and the terms in each, such as `cyclegan.train.PLOTS`; None for one panel with all terms.
        every: Seconds between updates.
    """
    from IPython.display import DisplayHandle
    from IPython.display import Image as Shown

    folder = Path(folder)
    text, curves, sheet = (DisplayHandle() for _ in range(3))
    for handle in (text, curves, sheet):
        handle.display({"text/plain": ""}, raw=True)
    command = [sys.executable, *map(str, arguments)]
    with tempfile.TemporaryDirectory() as place, Path(place, "printed.txt").open("w") as output:
        # A list of arguments of the notebook's author; no shell reads it.
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)  # noqa: S603
        shown, ended, interrupted = 0.0, False, False
        while not ended:
            try:
                ended = process.poll() is not None
                lines = Path(output.name).read_text(errors="replace").splitlines()
                # Everything after a failure, otherwise the current line.
                text.update({"text/plain": "\n".join(lines if process.returncode else lines[-1:])}, raw=True)
                terms = [name for line in read_metrics(folder)[-1:] for name in line if name not in NOT_LOSSES]
                if plot := plot_losses(folder, plots or {"losses": terms}):
                    curves.update(Shown(plot.read_bytes()))
                sheets = {path.stat().st_mtime: path for path in (folder / "samples").glob("*.png")}
                if (latest := max(sheets, default=0.0)) > shown:
                    sheet.update(Shown(_jpeg(images.load(sheets[latest]))))
                    shown = latest
                if not ended:
                    process.wait(every)
            except subprocess.TimeoutExpired:
                pass
            except KeyboardInterrupt:
                # In a terminal the signal has already reached the training; in a notebook only the kernel gets it.
                if not interrupted:
                    process.send_signal(signal.SIGINT)
                interrupted = True
    return process.returncode


def _jpeg(image: Image.Image) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=88)
    return encoded.getvalue()
