"""Shared by the tests: a small data set of real pictures, the smallest trainable networks, and running commands."""

from __future__ import annotations

import copy
import importlib.util
import json
import math
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from sklearn.datasets import load_sample_image
from torch.nn.utils import parameters_to_vector, vector_to_parameters

ROOT = Path(__file__).parent.parent

# Tests compare bit for bit and share the machine: one thread is deterministic and, for tiny networks, fastest.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["WANDB_MODE"] = "offline"
torch.set_num_threads(1)

TINY = ("--ngf", "4", "--ndf", "4", "--n-blocks", "1", "--n-layers-d", "2", "--crop-size", "32", "--load-size", "36")
TINY += ("--num-workers", "0", "--device", "cpu", "--amp", "off")
"""Flags of a CycleGAN training that takes a moment."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests begin first, so that no process waits for them at the end."""
    items.sort(key=lambda item: item.path.name != "test_notebooks.py")


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test starts from the same random state."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def quick_plots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots are built but drawn only in tests marked `plots`: drawing takes most of the time of a tiny training."""
    if "plots" not in request.keywords:
        monkeypatch.setattr(Figure, "savefig", lambda self, file, **_: Image.new("RGB", (1, 1)).save(file, "png"))


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Twelve crops of 48 x 48 px of the photographs that scikit-learn ships; six of each."""
    whole = [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    return [image.crop((80 * i, 120, 80 * i + 48, 168)) for image in whole for i in range(6)]


@pytest.fixture(scope="session")
def china() -> torch.Tensor:
    """The whole photograph of a pagoda, (1, 3, 427, 640) in [0, 1]."""
    from stylekit.pictures.images import to_tensor

    return to_tensor(Image.fromarray(load_sample_image("china.jpg")))


@pytest.fixture(scope="session")
def sky(china: torch.Tensor) -> torch.Tensor:
    return china[..., :128, :160]


def grating(like: torch.Tensor, period: float, levels: float, angle: float = 0.785) -> torch.Tensor:
    """A sinusoidal grating with an amplitude in gray levels, (H, W)."""
    y, x = torch.meshgrid(*(torch.arange(size).float() for size in like.shape[-2:]), indexing="ij")
    return (levels / 255) * torch.sin(2 * torch.pi / period * (x * math.cos(angle) + y * math.sin(angle)))


@pytest.fixture
def dataset(tmp_path: Path, pictures: list[Image.Image]) -> Path:
    """A data set: trainA (6 pictures), trainB (4), testA (2), testB (2)."""
    return write_dataset(tmp_path / "dataset", pictures)


def write_dataset(root: Path, pictures: list[Image.Image]) -> Path:
    """Write the pictures of `dataset` into a folder."""
    parts = {"trainA": pictures[:6], "trainB": pictures[6:10], "testA": pictures[:2], "testB": pictures[10:]}
    for folder, group in parts.items():
        (root / folder).mkdir(parents=True)
        for i, picture in enumerate(group):
            picture.save(root / folder / f"{i}.png")
    return root


@pytest.fixture
def photo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pictures: list[Image.Image]) -> str:
    """photo.jpg, in the working directory, a folder of its own."""
    monkeypatch.chdir(tmp_path)
    pictures[0].save("photo.jpg")
    return "photo.jpg"


@pytest.fixture
def threads() -> Iterator[int]:
    """The number of CPU threads, restored after the test."""
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def assert_same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> None:
    """Two state dicts have the same tensors, bit for bit."""
    assert one.keys() == other.keys()
    assert not [name for name in one if not torch.equal(one[name], other[name])]


def assert_descends(
    state: object, network: str, optimizer: str, loss: Callable[[Any], float], epsilon: float, rel: float
) -> None:
    """A training step moves a network down the gradient of its loss.

    Args:
        state: A training state.
        network: The attribute of the state that is trained, by `optimizer`.
        loss: Makes a training step, returns the sum of the terms that it logged.
        epsilon: Length of the steps of the finite difference.
        rel: Relative tolerance.
    """
    # The step of SGD with learning rate 1 is the negative gradient.
    setattr(state, optimizer, torch.optim.SGD(getattr(state, network).parameters(), lr=1.0))
    start = parameters_to_vector(getattr(state, network).parameters()).detach()

    def step_from(place: torch.Tensor) -> tuple[float, torch.Tensor]:
        moved = copy.deepcopy(state)
        vector_to_parameters(place.clone(), getattr(moved, network).parameters())
        return loss(moved), parameters_to_vector(getattr(moved, network).parameters()).detach()

    change = step_from(start)[1] - start
    length = change.norm()
    ahead, behind = (step_from(start + sign * epsilon * change / length)[0] for sign in (1, -1))
    assert (ahead - behind) / (2 * epsilon) == pytest.approx(-length.item(), rel=rel)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects in a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(*arguments: object, timeout: float = 300, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command of the library, as `python ARGUMENTS` in the repository, and wait for it."""
    return subprocess.run(
        command(arguments), cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False, **options
    )


def wait_for_lines(path: Path, lines: int, process: subprocess.Popen[str]) -> None:
    """Wait until a process has written so many lines."""
    deadline = time.monotonic() + 300
    while not path.exists() or len(path.read_text().splitlines()) < lines:
        if time.monotonic() > deadline or process.poll() is not None:
            process.kill()
            raise AssertionError(process.communicate())
        time.sleep(0.01)


