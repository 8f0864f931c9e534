"""Whole folders in, whole folders out: what is read, what is written where, and what becomes of each picture."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from stylekit import images
from stylekit.cli import is_out_of_memory


@dataclass(frozen=True)
class Job:
    """A file to work on and where the result goes."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Outcome:
    """What became of one job."""

    job: Job
    before: Image.Image | None = None
    after: Image.Image | None = None
    error: str | None = None
    """Why there is no result; None if all went well."""


def plan(
    inputs: Sequence[str | Path], output: Path, format: str | None = None, videos: Collection[str] = ()
) -> list[Job]:
    """Decide what is written where, before anything is. Folders keep their structure, files their names.

    Args:
        inputs: Files and folders; folders are searched for pictures.
        output: A folder; or a file, by its suffix, for a single file.
        format: Suffix of the pictures that are written; None keeps that of each input.
        videos: Suffixes of videos, if these can be worked on as well. They keep theirs.

    Raises:
        FileNotFoundError: An input does not exist, or a folder holds no picture.
        ValueError: Two results would share a name, or a result would replace an input, or be of another kind.
    """
    jobs: list[Job] = []
    single = len(inputs) == 1 and not Path(inputs[0]).is_dir()
    as_file = output.suffix.lower() in {*images.FORMATS, *videos} and not output.is_dir()
    if as_file and not single:
        raise ValueError(f"{output} is a file, and there are several inputs; expected a folder")
    for entry in map(Path, inputs):
        if entry.is_dir():
            # Results of an earlier call inside the folder are not pictures to work on.
            inside = entry.resolve() in output.resolve().parents
            sources = [p for p in images.find(entry) if not (inside and output.resolve() in p.resolve().parents)]
            if not sources:
                raise FileNotFoundError(f"no pictures in {entry}; expected {' '.join(sorted(images.FORMATS))}")
            jobs += [Job(path, output / path.relative_to(entry)) for path in sources]
        elif entry.exists():
            if as_file and (entry.suffix.lower() in videos) != (output.suffix.lower() in videos):
                kind = "video" if entry.suffix.lower() in videos else "picture"
                raise ValueError(f"a {kind} cannot become {output}; expected another suffix")
            jobs.append(Job(entry, output if as_file else output / entry.name))
        else:
            raise FileNotFoundError(f"no file and no folder {entry}")
    if not as_file:
        jobs = [Job(job.source, _with_suffix(job.target, format, videos)) for job in jobs]
    taken: dict[Path, Path] = {}
    sources_by_path = {job.source.resolve(): job.source for job in jobs}
    for job in jobs:
        other = taken.setdefault(job.target.resolve(), job.source)
        if other != job.source:
            raise ValueError(f"{other} and {job.source} would both become {job.target}; give them one by one")
        if job.target.resolve() in sources_by_path:
            raise ValueError(f"{job.target} is an input itself and is never replaced; choose another --output")
    return jobs


def paint_files(
    jobs: Sequence[Job], paint: Callable[[Tensor], Tensor], device: torch.device | str = "cpu", size: int | None = None
) -> Iterator[Outcome]:
    """Paint pictures one by one and write each result, whole or not at all. A bad picture does not end the work.

    Args:
        paint: (1, 3, H, W) in [0, 1], on the device -> the same.
        size: Shrink pictures to this longer side first.

    Raises:
        OSError: A result cannot be written.
    """
    for job in jobs:
        try:
            before = images.load(job.source)
            if size is not None:
                before = images.resize(before, size)
            after = images.to_image(paint(images.to_tensor(before).to(device)))
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


def _with_suffix(target: Path, format: str | None, videos: Collection[str]) -> Path:
    suffix = target.suffix.lower()
    if suffix in videos:
        return target
    if format is not None:
        return target.with_suffix(f".{format}")
    # A picture under a suffix that cannot be written (say, none at all) becomes a PNG.
    return target if suffix in images.FORMATS else target.with_suffix(".png")
