"""Jobs over files and folders: which file is written where, and what became of each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from stylekit.devices import is_out_of_memory
from stylekit.pictures import images

Process = Callable[[Tensor], Tensor]
"""(1, 3, H, W) in [0, 1], on the device -> the same."""


@dataclass(frozen=True)
class Job:
    """An input file and the path of its result."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Outcome:
    """The result of a job: the pictures before and after, or an error."""

    job: Job
    before: Image.Image | None = None
    after: Image.Image | None = None
    error: str | None = None
    """Why there is no result; None on success."""


def plan_jobs(
    inputs: Sequence[str | Path], output: Path, format: str | None = None, videos: Collection[str] = ()
) -> list[Job]:
    """Decide where every result goes before anything is written. Folders keep their structure, files their names.

    Args:
        inputs: Files and folders; folders are searched for pictures.
        output: A folder, or for a single input a file (recognised by its suffix).
        format: Suffix of the pictures to write; None keeps that of each input.
        videos: Suffixes of videos, where these are supported; videos keep their suffix.

    Raises:
        FileNotFoundError: An input does not exist, or a folder contains no pictures.
        ValueError: Two results would share a path, replace an input, or turn a picture into a video or vice versa.
    """
    jobs: list[Job] = []
    if "" in map(str, inputs):
        raise ValueError("an input is an empty string; expected a picture or a folder (. is the current one)")
    single = len(inputs) == 1 and not Path(inputs[0]).is_dir()
    as_file = output.suffix.lower() in {*images.FORMATS, *videos} and not output.is_dir()
    if as_file and not single:
        raise ValueError(f"{output} is a file, but there are several inputs; expected a folder")
    for entry in map(Path, inputs):
        if entry.is_dir():
            # Results of an earlier call inside the folder are not inputs.
            sources = images.find(entry)
            if entry.resolve() in output.resolve().parents:
                results = output.resolve()
                sources = [
                    p for p, real in zip(sources, real_paths(sources), strict=True) if results not in real.parents
                ]
            if not sources:
                raise FileNotFoundError(f"no pictures in {entry}; expected {' '.join(sorted(images.FORMATS))}")
            jobs += [Job(path, output / path.relative_to(entry)) for path in sources]
        elif entry.exists():
            if as_file and (entry.suffix.lower() in videos) != (output.suffix.lower() in videos):
                kind = "video" if entry.suffix.lower() in videos else "picture"
                raise ValueError(f"cannot write a {kind} to {output}; use another suffix")
            jobs.append(Job(entry, output if as_file else output / entry.name))
        else:
            raise FileNotFoundError(f"no file or folder {entry}")
    if not as_file:
        jobs = [Job(job.source, _with_suffix(job.target, format, videos)) for job in jobs]
    taken: dict[Path, Path] = {}
    inputs_at = set(real_paths(job.source for job in jobs))
    for job, target in zip(jobs, real_paths(job.target for job in jobs), strict=True):
        other = taken.setdefault(target, job.source)
        if other != job.source:
            raise ValueError(f"{other} and {job.source} would both be written to {job.target}; process them separately")
        if target in inputs_at:
            raise ValueError(f"{job.target} is also an input and is never replaced; choose another --output")
    return jobs


def real_paths(paths: Iterable[Path]) -> list[Path]:
    """What `Path.resolve` gives for each file; each folder is looked at once, not once per file."""
    folder = functools.cache(Path.resolve)
    return [path.resolve() if path.is_symlink() else folder(path.parent) / path.name for path in paths]


def process_files(
    jobs: Sequence[Job],
    process: Process,
    device: torch.device | str = "cpu",
    size: int | None = None,
    process_frames: Callable[[], Process] | None = None,
) -> Iterator[Outcome]:
    """Process pictures and videos one by one; each result is written completely or not at all. Bad ones are reported.

    Args:
        size: Shrink pictures to this longer side first.
        process_frames: Makes the function for the frames of one video, which may remember earlier frames; None: there
            are no videos among the jobs.

    Raises:
        OSError: A result cannot be written.
    """
    for job in jobs:
        try:
            if process_frames is not None and job.source.suffix.lower() in images.VIDEOS:
                before, after = _process_video(job, process_frames(), device, size)
            else:
                before, after = _process_picture(job, process, device, size)
        except (ValueError, FileNotFoundError) as error:  # Damaged, vanished, or too large for the format.
            yield Outcome(job, error=str(error))
        else:
            yield Outcome(job, before, after)


def _process_video(
    job: Job, process: Process, device: torch.device | str, size: int | None
) -> tuple[Image.Image, Image.Image]:
    from stylekit.pictures.video import process_video  # FFmpeg takes a quarter of a second to load.

    try:
        return process_video(job.source, job.target, process, device, size)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(f"{job.source}: out of memory; try --size 1280") from error


def _process_picture(
    job: Job, process: Process, device: torch.device | str, size: int | None
) -> tuple[Image.Image, Image.Image]:
    before = images.load(job.source)
    if size is not None:
        before = images.resize(before, size)
    try:
        after = images.to_image(process(images.to_tensor(before).to(device)))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(
            f"{job.source}: out of memory at {before.width} x {before.height} pixels; try --size 2000"
        ) from error
    images.save(after, job.target)
    return before, after


def _with_suffix(target: Path, format: str | None, videos: Collection[str]) -> Path:
    suffix = target.suffix.lower()
    if suffix in videos:
        return target
    if format is not None:
        return target.with_suffix(f".{format}")
    # A suffix that cannot be written (or none) becomes PNG.
    return target if suffix in images.FORMATS else target.with_suffix(".png")