def exit_code(main: Callable[[Sequence[str]], int], *args: object) -> int:
    """Run an entry point in this process, as a shell would, and return its exit code."""
    try:
        return main([str(arg) for arg in args])
    except SystemExit as stop:
        assert isinstance(stop.code, int)
        return stop.code


def one_error(capsys: pytest.CaptureFixture[str], prog: str) -> str:
    """The one line that a command wrote to standard error."""
    error = capsys.readouterr().err
    assert error.startswith(f"{prog}: error: ") and error.count("\n") == 1, error
    return error


def flag_error(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line about wrong flags that a command wrote to standard error."""
    error = capsys.readouterr().err
    assert re.fullmatch(r"[\w.]+: error: .*; see `.* --help`\n", error), error
    return error


def flags_and_boxes(capsys: pytest.CaptureFixture[str]) -> tuple[int, set[str]]:
    """The number of flags that --help has shown, and the titles of its boxes."""
    text = re.sub(r"[│╭─]", " ", capsys.readouterr().out)
    return len(re.findall(r"^ {1,3}--\w", text, re.M)), set(re.findall(r"^ +(\w+) options", text, re.M))


def command(arguments: Sequence[object]) -> list[str]:
    return [sys.executable, *map(str, arguments)]


def official_johnson(width: int = 32) -> dict[str, torch.Tensor]:
    """A random state dict in the format of fast_neural_style whose output has the range of pictures, [0, 255]."""
    torch.manual_seed(1)
    tensors = {}

    def convolution(name, channels_in, channels_out, side):
        tensors[f"{name}.conv2d.weight"] = torch.randn(channels_out, channels_in, side, side) / (
            side * channels_in**0.5
        )
        tensors[f"{name}.conv2d.bias"] = torch.randn(channels_out)

    def norm(name, channels):
        tensors[f"{name}.weight"] = 1 + 0.3 * torch.randn(channels)
        tensors[f"{name}.bias"] = 0.3 * torch.randn(channels)

    for i, (a, b, side) in enumerate(((3, width, 9), (width, 2 * width, 3), (2 * width, 4 * width, 3)), start=1):
        convolution(f"conv{i}", a, b, side)
        norm(f"in{i}", b)
    for i in range(1, 6):
        for j in (1, 2):
            convolution(f"res{i}.conv{j}", 4 * width, 4 * width, 3)
            norm(f"res{i}.in{j}", 4 * width)
    for i, (a, b) in enumerate(((4 * width, 2 * width), (2 * width, width)), start=1):
        convolution(f"deconv{i}", a, b, 3)
        norm(f"in{i + 3}", b)
    convolution("deconv3", width, 3, 9)
    tensors["deconv3.conv2d.weight"] *= 60
    tensors["deconv3.conv2d.bias"] += 128
    return tensors


def plain_network(*modules: torch.nn.Module) -> torch.nn.Module:
    """A network for `run_tiled` that runs modules on the picture itself, without noise."""
    from stylekit.networks.blocks import EncoderDecoder

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = EncoderDecoder(torch.nn.Conv2d(3, 3, 1, bias=False), *modules)
            torch.nn.init.dirac_(self.model[0].weight)

        def with_noise(self, x: torch.Tensor) -> torch.Tensor:
            return x

        def finish(self, output: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return output

    return Plain().requires_grad_(False)


def write_video(path: Path, frames: Sequence[np.ndarray], sound: str | None = "aac", rate: int = 25) -> Path:
    """Write a video of frames (H, W, 3) in [0, 255] with a tone."""
    import av

    with av.open(str(path), "w") as writer:
        codec = "libvpx-vp9" if path.suffix == ".webm" else "libx264"
        video = writer.add_stream(codec, rate, {"crf": "10"})
        video.width, video.height, video.pix_fmt = frames[0].shape[1], frames[0].shape[0], "yuv420p"
        tone = writer.add_stream(sound, 48000, layout="mono") if sound else None
        for frame in frames:
            writer.mux(video.encode(av.VideoFrame.from_ndarray(frame.astype(np.uint8), format="rgb24")))
        writer.mux(video.encode())
        if tone:
            samples = np.sin(np.arange(48000 * len(frames) // rate) * 0.05).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(0.5 * samples, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48000, 0
            resampled = av.AudioResampler(tone.format, "mono", 48000, frame_size=tone.codec_context.frame_size or 960)
            for part in (*resampled.resample(frame), *resampled.resample(None)):
                writer.mux(tone.encode(part))
            writer.mux(tone.encode())
    return path


def read_video(path: Path) -> tuple[list[float], list[np.ndarray], list[bytes]]:
    """Times and frames of a video, and the packets of its audio stream."""
    import av

    with av.open(str(path)) as reader:
        frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in reader.decode(video=0)]
    with av.open(str(path)) as reader:
        sound = [bytes(p) for p in reader.demux(audio=0) if p.size] if reader.streams.audio else []
    return [time for time, _ in frames], [frame for _, frame in frames], sound


def load_recipe(name):
    """Import a script of recipes/, which is not a package."""
    spec = importlib.util.spec_from_file_location(f"recipes_{name}", ROOT / "recipes" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # Dataclasses look up their annotations there.
    spec.loader.exec_module(module)
    return module
