"""From photographs to paintings: pictures of any size through a trained generator."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional

from cyclegan.models import Generator
from stylekit import images, weights
from stylekit.images import to_signed, to_unit

Direction = Literal["x2y", "y2x", "AtoB", "BtoA"]

MARGIN = 32
"""Pixels around a picture that are painted and thrown away."""


@torch.inference_mode()
def translate(image: Tensor, generator: Generator) -> Tensor:
    """Translate pictures of any size.

    The picture is continued by its reflection, and cropped again afterwards: by `MARGIN` on each side, because a
    generator paints a frame where its zero padding meets the picture, and up to multiples of 4, which the two
    down-samplings need. What the authors' test.py does with a 256 x 256 picture is `generator(to_signed(image))`.

    Args:
        image: (B, 3, H, W) in [0, 1], on the generator's device.

    Returns:
        (B, 3, H, W) in [0, 1].
    """
    height, width = image.shape[-2:]
    (top, bottom), (left, right) = _padding(height), _padding(width)
    padding = (left, right, top, bottom)
    # Reflection needs more pixels than it adds; a picture of a few pixels is continued by its border instead.
    mode = "reflect" if max(left, right) < width and max(top, bottom) < height else "replicate"
    painted = to_unit(generator(to_signed(functional.pad(image, padding, mode=mode))))
    return painted[..., top : top + height, left : left + width].clamp(0, 1)


def load_generator(name: str | Path | None = None, direction: Direction = "x2y") -> Generator:
    """A trained generator, ready for `translate`.

    Args:
        name: A shipped network, a folder with config.json and model.safetensors, a training run (a folder with G/ and
            F/), an official .pth file, or a Hugging Face Hub id. None: the shipped landscape2vangogh, or
            vangogh2landscape with direction "y2x".
        direction: Of a training run: "x2y" takes G, "y2x" takes F.

    Raises:
        FileNotFoundError: There are no such weights.
        ValueError: They are damaged, or of another network; or a direction is asked of a single network.
        OSError: The Hub cannot be reached.
    """
    backwards = direction in ("y2x", "BtoA")
    if name is None:
        name, backwards = ("vangogh2landscape" if backwards else "landscape2vangogh"), False
    found = weights.find(name)
    if isinstance(found, Path):
        if found.is_dir() and (found / "G").is_dir():
            found, backwards = found / ("F" if backwards else "G"), False
        if backwards:
            raise ValueError(
                f"--direction {direction}: {name} is a single network, it knows one direction; expected a training run"
            )
        if found.is_file():
            return Generator.from_official(found)
        missing = [file for file in ("config.json", "model.safetensors") if not (found / file).is_file()]
        if missing:
            raise FileNotFoundError(
                f"no {' and no '.join(missing)} in {found}; expected a folder with config.json and model.safetensors, "
                "or a training run with G and F"
            )
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # huggingface_hub prints where it reads from.
            return Generator.from_pretrained(str(found)).eval()
    except (json.JSONDecodeError, TypeError, ValueError) as error:
        raise ValueError(f"{found}: config.json does not describe a generator ({_first_line(error)})") from error
    except SafetensorError as error:
        raise ValueError(f"{found}: model.safetensors is cut short or damaged ({_first_line(error)})") from error
    except RuntimeError as error:
        raise ValueError(f"{found}: model.safetensors does not fit config.json ({_first_line(error)})") from error
    except OSError as error:
        raise OSError(f"{found}: not on this machine, and not to be had from the Hub ({_first_line(error)})") from error


@dataclass(frozen=True)
class Job:
    """A picture to translate and where the result goes."""

    source: Path
    target: Path


def plan(inputs: Sequence[str | Path], output: Path, format: str | None = None) -> list[Job]:
    """Decide what is written where, before anything is. Folders keep their structure, files their names.

    Args:
        inputs: Pictures and folders.
        output: A folder; or a file, by its suffix, for a single picture.
        format: Suffix of the results; None keeps that of each input.

    Raises:
        FileNotFoundError: An input does not exist, or a folder holds no picture.
        ValueError: Two results would share a name, or a result would replace an input.
    """
    jobs: list[Job] = []
    single = len(inputs) == 1 and not Path(inputs[0]).is_dir()
    as_file = output.suffix.lower() in images.FORMATS and not output.is_dir()
    if as_file and not single:
        raise ValueError(f"{output} is a file, and there are several pictures; expected a folder")
    for entry in map(Path, inputs):
        if entry.is_dir():
            # Results of an earlier call inside the folder are not pictures to translate.
            inside = entry.resolve() in output.resolve().parents
            sources = [p for p in images.find(entry) if not (inside and output.resolve() in p.resolve().parents)]
            if not sources:
                raise FileNotFoundError(f"no pictures in {entry}; expected {' '.join(sorted(images.FORMATS))}")
            jobs += [Job(path, output / path.relative_to(entry)) for path in sources]
        elif entry.exists():
            jobs.append(Job(entry, output if as_file else output / entry.name))
        else:
            raise FileNotFoundError(f"no picture and no folder {entry}")
    if format is not None and not as_file:
        jobs = [Job(job.source, job.target.with_suffix(f".{format}")) for job in jobs]
    elif not as_file:
        # A picture under a suffix that cannot be written (say, none at all) becomes a PNG.
        jobs = [
            job if job.target.suffix.lower() in images.FORMATS else Job(job.source, job.target.with_suffix(".png"))
            for job in jobs
        ]
    taken: dict[Path, Path] = {}
    sources_by_path = {job.source.resolve(): job.source for job in jobs}
    for job in jobs:
        other = taken.setdefault(job.target.resolve(), job.source)
        if other != job.source:
            raise ValueError(f"{other} and {job.source} would both become {job.target}; translate them one by one")
        if job.target.resolve() in sources_by_path:
            raise ValueError(f"{job.target} is an input itself and is never replaced; choose another --output")
    return jobs


@dataclass(frozen=True)
class Outcome:
    """What became of one job."""

    job: Job
    before: Image.Image | None = None
    after: Image.Image | None = None
    error: str | None = None
    """Why there is no result; None if all went well."""


def translate_files(
    jobs: Sequence[Job], generator: Generator, device: torch.device | str = "cpu", size: int | None = None
) -> Iterator[Outcome]:
    """Translate pictures one by one and write each result, whole or not at all. A bad picture does not end the work.

    Args:
        size: Shrink pictures to this longer side first.

    Raises:
        OSError: A result cannot be written.
    """
    from stylekit.cli import is_out_of_memory

    generator = generator.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for job in jobs:
        try:
            before = images.load(job.source)
            if size is not None:
                before = images.resize(before, size)
            after = images.to_image(translate(images.to_tensor(before).to(device), generator))
        except ValueError as error:
            yield Outcome(job, error=str(error))
            continue
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            pixels = f"{before.width} x {before.height}"
            yield Outcome(job, error=f"{job.source}: {pixels} pixels need more memory than there is; try --size 2000")
            continue
        images.save(after, job.target)
        yield Outcome(job, before, after)


def _padding(length: int) -> tuple[int, int]:
    """What is added before and behind a side: the margin, or as much of it as can be reflected."""
    padded = max(8, -(-(length + 2 * min(MARGIN, max(0, length - 4))) // 4) * 4)
    return (padded - length) // 2, (padded - length + 1) // 2


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
