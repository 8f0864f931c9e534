"""Fetch a data set: list both sides, download, prepare, split; every step can be interrupted and continued."""

from __future__ import annotations

import errno
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cyclegan.options import FetchConfig
from stylekit.collections import archives, flickr, wikiart
from stylekit.collections.download import Preparation, fetch_pictures
from stylekit.collections.manifest import UNKNOWN, arrange, finish
from stylekit.collections.sources import Remote, list_folder
from stylekit.collections.web import Web
from stylekit.collections.workspace import SIDES, SPLITS, Workspace, open_workspace

ARCHIVE_LICENSE = "not stated; distributed for research"
ARCHIVE_PAGE = "https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix"


@dataclass(frozen=True)
class Result:
    """What became of a data set."""

    output: Path
    counts: dict[str, int]
    """Pictures in each folder."""
    left_out: Counter[str]
    """Pictures that are not used, by reason."""
    failed: list[str]
    """Why pictures could not be fetched; the next run tries them again."""
    paintings_in_a: bool
    """A holds paintings and B photographs, as in some published sets."""


def fetch(config: FetchConfig, web: Web | None = None) -> Result:
    """Fetch a data set, or go on with one. `web` is the client for all servers; None makes one from the options.

    Raises:
        ValueError: A source does not know what was asked for, or the folder belongs to another data set.
        OSError: No server can be reached, or the disk is full. What has been fetched is kept.
        KeyboardInterrupt: The same.
    """
    web = web or Web(config.rate)
    output, steps = config.output or Path("datasets") / str(config.name), preparation(config)
    sources = build_sources(config, web)
    try:
        with open_workspace(output, request(config)) as space:
            listings = _archive(config.name, space, web) if config.name else _listings(config.limit, space, sources)
            todo = [(side, remote) for side, remotes in listings.items() for remote in space.missing(side, remotes)]
            failed = fetch_pictures(space, todo, web, steps)
            placed = arrange(space, listings, config.test_share)
            finish(space, placed, f"Credits of {output.name}")
            if not failed:
                space.clean()
    except OSError as error:
        # Errors of atomic writes have the system's error as their cause.
        if {error.errno, getattr(error.__cause__, "errno", None)} & {errno.ENOSPC, errno.EDQUOT}:
            raise OSError(f"{output}: the disk is full; free some space and run the same command again") from error
        raise
    outcomes = (space.outcome(side, remote) for side, remotes in listings.items() for remote in remotes)
    reasons = [outcome for outcome in outcomes if isinstance(outcome, str)]
    left_out = Counter("too small" if "smaller than" in r else r if r == "copy" else "damaged" for r in reasons)
    counts = dict(sorted(Counter(folder for folder, *_ in placed).items()))
    return Result(output, counts, left_out, failed, str(config.name).endswith("2photo"))


def plan(config: FetchConfig, web: Web | None = None) -> list[str]:
    """How many pictures `fetch` would get, in lines of text; nothing is written. Raises what the sources raise."""
    sources = build_sources(config, web or Web(config.rate))
    if config.name:
        return [f"{archives.AUTHORS}/{config.name}.zip: {archives.PUBLISHED[config.name][0] / 1e6:.0f} MB"]
    lines = []
    for side, source in sources.items():
        licenses = Counter(remote.license or UNKNOWN for remote in _counted(islice(source, config.limit), side))
        stated = ", ".join(f"{name} ({count})" for name, count in licenses.most_common())
        lines.append(f"{config.x if side == 'A' else config.y}: {licenses.total()} pictures; licenses: {stated}")
    return lines


def build_sources(config: FetchConfig, web: Web) -> dict[str, Iterator[Remote]]:
    """The sources of the sides that are given, which ask nobody until they are iterated; none for a published set."""
    if config.name is not None and config.name not in archives.PUBLISHED:
        raise ValueError(f"no published set {config.name!r}; expected one of {', '.join(archives.PUBLISHED)}")
    given = zip(SIDES, (config.x, config.y), strict=True)
    return {side: build_source(text, config, web) for side, text in given if text is not None}


