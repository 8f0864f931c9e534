"""Jobs over files and folders: which file is written where, and what became of each."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from stylekit.devices import is_out_of_memory
from stylekit.pictures import animations, images, photographs
from stylekit.pictures.photographs import Photograph

Process = Callable[[Tensor], Tensor]
"""(1, 3, H, W) in [0, 1], on the device -> the same."""

PICTURES = (*images.FORMATS, *images.READ_ONLY)
"""Suffixes of the pictures that are looked for in folders."""

_AHEAD = 2
"""Pictures that are loaded before they are needed, and results that may wait to be written."""


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
        output: A folder, or for a single input a file (recognized by its suffix).
        format: Suffix of the pictures to write; None keeps that of each input.
        videos: Suffixes of videos, where these are supported; videos keep their suffix.

    Raises:
        FileNotFoundError: An input does not exist, or a folder contains no pictures.
        ValueError: Two results would share a path, replace an input, or turn a picture into a video or vice versa; or
            the output is a file of a format that is only read.
    """
    if output.suffix.lower() in images.READ_ONLY and not output.is_dir():
        kind = output.suffix[1:].upper()
        raise ValueError(f"{output}: {kind} is only read, not written; use another suffix, such as .png")
    jobs: list[Job] = []
    if "" in map(str, inputs):
        raise ValueError("an input is an empty string; expected a picture or a folder (. is the current one)")
    single = len(inputs) == 1 and not Path(inputs[0]).is_dir()
    as_file = output.suffix.lower() in {*images.FORMATS, *videos} and not output.is_dir()
    if as_file and not single:
        raise ValueError(f"{output} is a file, but there are several inputs; expected a folder")
    for entry in map(Path, inputs):
        if entry.is_dir():
            sources = _files(entry, output, PICTURES)
            if not sources:
                raise FileNotFoundError(f"no pictures in {entry}; expected {' '.join(sorted(PICTURES))}")
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


def _files(folder: Path, output: Path, suffixes: Collection[str]) -> list[Path]:
    """The files of a folder with these suffixes, or all, without the results of an earlier call inside of it."""
    paths, results = images.find(folder, suffixes), output.resolve()
    if folder.resolve() not in results.parents:
        return paths
    return [path for path, real in zip(paths, real_paths(paths), strict=True) if results not in real.parents]


def describe_skipped(inputs: Sequence[str | Path], output: Path, videos: Collection[str] = ()) -> str:
    """One line about the files in folders that are no pictures; empty if there are none."""
    kinds: Counter[str] = Counter()
    for folder in (Path(entry) for entry in inputs if Path(entry).is_dir()):
        for path in _files(folder, output, ()):
            if path.suffix.lower() not in PICTURES:
                kinds[path.suffix.lower() or "without a suffix"] += 1
    if not kinds:
        return ""
    count = f"{kinds.total()} files that are no pictures" if kinds.total() > 1 else "1 file that is no picture"
    listed = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common(5))
    hint = "; name videos to process them" if kinds.keys() & set(videos) else ""
    return f"skipped {count}: {listed}{hint}"


def process_files(
    jobs: Sequence[Job],
    process: Process,
    device: torch.device | str = "cpu",
    size: int | None = None,
    process_frames: Callable[[], Process] | None = None,
) -> Iterator[Outcome]:
    """Process pictures and videos in order; each result is written completely or not at all. Bad ones are reported.

    One thread loads the next pictures and another writes results, while this one processes. Batches are not worth
    it: on a CPU a network takes as long per picture, and photographs of a folder rarely have one size.

    Args:
        size: Shrink pictures to this longer side first.
        process_frames: Makes the function for the frames of one video or animation, which may remember earlier frames.
            None: there are no videos among the jobs, and only the first frame of an animation is processed.

    Raises:
        OSError: A result cannot be written.
    """

    def is_video(job: Job) -> bool:
        return process_frames is not None and job.source.suffix.lower() in images.VIDEOS

    pictures = iter([job for job in jobs if not is_video(job)])
    loading: deque[Future[Photograph]] = deque()
    writing: deque[Future[Outcome]] = deque()
    # What has been painted is written, also if the work ends early; what has been loaded is dropped.
    with ThreadPoolExecutor(1) as writer, _cancelling_thread() as loader:

        def load_next() -> None:
            for job in itertools.islice(pictures, 1):
                loading.append(loader.submit(photographs.load, job.source, size))

        for _ in range(_AHEAD):
            load_next()
        for job in jobs:
            try:
                if process_frames is not None and is_video(job):
                    before, after = _process_video(job, process_frames(), device, size)
                    writing.append(writer.submit(Outcome, job, before, after))
                else:
                    current = loading.popleft()
                    load_next()
                    photograph = current.result()
                    if process_frames is not None and photograph.animated:
                        before, after = _process_animation(job, process_frames(), device, size)
                        writing.append(writer.submit(Outcome, job, before, after))
                    else:
                        painting = _process_picture(job, photograph, process, device)
                        writing.append(writer.submit(_write, job, photograph, painting))
            except (ValueError, FileNotFoundError) as error:  # Damaged or vanished.
                writing.append(writer.submit(Outcome, job, error=str(error)))
            while len(writing) > _AHEAD or (writing and writing[0].done()):
                yield writing.popleft().result()
        while writing:
            yield writing.popleft().result()


@contextlib.contextmanager
def _cancelling_thread() -> Iterator[ThreadPoolExecutor]:
    """One thread, which finishes only what it has begun if the block ends early."""
    thread = ThreadPoolExecutor(1)
    try:
        yield thread
    finally:
        thread.shutdown(cancel_futures=True)


def _process_video(
    job: Job, process: Process, device: torch.device | str, size: int | None
) -> tuple[Image.Image, Image.Image]:
    from stylekit.pictures.video import process_video  # FFmpeg takes a quarter of a second to load.

    with _memory_hint(f"{job.source}: out of memory; try --size 1280"):
        return process_video(job.source, job.target, process, device, size)


def _process_animation(
    job: Job, process: Process, device: torch.device | str, size: int | None
) -> tuple[Image.Image, Image.Image]:
    with _memory_hint(f"{job.source}: out of memory; try --size 480"):
        return animations.process_animation(job.source, job.target, process, device, size)


def _process_picture(job: Job, photograph: Photograph, process: Process, device: torch.device | str) -> Tensor:
    width, height = photograph.image.size
    with _memory_hint(f"{job.source}: out of memory at {width} x {height} pixels; try --size 2000"):
        return process(photograph.to_tensor().to(device))


@contextlib.contextmanager
def _memory_hint(hint: str) -> Iterator[None]:
    """Turn errors of memory into ones with a hint, which do not end the work."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(hint) from error


def _write(job: Job, photograph: Photograph, painting: Tensor) -> Outcome:
    try:
        return Outcome(job, photograph.image, photographs.save(painting, job.target, photograph))
    except ValueError as error:  # Too large for the format.
        return Outcome(job, error=str(error))


def _with_suffix(target: Path, format: str | None, videos: Collection[str]) -> Path:
    suffix = target.suffix.lower()
    if suffix in videos:
        return target
    if format is not None:
        return target.with_suffix(f".{format}")
    # A suffix that cannot be written (or none) becomes another.
    return target if suffix in images.FORMATS else target.with_suffix(images.READ_ONLY.get(suffix, ".png"))
