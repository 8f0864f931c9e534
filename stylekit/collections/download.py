"""Fetch and prepare the pictures of a data set, several at a time; each is ready completely or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image
from tqdm import tqdm

from stylekit.collections.similarity import perceptual_hash, reduced, thumbnail
from stylekit.collections.sources import Remote
from stylekit.collections.survey import find_frame
from stylekit.collections.web import CONNECTIONS, Failure, Unreachable, Web
from stylekit.collections.workspace import Prepared, Workspace
from stylekit.pictures import images

LARGEST = 200_000_000  # Bytes of the largest picture that is downloaded.
_SILENCE = 20  # The run ends when so many pictures in a row could not be fetched because nobody answered.

_KEPT = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}
"""Formats of files that are kept byte for byte if nothing has to be done."""


@dataclass(frozen=True)
class Preparation:
    """What is done to each picture."""

    size: int | None
    """Reduce pictures so that the shorter side has this many pixels; None keeps their size."""
    min_size: int
    """Leave out pictures whose shorter side is smaller, after a frame has been cropped."""
    crop_frames: bool
    """Crop white and black frames."""


def fetch_pictures(space: Workspace, todo: Sequence[tuple[str, Remote]], web: Web, steps: Preparation) -> list[str]:
    """Fetch pictures, given with their sides, into the workspace, and note each in its journal.

    Returns why pictures failed; the next run tries them again. What has been fetched is kept, also after Ctrl-C and if
    the server stays silent (`Unreachable`).
    """
    failed: list[str] = []
    silent = 0
    # Some threads wait for the network while others prepare pictures.
    slots = threading.BoundedSemaphore(CONNECTIONS)
    pool = ThreadPoolExecutor(CONNECTIONS + (os.cpu_count() or 1), thread_name_prefix="fetch")
    try:
        running = [pool.submit(_fetch_one, space, side, remote, web, slots, steps) for side, remote in todo]
        for future in tqdm(as_completed(running), total=len(todo), unit="picture", disable=None, delay=1):
            try:
                future.result()
                silent = 0
            except (Failure, Unreachable) as error:
                failed.append(str(error))
                silent = silent + 1 if isinstance(error, Unreachable) else 0
                if silent >= min(_SILENCE, len(todo)):
                    raise
    finally:
        web.stop.set()
        pool.shutdown(cancel_futures=True)
    return failed


def prepare(raw: Path, folder: Path, stem: str, steps: Preparation) -> Prepared | str:
    """Verify a downloaded picture by decoding it, prepare it, and move it to FOLDER/STEM.SUFFIX.

    Returns the reason if it is not wanted, since it is too small.
    """
    picture = images.load(raw)
    with Image.open(raw) as file:
        suffix = _KEPT.get(file.format or "", "")
        plain = suffix and file.mode == "RGB" and not getattr(file, "is_animated", False)
        plain = plain and file.getexif().get(ExifTags.Base.Orientation, 1) in (0, 1)
        plain = plain and not file.info.get("icc_profile")
    done = [] if plain else ["converted to sRGB"]
    if steps.crop_frames and (frame := find_frame(picture)):
        picture = picture.crop(frame)
        done.append("frame cropped to {} {} {} {}".format(*frame))
    shorter = min(picture.size)
    if shorter < steps.min_size:
        return f"{picture.width} x {picture.height} px, smaller than {steps.min_size}"
    if steps.size and shorter > steps.size:
        width, height = (max(steps.size, round(side * steps.size / shorter)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        done.append(f"reduced to {width} x {height}")
    source = hashlib.sha256(raw.read_bytes()).hexdigest()
    target = folder / f"{stem}{suffix if not done else '.jpg'}"
    target.parent.mkdir(parents=True, exist_ok=True)
    if done:
        images.save(picture, target)
    else:
        raw.replace(target)
    data, small = target.read_bytes(), reduced(picture)
    digest, similar = hashlib.sha256(data).hexdigest(), (perceptual_hash(small), thumbnail(small).hex())
    return Prepared(target.name, *picture.size, len(data), digest, source, *similar, "; ".join(done))


def _fetch_one(
    space: Workspace, side: str, remote: Remote, web: Web, slots: threading.BoundedSemaphore, steps: Preparation
) -> None:
    raw = space.hidden / "raw" / f"{remote.split}{side}-{remote.name}"
    try:
        if remote.local:
            raw.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(remote.url, raw)
        else:
            with slots:
                web.file(remote.url, raw, LARGEST, robots=not remote.keyed)
        space.add(side, remote, prepare(raw, space.ready(side, remote), remote.name, steps))
    except FileNotFoundError as error:
        raise Failure(f"{remote.url}: {error.strerror}") from error
    except ValueError as error:
        reason = str(error).removeprefix(f"{raw}: ")
        if not remote.local:  # Another download may be intact.
            page = any(tag in raw.read_bytes()[:1000].lower() for tag in (b"<html", b"<!doctype"))
            raise Failure(f"{remote.url}: {'got a web page instead of a picture' if page else reason}") from error
        space.add(side, remote, reason)
    finally:
        raw.unlink(missing_ok=True)
