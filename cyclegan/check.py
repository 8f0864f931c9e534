"""Check a data set before training: what is wrong with which picture, and whether scales fit."""

from __future__ import annotations

import io
import shutil
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from cyclegan.data import find_domain
from cyclegan.options import CheckConfig
from stylekit.collections.manifest import read_manifest, write_manifest
from stylekit.collections.similarity import groups, near_pairs
from stylekit.collections.survey import Facts, detail_size, survey
from stylekit.collections.workspace import FOLDERS, REJECTED, SIDES, SPLITS
from stylekit.pictures import images
from stylekit.training.data import evenly_spaced

SERIOUS = ("unreadable", "leaking", "in both X and Y")
"""A single one of these harms."""

OTHERS = ("small", "framed", "gray", "repeated")
"""These harm if they are more than `TOLERATED` of a side."""

NOTES = ("rotated", "CMYK")
"""Training handles these; other programs may not."""

TOLERATED = 0.01

ENOUGH, FEWEST = 400, 50
"""Training pictures of a side: the smallest collection of the paper, and less than any bundled network had."""

_SAMPLES = 60
"""Pictures whose details are measured, of each collection."""

_ACROSS = 12
"""Pictures in a row of the contact sheet, which has two rows of a kind at most."""


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
    findings: list[Finding]
    harms: list[str]
    """Why training would suffer, in sentences; empty if it would not."""
    hint: str
    """About the scale of the pictures to translate; empty if there is nothing to say."""
    sheet: Path
    moved: int
    """Pictures that --fix has moved."""


def check(config: CheckConfig) -> Report:
    """Look at every picture of a data set, write the contact sheet, and move pictures if asked to."""
    root = Path(config.dataroot)
    paths = {name: find_domain(root, name[:-1], name[-1]) for name in FOLDERS}
    if not any(paths.values()):
        raise FileNotFoundError(f"no pictures in {root}; expected trainA and trainB, as datasets/README.md explains")
    every = [path for found in paths.values() for path in found]
    facts = dict(zip(every, tqdm(survey(every), total=len(every), disable=None, delay=1), strict=True))
    folders = {name: [facts[path] for path in found] for name, found in paths.items() if found}
    findings = find_problems(folders, config.min_size)
    harms, moved = find_harms(folders, findings), 0
    hint = compare_details(config, folders, config.photos) if config.photos is not None else ""
    images.save(draw_sheet(folders, findings), config.output)
    if config.fix:
        moved = move_to_rejected(root, findings)
        gone = {finding.path for finding in findings if finding.kind not in NOTES}
        harms = find_harms({name: [fact for fact in found if fact.path not in gone] for name, found in folders.items()})
    return Report(root, folders, findings, harms, hint, config.output, moved)


def find_problems(folders: dict[str, list[Facts]], min_size: int) -> list[Finding]:
    """All findings, in order of folder and file; a picture may have several."""
    findings = []
    for folder, found in folders.items():
        for fact in found:
            findings += [Finding(kind, fact.path, folder[-1], note) for kind, note in _flaws(fact, min_size)]
    return findings + _copies(folders)


def find_harms(folders: dict[str, list[Facts]], findings: Sequence[Finding] = ()) -> list[str]:
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


def expect(folders: dict[str, list[Facts]]) -> str:
    """What to expect of a training with few pictures; empty if there are enough."""
    counts = {f"train{side}": len(_readable(folders, f"train{side}")) for side in SIDES}
    few = {name: count for name, count in counts.items() if 0 < count < ENOUGH}
    if not few:
        return ""
    said = "few pictures: " + ", ".join(f"{count} in {name}" for name, count in few.items())
    if min(few.values()) < FEWEST:
        return (
            f"{said}, and no bundled network had fewer than 97 and 52; expect the same strokes and colors everywhere. "
            "Add pictures, or use `johnson train`, which needs one painting"
        )
    return f"{said}: enough for `cyclegan pretrain`; the cycle of the paper had 400 to 6,300"


def compare_details(config: CheckConfig, folders: dict[str, list[Facts]], photos: Path) -> str:
    """Compare the size of details in training and in pictures to translate; a hint if it differs by a factor of 2."""
    paths = images.find(photos)
    if not paths:
        raise FileNotFoundError(f"no pictures in {photos}; --photos needs a folder of pictures to translate")
    training = [fact.path for fact in _readable(folders, "trainA" if config.direction == "AtoB" else "trainB")]
    if not training:
        return ""
    trained, _ = _details(training, lambda size: config.load_size / min(size))
    translated, longer = _details(paths, lambda size: min(1.0, config.size / max(size)) if config.size else 1.0)
    ratio = translated / trained
    said = f"details in {photos} are {ratio:.1f} times as large as in training"
    if ratio > 2:
        return f"{said}; translate with --size {max(10, round(longer / ratio, -1)):.0f} for strokes of the right size"
    if ratio < 0.5:
        return f"{said}; enlarge these pictures, or train with --load-size {round(config.load_size * ratio)}"
    return ""


