"""Jobs over files and folders: which file is written where, and what became of each."""

from __future__ import annotations

import contextlib
import mimetypes
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
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
    """The result of a job: the pictures before and after, or why there is none."""

    job: Job
    before: Image.Image | None = None
    after: Image.Image | None = None
    error: str | None = None
    seconds: float = 0.0
    """From waiting for the input to the end of the processing."""


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
        ValueError: Two results would share a path, replace an input, or have another kind than their input.
    """
    suffix = "" if output.is_dir() else output.suffix.lower()
    if suffix not in {"", *images.FORMATS, *videos}:
        kind = mimetypes.MimeTypes().guess_type(f"x{suffix}")[0] or suffix  # The standard ones, the same everywhere.
        if kind.startswith(("image", "video", "audio", "application/pdf", *images.READ_ONLY)):
            formats = " ".join(images.FORMATS)
            raise ValueError(f"{output}: {suffix[1:].upper()} is not written; expected {formats} or a folder")
    if "" in map(str, inputs):
        raise ValueError("an input is an empty string; expected a picture or a folder (. is the current one)")
    as_file = suffix in {*images.FORMATS, *videos}
    if as_file and (len(inputs) != 1 or Path(inputs[0]).is_dir()):
        raise ValueError(f"{output} is a file, but there are several inputs; expected a folder")
    jobs: list[Job] = []
    for entry in map(Path, inputs):
        if entry.is_dir():
            sources = _files(entry, output, PICTURES)
            if not sources:
                raise FileNotFoundError(f"no pictures in {entry}; expected {' '.join(sorted(PICTURES))}")
            targets = [output / path.relative_to(entry) for path in sources]
        elif not entry.exists():
            raise FileNotFoundError(f"no file or folder {entry}")
        elif as_file and (entry.suffix.lower() in videos) != (suffix in videos):
            kind = "video" if entry.suffix.lower() in videos else "picture"
            raise ValueError(f"cannot write a {kind} to {output}; use another suffix")
        else:
            sources, targets = [entry], [output / entry.name]
        targets = [output] if as_file else [_with_suffix(target, format, videos) for target in targets]
        jobs += map(Job, sources, targets)
    taken: dict[Path, Path] = {}
    sources_at = {job.source.resolve() for job in jobs}
    for job in jobs:
        other = taken.setdefault(job.target.resolve(), job.source)
        if other != job.source:
            raise ValueError(f"{other} and {job.source} would both be written to {job.target}; process them separately")
        if job.target.resolve() in sources_at:
            raise ValueError(f"{job.target} is also an input and is never replaced; choose another --output")
    return jobs


def _files(folder: Path, output: Path, suffixes: Collection[str]) -> list[Path]:
    """The files of a folder with these suffixes, or all, without the results of an earlier call inside of it."""
    paths, results = images.find(folder, suffixes), output.resolve()
    inside = folder.resolve() in results.parents
    return [path for path in paths if not inside or results not in path.resolve().parents]


def describe_skipped(inputs: Sequence[str | Path], output: Path, videos: Collection[str] = ()) -> str:
    """One line about the files in folders that are no pictures; empty if there are none."""
    folders = [Path(entry) for entry in inputs if Path(entry).is_dir()]
    suffixes = (path.suffix.lower() for folder in folders for path in _files(folder, output, ()))
    kinds = Counter(suffix or "without a suffix" for suffix in suffixes if suffix not in PICTURES)
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
    videos = images.VIDEOS if process_frames is not None else ()
    writing: deque[Future[Outcome]] = deque()
    # What has been painted is written, also if the work ends early; what has been loaded is dropped.
    with ThreadPoolExecutor(1) as writer, ThreadPoolExecutor(1) as loader, contextlib.ExitStack() as stack:
        stack.callback(loader.shutdown, cancel_futures=True)
        photos = _load_ahead(loader, [job.source for job in jobs if job.source.suffix.lower() not in videos], size)
        for job in jobs:
            hint, start = "; try --size 1280", time.monotonic()
            try:
                if process_frames is not None and job.source.suffix.lower() in videos:
                    from stylekit.pictures.video import process_video  # FFmpeg takes a quarter of a second to load.

                    frames = process_video(job.source, job.target, process_frames(), device, size)
                    outcome = writer.submit(Outcome, job, *frames, seconds=time.monotonic() - start)
                elif (photograph := next(photos).result()).animated and process_frames is not None:
                    hint = "; try --size 480"
                    frames = animations.process_animation(job.source, job.target, process_frames(), device, size)
                    outcome = writer.submit(Outcome, job, *frames, seconds=time.monotonic() - start)
                else:
                    hint = f" at {photograph.image.width} x {photograph.image.height} pixels; try --size 2000"
                    painting = process(photograph.to_tensor().to(device))
                    outcome = writer.submit(_write, job, photograph, painting, time.monotonic() - start)
            except (ValueError, FileNotFoundError) as error:  # Damaged or vanished.
                outcome = writer.submit(Outcome, job, error=str(error))
            except ModuleNotFoundError as error:
                if error.name != "av":
                    raise
                missing = 'videos need PyAV; install it: pip install "image-translation[video]"'
                outcome = writer.submit(Outcome, job, error=f"{job.source}: {missing}")
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                outcome = writer.submit(Outcome, job, error=f"{job.source}: out of memory{hint}")
            writing.append(outcome)
            while len(writing) > _AHEAD or (writing and writing[0].done()):
                yield writing.popleft().result()
        while writing:
            yield writing.popleft().result()


def _load_ahead(thread: ThreadPoolExecutor, paths: Sequence[Path], size: int | None) -> Iterator[Future[Photograph]]:
    loading: deque[Future[Photograph]] = deque()
    for path in paths:
        loading.append(thread.submit(photographs.load, path, size))
        if len(loading) > _AHEAD:
            yield loading.popleft()
    yield from loading


def _write(job: Job, photograph: Photograph, painting: Tensor, seconds: float) -> Outcome:
    try:
        written = photographs.save(painting, job.target, photograph)
        return Outcome(job, photograph.image, written, seconds=seconds)
    except ValueError as error:  # Too large for the format.
        return Outcome(job, error=str(error))


def _with_suffix(target: Path, format: str | None, videos: Collection[str]) -> Path:
    suffix = target.suffix.lower()
    if suffix in videos or (format is None and suffix in images.FORMATS):
        return target
    return target.with_suffix(f".{format}" if format else images.READ_ONLY.get(suffix, ".png"))
