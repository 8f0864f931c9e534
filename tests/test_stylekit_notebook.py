"""What notebooks show: pictures side by side, and a training while it runs."""

import json
import subprocess

import pytest
from IPython.display import DisplayHandle
from PIL import Image

from stylekit import notebook
from stylekit.pictures import images


@pytest.fixture
def shown(monkeypatch):
    """What a notebook is given to show, in order."""
    outputs = []
    monkeypatch.setattr("IPython.display.display", outputs.append)
    monkeypatch.setattr(DisplayHandle, "display", lambda self, content, raw: outputs.append(content))
    monkeypatch.setattr(DisplayHandle, "update", lambda self, content, raw=False: outputs.append(content))
    return outputs


def texts(shown):
    return [content["text/plain"] for content in shown if isinstance(content, dict)]


def formats(shown):
    return [content.format for content in shown if not isinstance(content, dict)]


def test_pictures_are_shown_side_by_side_as_jpeg(pictures, shown):
    notebook.show([pictures[:3]], ["a", "b", "c"], 32)
    assert shown[0].data[:3] == b"\xff\xd8\xff" and shown[0].format == "jpeg"


def test_a_training_that_succeeds_shows_its_last_line(tmp_path, shown):
    assert notebook.watch(["-c", "print('step 1'); print('finished')"], tmp_path, every=0.05) == 0
    assert texts(shown)[-1] == "finished"


def test_a_training_that_fails_shows_everything_that_it_printed(tmp_path, shown):
    code = "import sys; print('step 1'); sys.exit('no folder nowhere')"
    assert notebook.watch(["-c", code], tmp_path, every=0.05) == 1
    assert sorted(texts(shown)[-1].splitlines()) == ["no folder nowhere", "step 1"]


@pytest.mark.plots
def test_the_losses_and_the_latest_samples_are_shown(tmp_path, shown, pictures):
    lines = [{"step": step, "epoch": 1, "lr": 0.1, "cycle_x": 1 / step} for step in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for i in range(2):
        images.save(pictures[i], tmp_path / "samples" / f"epoch-000{i}.png")
    assert notebook.watch(["-c", "pass"], tmp_path, every=0.05) == 0
    # A sheet that has not changed is not shown again.
    assert formats(shown).count("jpeg") == 1 and "png" in formats(shown)
    # One panel for the only loss.
    assert Image.open(tmp_path / "losses.png").width < 700


@pytest.mark.plots
def test_the_panels_of_the_losses_can_be_chosen(tmp_path, shown):
    lines = [{"step": step, "cycle_x": 1 / step, "d_x": 0.5} for step in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    plots = {"cycle": ["cycle_x"], "adversarial": ["d_x"]}
    assert notebook.watch(["-c", "pass"], tmp_path, plots, every=0.05) == 0
    assert Image.open(tmp_path / "losses.png").width > 800


def test_interrupting_the_cell_stops_the_training_once(tmp_path, shown, monkeypatch):
    # The training counts its signals until the cell has been interrupted three times.
    code = f"""
import pathlib, signal, sys, time
signals = []
signal.signal(signal.SIGINT, lambda *_: signals.append(1))
pathlib.Path({str(tmp_path / "ready")!r}).touch()
while not pathlib.Path({str(tmp_path / "last")!r}).exists():
    time.sleep(0.01)
sys.exit(129 + len(signals))
"""
    interrupts, wait = [], subprocess.Popen.wait

    def wait_or_interrupt(process, timeout=None):
        if (tmp_path / "ready").exists() and len(interrupts) < 3:
            interrupts.append(timeout)
            if len(interrupts) == 3:
                (tmp_path / "last").touch()
            raise KeyboardInterrupt
        return wait(process, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", wait_or_interrupt)
    assert notebook.watch(["-c", code], tmp_path, every=0.01) == 130
    assert len(interrupts) == 3
