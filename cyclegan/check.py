"""Check a data set before training: what is wrong with which picture, and whether scales fit."""

from __future__ import annotations

import shutil
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from cyclegan.data import find_domain
from cyclegan.options import CheckConfig
from stylekit.collections.chart import color_chart, stack, strip
from stylekit.collections.manifest import read_manifest, write_manifest
from stylekit.collections.similarity import groups, near_pairs
from stylekit.collections.survey import Facts, detail_size, survey
from stylekit.collections.workspace import REJECTED, SIDES, SPLITS
from stylekit.pictures import images
from stylekit.training.data import evenly_spaced

SERIOUS = ("unreadable", "leaking", "in both X and Y")
"""A single one of these harms."""

OTHERS = ("small", "framed", "gray", "repeated")
"""These harm if they are more than `TOLERATED` of a side."""

NOTES = ("rotated", "CMYK")
"""Training handles these; other programs may not."""

TOLERATED = 0.01

_SAMPLES = 60
"""Pictures whose details are measured, of each collection."""

_ACROSS = 12
_SHOWN = 2 * _ACROSS
"""Pictures in a row of the contact sheet, and of one kind."""


@dataclass(frozen=True)
class Finding:
    """Something about a picture that a person should know."""

    kind: str
    path: Path
    side: str
    """A or B."""
    note: str
    """What exactly, such as the other copy."""


@dataclass(frozen=True)
class Report:
    """What a check found."""

    root: Path
    folders: dict[str, list[Facts]]
    """Facts of the pictures of trainA and the other folders."""
    findings: list[Finding]
    harms: list[str]
    """Why training would suffer, in sentences; empty if it would not."""
    hint: str
    """About the scale of the pictures to translate; empty if there is nothing to say."""
    sheet: Path
    moved: int
    """Pictures that --fix has moved."""


def check(config: CheckConfig) -> Report:
    """Look at every picture of a data set, write the contact sheet, and move pictures if asked to.

    Raises:
        FileNotFoundError: There is no such folder, or it has no pictures.
        OSError: The sheet cannot be written, or a picture cannot be moved.
    """
    root = Path(config.dataroot)
    paths = {split + side: find_domain(root, split, side) for split in SPLITS for side in SIDES}
    if not any(paths.values()):
        raise FileNotFoundError(f"no pictures in {root}; expected trainA and trainB, as datasets/README.md explains")
    every = [path for found in paths.values() for path in found]
    facts = dict(zip(every, tqdm(survey(every, config.threads), total=len(every), disable=None, delay=1), strict=True))
    folders = {name: [facts[path] for path in found] for name, found in paths.items() if found}
    findings = find_problems(folders, config.min_size)
    harms = find_harms(folders, findings)
    hint = compare_details(config, folders) if config.photos is not None else ""
    images.save(draw_sheet(folders, findings), config.output)
    moved = 0
    if config.fix:
        moved = move_to_rejected(root, findings)
        gone = {finding.path for finding in findings if finding.kind not in NOTES}
        left = {name: [fact for fact in found if fact.path not in gone] for name, found in folders.items()}
        harms = find_harms(left, [])
    return Report(root, folders, findings, harms, hint, config.output, moved)


def find_problems(folders: dict[str, list[Facts]], min_size: int) -> list[Finding]:
    """All findings, in order of folder and file; a picture may have several."""
    return [
        Finding(kind, fact.path, folder[-1], note)
        for folder, found in folders.items()
        for fact in found
        for kind, note in _flaws(fact, min_size)
    ] + _copies(folders)


def find_harms(folders: dict[str, list[Facts]], findings: Sequence[Finding]) -> list[str]:
    """Why training would suffer."""
    harms = [f"no training pictures in train{side}" for side in SIDES if not folders.get(f"train{side}")]
    for kind in SERIOUS:
        if count := len({finding.path for finding in findings if finding.kind == kind}):
            harms.append(f"{count} {'picture is' if count == 1 else 'pictures are'} {kind}")
    for side in SIDES:
        total = sum(len(folders.get(f"{split}{side}", [])) for split in SPLITS)
        for kind in OTHERS:
            count = sum(finding.kind == kind and finding.side == side for finding in findings)
            if count > TOLERATED * total:
                harms.append(f"{count} of {total} pictures of {side} are {kind}")
    return harms


def compare_details(config: CheckConfig, folders: dict[str, list[Facts]]) -> str:
    """Compare the size of details in training and in pictures to translate; a hint if it differs by a factor of 2.

    Raises:
        FileNotFoundError: There are no pictures to translate.
    """
    assert config.photos is not None
    photos = images.find(config.photos)
    if not photos:
        raise FileNotFoundError(f"no pictures in {config.photos}; --photos needs a folder of pictures to translate")
    side = "A" if config.direction == "AtoB" else "B"
    training = [fact.path for fact in _readable(folders, f"train{side}")]
    if not training:
        return ""
    trained = _typical(_details(training, lambda size: config.load_size / min(size)))
    translated = _details(photos, lambda size: min(1.0, config.size / max(size)) if config.size else 1.0)
    if not translated:
        return ""
    ratio = _typical(translated) / trained
    longer = statistics.median(longer for _, longer in translated)
    said = f"details in {config.photos} are {ratio:.1f} times as large as in training"
    if ratio > 2:
        return f"{said}; translate with --size {max(10, round(longer / ratio, -1)):.0f} for strokes of the right size"
    if ratio < 0.5:
        return f"{said}; enlarge these pictures, or train with --load-size {round(config.load_size * ratio)}"
    return ""