def build_source(given: str, config: FetchConfig, web: Web) -> Iterator[Remote]:
    """A source from its text; see `FetchConfig`. Raises ValueError if the text names none."""
    site, _, rest = given.partition(":")
    kinds = {"wikiart": wikiart.KINDS, "flickr": flickr.KINDS}
    if site in kinds and rest:
        kind, _, name = rest.partition(":")
        if kind not in kinds[site] or not name:
            kind, name = kinds[site][0], rest
        if site == "flickr":
            return flickr.list_flickr(web, kind, name, config.license, preparation(config).size)
        if config.genre and kind != "artist":
            raise ValueError(
                f"--genre {config.genre} goes with an artist, such as wikiart:vincent-van-gogh, not a {kind}"
            )
        return wikiart.list_wikiart(web, kind, name, config.genre)
    if Path(given).is_dir():
        return list_folder(Path(given), "from your own folder")
    raise ValueError(
        f"{given!r} is neither a folder nor a source; expected flickr:TAG, flickr:group:NAME, flickr:search:WORDS, "
        f"wikiart:ARTIST, wikiart:style:NAME or wikiart:genre:NAME"
    )


def preparation(config: FetchConfig) -> Preparation:
    """The steps of the preparation, with the defaults of published sets or of other sources."""
    own = config.name is None
    min_size = config.min_size if config.min_size is not None else 256 if own else 0
    return Preparation(config.size or (512 if own else None), min_size, crop_frames=own)


def request(config: FetchConfig) -> dict[str, Any]:
    """What decides the content of the folder, except the number of pictures."""
    steps = preparation(config)
    given = {name: getattr(config, name) for name in ("name", "x", "y", "license", "genre", "test_share")}
    # Older versions had the last two as options, which changed the pictures.
    return {**given, "size": steps.size, "min_size": steps.min_size, "enlarge": False, "crop_frames": "auto"}


def report(result: Result) -> int:
    """Print what became of a data set; return the exit code, 1 if pictures failed."""
    counts = ", ".join(f"{folder} {count}" for folder, count in result.counts.items())
    print(f"{result.output}: {counts or 'no pictures'}")
    if result.left_out:
        print("left out: " + ", ".join(f"{reason} {count}" for reason, count in result.left_out.items()))
    for reason in result.failed[:20]:
        print(f"cyclegan fetch: {reason}", file=sys.stderr)
    if result.failed:
        print(f"failed: {len(result.failed)} pictures; run the same command again to retry", file=sys.stderr)
        return 1
    if not result.counts:
        print("cyclegan fetch: no picture is left; see --min-size and --license", file=sys.stderr)
        return 1
    if result.paintings_in_a:
        print("A holds the paintings: train with --direction BtoA to turn photographs into paintings")
    print(f"next: cyclegan check {result.output}")
    return 0


def _listings(limit: int, space: Workspace, sources: Mapping[str, Iterator[Remote]]) -> dict[str, list[Remote]]:
    """The saved listings, or new ones if there are none or more pictures are wanted than before."""
    listings = {}
    for side, source in sources.items():
        saved, last = space.listing(side)
        if limit > last:
            known = {remote.name for remote in saved}
            fresh = [r for r in _counted(islice(source, limit), side) if r.name not in known]
            saved = (saved + fresh)[: max(limit, len(saved))]
            space.save_listing(side, saved, limit)
        listings[side] = saved
    return listings


def _archive(name: str, space: Workspace, web: Web) -> dict[str, list[Remote]]:
    """The listings of a published set, downloaded and unpacked unless that has been done."""
    listings = {side: space.listing(side)[0] for side in SIDES}
    if all(listings.values()) and not any(space.missing(side, listings[side]) for side in SIDES):
        return listings
    unpacked = archives.fetch_archive(name, space.hidden, web)
    for side in SIDES:
        folders = [(split, unpacked / f"{split}{side}") for split in SPLITS if (unpacked / f"{split}{side}").is_dir()]
        listings[side] = [
            remote for split, folder in folders for remote in list_folder(folder, ARCHIVE_LICENSE, ARCHIVE_PAGE, split)
        ]
        space.save_listing(side, listings[side], len(listings[side]))
    return listings


def _counted(remotes: Iterable[Remote], side: str) -> Iterable[Remote]:
    return tqdm(remotes, desc=f"listing {side}", unit="picture", disable=None, delay=1)
