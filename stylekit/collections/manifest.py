"""The last step of fetching: splits, folders, manifest.csv and CREDITS.md."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from stylekit.atomic import atomic_write
from stylekit.collections.similarity import groups, near_pairs
from stylekit.collections.sources import Remote
from stylekit.collections.workspace import REJECTED, SPLITS, Prepared, Workspace, american

COLUMNS = (
    *("file", "title", "author", "license", "page", "url"),
    *("width", "height", "bytes", "sha256", "source_sha256", "phash", "preparation"),
)

UNKNOWN = "not stated; see the page"  # License of pictures whose source does not state any.


Placed = tuple[str, Remote, Prepared]
"""The folder of a picture in the data set, such as trainA, and the picture."""


def read_manifest(root: Path) -> list[dict[str, Any]]:
    """The rows of ROOT/manifest.csv; none if there is no such file."""
    path = root / "manifest.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [american(row) for row in csv.DictReader(file)]


def write_manifest(root: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ROOT/manifest.csv, sorted by file; only `COLUMNS` of the rows are kept."""
    sheet = io.StringIO()
    writer = csv.DictWriter(sheet, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: str(row["file"])))
    with atomic_write(root / "manifest.csv") as file:
        file.write(sheet.getvalue().encode())


def arrange(space: Workspace, listings: Mapping[str, Sequence[Remote]], test_share: float) -> list[Placed]:
    """Decide the place of every picture that is ready, from the content alone.

    Copies of one file are used once. A picture goes to the test folder if its hash says so, or where the source puts
    it; near-duplicates follow the first of them, and pictures that the manifest names stay where they are. `listings`
    are the pictures of each side, in the order of the source.
    """
    earlier = {row["file"] for row in read_manifest(space.root)}
    placed: list[Placed] = []
    for side, remotes in listings.items():
        ready = _ready(space, side, remotes)
        known = [
            remote.split or next((s for s in SPLITS if f"{s}{side}/{prepared.file}" in earlier), "")
            for remote, prepared in ready
        ]
        chosen = ["test" if int(p.source_sha256[:8], 16) < test_share * 2**32 else "train" for _, p in ready]
        splits = [split or other for split, other in zip(known, chosen, strict=True)]
        for group in groups(near_pairs([p.hash for _, p in ready], [bytes.fromhex(p.thumbnail) for _, p in ready])):
            leader = next((i for i in group if known[i]), group[0])
            for i in group:
                splits[i] = known[i] or splits[leader]
        placed += [(f"{split}{side}", *picture) for split, picture in zip(splits, ready, strict=True)]
    return placed


def finish(space: Workspace, placed: Sequence[Placed], title: str) -> None:
    """Move the pictures to their folders and write the manifest and the credits. Repeating it changes nothing."""
    rows = []
    for folder, remote, prepared in placed:
        target = space.root / folder / prepared.file
        target.parent.mkdir(exist_ok=True)
        now = space.place(folder[-1], remote)
        if now is not None and now != target:
            now.replace(target)
        row = {**vars(remote), **vars(prepared), "file": f"{folder}/{prepared.file}"}
        row |= {"license": remote.license or UNKNOWN, "phash": f"{prepared.hash:016x}", "preparation": prepared.done}
        rows.append(row)
    write_manifest(space.root, rows)
    with atomic_write(space.root / "CREDITS.md") as file:
        file.write(credits(placed, title).encode())


def credits(placed: Sequence[Placed], title: str) -> str:
    """Who made the pictures and under which license, as Markdown."""
    lines = [f"# {title}", ""]
    lines += [f"{len(placed)} pictures. Each belongs to its author; manifest.csv has the details.", ""]
    lines += ["| license | pictures |", "|---|---|"]
    counts = Counter(remote.license or UNKNOWN for _, remote, _ in placed)
    lines += [f"| {license} | {count} |" for license, count in sorted(counts.items())]
    for folder, pictures in groupby(sorted(placed, key=lambda p: (p[0], p[2].file)), key=lambda p: p[0]):
        lines += ["", f"## {folder}", ""]
        for _, remote, prepared in pictures:
            name = _escaped(remote.title or prepared.file)
            link = f"[{name}](<{remote.page}>)" if remote.page.startswith(("http://", "https://")) else name
            lines.append(f"* {link}, {_escaped(remote.author) or 'author unknown'}, {remote.license or UNKNOWN}")
    return "\n".join(lines) + "\n"


def _ready(space: Workspace, side: str, remotes: Sequence[Remote]) -> list[tuple[Remote, Prepared]]:
    """Pictures that are ready and wanted; the journal notes copies as left out, except in published sets."""
    ready: list[tuple[Remote, Prepared]] = []
    seen: set[str] = set()
    for remote in remotes:
        prepared, path = space.outcome(side, remote), space.place(side, remote)
        if not isinstance(prepared, Prepared) or path is None:
            continue
        if prepared.source_sha256 in seen and not remote.split:
            space.add(side, remote, "copy")
        elif REJECTED not in path.relative_to(space.root).parts:
            seen.add(prepared.source_sha256)
            ready.append((remote, prepared))
    return ready


def _escaped(text: str) -> str:
    return "".join(f"\\{c}" if c in "\\[]*_`<>" else c for c in text)