def move_to_rejected(root: Path, findings: Iterable[Finding]) -> int:
    """Move pictures to ROOT/rejected/KIND/FOLDER and take them out of the manifest; return how many.

    Raises:
        FileExistsError: A file of that name has been rejected before.
    """
    kinds = {finding.path: finding.kind for finding in findings if finding.kind not in NOTES}
    for path, kind in kinds.items():
        target = root / REJECTED / kind.replace(" ", "-") / path.relative_to(root)
        if target.exists():
            raise FileExistsError(f"{target} already exists; move it away, or remove {path}")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, target)
    if rows := read_manifest(root):
        gone = {path.relative_to(root).as_posix() for path in kinds}
        write_manifest(root, [row for row in rows if row["file"] not in gone])
    return len(kinds)


def draw_sheet(folders: dict[str, list[Facts]], findings: Sequence[Finding]) -> Image.Image:
    """Samples of both sides, the pictures with problems, and the colors of X against those of Y."""
    parts, colors = [], {}
    for name, side in (("X", "A"), ("Y", "B")):
        if good := _readable(folders, f"train{side}"):
            chosen = evenly_spaced([fact.path for fact in good], _SHOWN)
            parts.append(strip(f"{name} = train{side}: {len(good)} pictures", map(images.load, chosen), _ACROSS))
            colors[name] = [sum(level) for level in zip(*(fact.histogram for fact in good), strict=True)]
    for kind in (*SERIOUS, *OTHERS):
        paths = list(dict.fromkeys(f.path for f in findings if f.kind == kind))
        if paths and kind != "unreadable":
            title = f"{kind}: {len(paths)}" + (f", the first {_SHOWN}" if len(paths) > _SHOWN else "")
            parts.append(strip(title, map(images.load, paths[:_SHOWN]), _ACROSS))
    return stack([*parts, color_chart(colors)])


def report(result: Report) -> int:
    """Print what was found; return the exit code."""
    for folder, found in result.folders.items():
        good = [fact for fact in found if not fact.error]
        kinds = ", ".join(f"{kind} {count}" for kind, count in Counter(fact.format for fact in good).most_common())
        sides = sorted(fact.shorter_side for fact in good)
        size = (
            f"shorter side {sides[0]} to {sides[-1]} px, median {sides[len(sides) // 2]}" if sides else "none readable"
        )
        print(f"{folder}: {len(found)} pictures ({kinds}), {size}")
    for finding in result.findings:
        path = finding.path.relative_to(result.root)
        print(f"{finding.kind}: {path}{f' ({finding.note})' if finding.note else ''}")
    print(f"contact sheet: {result.sheet}")
    if result.moved:
        print(f"moved {result.moved} pictures to {result.root / REJECTED}; move any of them back if you disagree")
    if result.hint:
        print(f"scale: {result.hint}")
    if result.harms:
        fix = "" if result.moved else f"; `cyclegan check {result.root} --fix` moves these pictures away"
        print(f"training would suffer: {'; '.join(result.harms)}{fix}")
        return 1
    print("ready for training")
    return 0


def _flaws(fact: Facts, min_size: int) -> list[tuple[str, str]]:
    """Kinds and notes of what is wrong with a single picture."""
    if fact.error:
        return [("unreadable", fact.error)]
    flaws = []
    if fact.shorter_side < min_size:
        flaws.append(("small", f"{fact.width} x {fact.height} px"))
    if fact.frame:
        left, top, right, bottom = fact.frame
        flaws.append(
            ("framed", f"the picture inside has {right - left} x {bottom - top} of {fact.width} x {fact.height} px")
        )
    if fact.gray:
        flaws.append(("gray", ""))
    if fact.rotated:
        flaws.append(("rotated", "by EXIF orientation"))
    if fact.mode == "CMYK":
        flaws.append(("CMYK", ""))
    return flaws


def _copies(folders: dict[str, list[Facts]]) -> list[Finding]:
    """Near-duplicates: test pictures that training has seen, all but the largest of the others, and X in Y."""
    names, every = [], []
    for name in (split + side for side in SIDES for split in SPLITS):
        good = _readable(folders, name)
        names += [name] * len(good)
        every += good
    findings = []

    def found(kind: str, i: int, other: int) -> None:
        path = every[other].path
        findings.append(Finding(kind, every[i].path, names[i][-1], f"like {path.parent.name}/{path.name}"))

    pairs = near_pairs([fact.hash for fact in every], [fact.thumbnail for fact in every])
    for group in groups([(i, j) for i, j in pairs if names[i][-1] == names[j][-1]]):
        trained = [i for i in group if names[i].startswith("train")]
        tested = [i for i in group if i not in trained]
        for i in tested if trained else ():
            found("leaking", i, trained[0])
        same = trained or tested
        best = max(same, key=lambda i: every[i].width * every[i].height)
        for i in same:
            if i != best:
                found("repeated", i, best)
    for i, j in pairs:
        if names[i][-1] != names[j][-1]:
            found("in both X and Y", i, j)
            found("in both X and Y", j, i)
    return findings


def _readable(folders: dict[str, list[Facts]], name: str) -> list[Facts]:
    return [fact for fact in folders.get(name, []) if not fact.error]


def _details(paths: list[Path], scale: Callable[[tuple[int, int]], float]) -> list[tuple[float, int]]:
    """Size of details, and longer side, of a sample of pictures at a scale that depends on their size."""

    def measure(path: Path) -> tuple[float, int] | None:
        try:
            picture = images.load(path)
        except ValueError:
            return None
        factor = scale(picture.size)
        return detail_size(picture) * factor, round(max(picture.size) * factor)

    with ThreadPoolExecutor() as pool:
        return [measured for measured in pool.map(measure, evenly_spaced(paths, _SAMPLES)) if measured is not None]


def _typical(details: Sequence[tuple[float, int]]) -> float:
    return statistics.median(detail for detail, _ in details)