def move_to_rejected(root: Path, findings: Iterable[Finding]) -> int:
    """Move pictures to ROOT/rejected/KIND/FOLDER and take them out of the manifest; return how many."""
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
    from matplotlib.figure import Figure

    shown, colors = {}, {}
    for name, side in (("X", "A"), ("Y", "B")):
        if good := _readable(folders, f"train{side}"):
            sample = evenly_spaced([fact.path for fact in good], 2 * _ACROSS)
            shown[f"{name} = train{side}: {len(good)} pictures"] = list(sample)
            colors[name] = np.sum([fact.histogram for fact in good], 0).reshape(3, -1)
    for kind in (*SERIOUS[1:], *OTHERS):
        if paths := list(dict.fromkeys(finding.path for finding in findings if finding.kind == kind)):
            shown[f"{kind}: {len(paths)}"] = paths[: 2 * _ACROSS]
    heights = [1.05 * -(-len(paths) // _ACROSS) + 0.35 for paths in shown.values()] + [2.5]
    figure = Figure((12.48, sum(heights)), dpi=100, layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (title, paths) in zip(parts, shown.items(), strict=False):
        axes = part.subplots()
        axes.imshow(_rows(map(images.load, paths)))
        axes.set_title(title, loc="left")
        axes.axis("off")
    for i, (axes, color) in enumerate(zip(parts[-1].subplots(1, 3), ("red", "green", "blue"), strict=True)):
        for (name, counts), style in zip(colors.items(), ("solid", "dotted"), strict=False):
            axes.plot(counts[i] / counts[i].sum(), color, linestyle=style, label=name)
            axes.legend()
        axes.set(title=f"{color}, from dark to bright", xticks=(), ylabel="fraction of pixels")
    figure.savefig(page := io.BytesIO(), format="png")
    return Image.open(page).convert("RGB")


def report(result: Report) -> int:
    """Print what was found; return the exit code."""
    for folder, found in result.folders.items():
        good = [fact for fact in found if not fact.error]
        kinds = ", ".join(f"{kind} {count}" for kind, count in Counter(fact.format for fact in good).most_common())
        sides = sorted(min(fact.width, fact.height) for fact in good) or [0]
        size = f"shorter side {sides[0]} to {sides[-1]} px, median {sides[len(sides) // 2]}"
        print(f"{folder}: {len(found)} pictures ({kinds}), {size}")
    for finding in result.findings:
        path = finding.path.relative_to(result.root)
        print(f"{finding.kind}: {path}{f' ({finding.note})' if finding.note else ''}")
    print(f"contact sheet: {result.sheet}")
    if result.moved:
        print(f"moved {result.moved} pictures to {result.root / REJECTED}; move any of them back if you disagree")
    if few := expect(result.folders):
        print(few)
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
    size = f"{fact.width} x {fact.height} px"
    left, top, right, bottom = fact.frame or (0, 0, 0, 0)
    flaws = (
        (min(fact.width, fact.height) < min_size, "small", size),
        (fact.frame, "framed", f"the picture inside has {right - left} x {bottom - top} of {size}"),
        (fact.gray, "gray", ""),
        (fact.rotated, "rotated", "by EXIF orientation"),
        (fact.mode == "CMYK", "CMYK", ""),
    )
    return [(kind, note) for flawed, kind, note in flaws if flawed]


def _copies(folders: dict[str, list[Facts]]) -> list[Finding]:
    """Near-duplicates: test pictures that training has seen, all but the largest of the others, and X in Y."""
    names = [split + side for side in SIDES for split in SPLITS]
    every = [(name, fact) for name in names for fact in _readable(folders, name)]
    findings = []

    def found(kind: str, i: int, other: int) -> None:
        path = every[other][1].path
        findings.append(Finding(kind, every[i][1].path, every[i][0][-1], f"like {path.parent.name}/{path.name}"))

    pairs = near_pairs([fact.hash for _, fact in every], [fact.thumbnail for _, fact in every])
    same_side = {(i, j) for i, j in pairs if every[i][0][-1] == every[j][0][-1]}
    for group in groups(sorted(same_side)):
        trained = [i for i in group if every[i][0].startswith("train")]
        best = max(trained or group, key=lambda i: every[i][1].width * every[i][1].height)
        for i in group:
            if trained and i not in trained:
                found("leaking", i, trained[0])
            elif i != best:
                found("repeated", i, best)
    for i, j in pairs:
        if (i, j) not in same_side:
            found("in both X and Y", i, j)
            found("in both X and Y", j, i)
    return findings


def _readable(folders: dict[str, list[Facts]], name: str) -> list[Facts]:
    return [fact for fact in folders.get(name, []) if not fact.error]


def _details(paths: list[Path], scale: Callable[[tuple[int, int]], float]) -> tuple[float, float]:
    """Medians of the size of details, and of the longer side, in a sample of pictures; their size decides the scale."""

    def measure(path: Path) -> tuple[float, float]:
        picture = images.load(path)
        factor = scale(picture.size)
        return detail_size(picture) * factor, max(picture.size) * factor

    with ThreadPoolExecutor() as pool:
        details, longer = zip(*pool.map(measure, evenly_spaced(paths, _SAMPLES)), strict=True)
    return statistics.median(details), statistics.median(longer)


def _rows(pictures: Iterable[Image.Image], side: int = 104) -> Image.Image:
    """Rows of square tiles, with a picture in each, whole and centered."""
    tiles = [ImageOps.pad(picture, (side - 4, side - 4), color="lightgray") for picture in pictures]
    page = Image.new("RGB", (_ACROSS * side, -(-len(tiles) // _ACROSS) * side), "white")
    for i, tile in enumerate(tiles):
        page.paste(tile, (i % _ACROSS * side + 2, i // _ACROSS * side + 2))
    return page
