"""What tests share: a small data set of real pictures, and the smallest networks that train."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

ROOT = Path(__file__).parent.parent

# Tests compare bit for bit and share the machine: one thread is steady, and for tiny networks the fastest.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["WANDB_MODE"] = "offline"
torch.set_num_threads(1)

TINY = ("--ngf", "4", "--ndf", "4", "--n-blocks", "1", "--n-layers-d", "2", "--crop-size", "32", "--load-size", "36")
TINY += ("--num-workers", "0", "--device", "cpu", "--amp", "off", "--n-samples", "1")
"""Flags of a training run that takes a moment."""


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Twelve crops of 48 x 48 px of the photographs that scikit-learn ships; six of each."""
    whole = [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    return [image.crop((80 * i, 120, 80 * i + 48, 168)) for image in whole for i in range(6)]


@pytest.fixture
def dataset(tmp_path: Path, pictures: list[Image.Image]) -> Path:
    """A data set: trainA (6 pictures), trainB (4), testA (2), testB (2)."""
    root = tmp_path / "dataset"
    parts = {"trainA": pictures[:6], "trainB": pictures[6:10], "testA": pictures[:2], "testB": pictures[10:]}
    for folder, group in parts.items():
        (root / folder).mkdir(parents=True)
        for i, picture in enumerate(group):
            picture.save(root / folder / f"{i}.png")
    return root


def run(*arguments: object, timeout: float = 120, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command of the library, as `python ARGUMENTS` in the repository, and wait for it."""
    return subprocess.run(
        command(arguments), cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False, **options
    )


def wait_for_lines(path: Path, lines: int, process: subprocess.Popen[str]) -> None:
    """Wait until a process has written so many lines."""
    deadline = time.monotonic() + 90
    while not path.exists() or len(path.read_text().splitlines()) < lines:
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.01)


def one_error(capsys: pytest.CaptureFixture[str], prog: str) -> str:
    """The one line that a command wrote to standard error."""
    error = capsys.readouterr().err
    assert error.startswith(f"{prog}: error: ") and error.count("\n") == 1, error
    return error


def command(arguments: Sequence[object]) -> list[str]:
    return [sys.executable, *map(str, arguments)]
