"""Fetch a data set: list both sides, download, prepare, split; every step can be interrupted and continued."""

from __future__ import annotations

import errno
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tqdm import tqdm

from cyclegan.options import FetchConfig
from stylekit.collections import archives, flickr, wikiart
from stylekit.collections.download import Failed, fetch_pictures
from stylekit.collections.local import Folder
from stylekit.collections.manifest import UNKNOWN, Placed, arrange, finish
from stylekit.collections.prepare import Preparation
from stylekit.collections.records import Remote, Source
from stylekit.collections.web import Web
from stylekit.collections.workspace import SIDES, SPLITS, Workspace, check_folder, check_space, open_workspace

Listings = dict[str, list[Remote]]
"""Pictures by side, A (X) and B (Y)."""

ARCHIVE_LICENSE = "not stated; distributed for research"
ARCHIVE_PAGE = "https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix"

_USUAL_BYTES = 400_000
"""Of a picture whose size is unknown."""

_BYTES_PER_PIXEL = 0.5


@dataclass(frozen=True)
class Result:
    """What became of a data set."""

    output: Path
    counts: dict[str, int]
    """Pictures in each folder."""
    left_out: Counter[str]
    """Pictures that are not used, by reason."""
    failed: list[Failed]
    paintings_in_a: bool
    """A holds paintings and B photographs, as in some published sets."""


def fetch(config: FetchConfig, web: Web | None = None) -> Result:
    """Fetch a data set, or go on with one.

    Args:
        web: Client for all servers; None makes one from the options.

    Raises:
        ValueError: A source does not know what was asked for, or the folder belongs to another data set.
        OSError: No server can be reached, or the disk is full. What has been fetched is kept.
        KeyboardInterrupt: The same.
    """
    web = web or Web(config.rate, config.connections)
    output, steps = config.resolved_output, preparation(config)
    sources = build_sources(config, web)
    paintings = config.name is not None and "paintings" in archives.PUBLISHED[config.name].a
    try:
        with open_workspace(output, request(config)) as space:
            listings = _archive(config, space, web) if config.name else _listings(config, space, sources)
            todo = [(side, remote) for side, remotes in listings.items() for remote in space.missing(side, remotes)]
            check_space(output, sum(estimate(remote, steps.size) for _, remote in todo))
            failed = fetch_pictures(space, todo, web, steps, config.connections)
            placed = arrange(space, listings, config.test_share)
            finish(space, placed, f"Credits of {output.name}")
            if not failed:
                space.clean()
            return Result(output, _count(placed), _left_out(space, listings), failed, paintings)
    except OSError as error:
        # Errors of atomic writes have the system's error as their cause.
        if {error.errno, getattr(error.__cause__, "errno", None)} & {errno.ENOSPC, errno.EDQUOT}:
            raise OSError(f"{output}: the disk is full; free some space and run the same command again") from error
        raise


def plan(config: FetchConfig, web: Web | None = None) -> list[str]:
    """What `fetch` would do, in lines of text; nothing is written. Raises what `fetch` raises."""
    web = web or Web(config.rate, config.connections)
    output = config.resolved_output
    check_folder(output, request(config))
    if config.name:
        published = archives.PUBLISHED[config.name]
        size = f"{published.size / 1e6:.0f} MB" if published.size else "unknown size"
        return [
            f"{config.archive_url}/{config.name}.zip ({size}) -> {output}",
            f"A: {published.a}; B: {published.b}; license: {ARCHIVE_LICENSE}",
        ]
    lines = []
    for side, source in build_sources(config, web).items():
        remotes = list(_counted(source.list(config.limit), side))
        licenses = Counter(remote.license or UNKNOWN for remote in remotes)
        given = config.x if side == "A" else config.y
        megabytes = sum(estimate(remote, None) for remote in remotes) / 1e6
        folders = f"{output / f'train{side}'}, {output / f'test{side}'}"
        lines += [
            f"{given} -> {folders}: {len(remotes)} pictures, about {megabytes:.0f} MB",
            f"  licenses: {', '.join(f'{name} ({count})' for name, count in licenses.most_common())}",
        ]
    return lines


def build_sources(config: FetchConfig, web: Web) -> dict[str, Source]:
    """The sources of the sides that are given; none for a published set.

    Raises:
        ValueError: An unknown name or source, or a missing key.
    """
    if config.name is not None and config.name not in archives.PUBLISHED:
        raise ValueError(f"no published set {config.name!r}; expected one of {', '.join(archives.PUBLISHED)}")
    given = zip(SIDES, (config.x, config.y), strict=True)
    return {side: build_source(text, config, web) for side, text in given if text is not None}


def build_source(given: str, config: FetchConfig, web: Web) -> Source:
    """A source from its text; see `FetchConfig`.

    Raises:
        ValueError: The text names none, or the key is missing.
    """
    site, _, rest = given.partition(":")
    kinds = {"wikiart": ("artist", "style", "genre"), "flickr": ("tag", "group", "search")}
    if site in kinds and rest:
        kind, _, name = rest.partition(":")
        if kind not in kinds[site] or not name:
            kind, name = kinds[site][0], rest
        if site == "wikiart":
            large = config.wikiart_size == "large"
            return wikiart.WikiArt(web, cast(wikiart.Kind, kind), name, config.genre, large, config.wikiart_url)
        key, size = os.environ.get("FLICKR_API_KEY"), preparation(config).size
        return flickr.Flickr(web, cast(flickr.Kind, kind), name, key, config.license, size, config.flickr_url)
    if Path(given).is_dir():
        return Folder(Path(given), license="from your own folder")
    raise ValueError(
        f"{given!r} is neither a folder nor a source; expected flickr:TAG, flickr:group:NAME, flickr:search:WORDS, "
        f"wikiart:ARTIST, wikiart:style:NAME or wikiart:genre:NAME"
    )


def preparation(config: FetchConfig) -> Preparation:
    """The steps of the preparation, with the defaults of published sets or of other sources."""
    published = config.name is not None
    return Preparation(
        size=config.size or (None if published else 512),
        min_size=config.min_size if config.min_size is not None else 0 if published else 256,
        enlarge=config.enlarge,
        crop_frames=config.crop_frames == "on" or (config.crop_frames == "auto" and not published),
    )


def request(config: FetchConfig) -> dict[str, Any]:
    """What decides the content of the folder, except the number of pictures."""
    steps = preparation(config)
    names = ("name", "x", "y", "license", "genre", "wikiart_size", "enlarge", "crop_frames", "test_share")
    return {**{name: getattr(config, name) for name in names}, "size": steps.size, "min_size": steps.min_size}


def estimate(remote: Remote, size: int | None) -> int:
    """Bytes that a picture will take, roughly.

    Args:
        size: Shorter side to which it will be reduced.
    """
    if "://" not in remote.url:
        return Path(remote.url).stat().st_size
    if not remote.width or not remote.height:
        return _USUAL_BYTES
    scale = min(1.0, size / min(remote.width, remote.height)) if size else 1.0
    return int(remote.width * remote.height * scale**2 * _BYTES_PER_PIXEL)


def report(result: Result) -> int:
    """Print what became of a data set; return the exit code, 1 if pictures failed."""
    counts = ", ".join(f"{folder} {count}" for folder, count in result.counts.items())
    print(f"{result.output}: {counts or 'no pictures'}")
    if result.left_out:
        print("left out: " + ", ".join(f"{reason} {count}" for reason, count in result.left_out.items()))
    for failed in result.failed[:20]:
        print(f"cyclegan fetch: {failed.reason}", file=sys.stderr)
    if result.failed:
        more = f" (the first 20 of {len(result.failed)})" if len(result.failed) > 20 else ""
        print(f"failed: {len(result.failed)} pictures{more}; run the same command again to retry", file=sys.stderr)
        return 1
    if not result.counts:
        print("cyclegan fetch: no picture is left; see --min-size and --license", file=sys.stderr)
        return 1
    if result.paintings_in_a:
        print("A holds the paintings: train with --direction BtoA to turn photographs into paintings")
    print(f"next: cyclegan check {result.output}")
    return 0


def _listings(config: FetchConfig, space: Workspace, sources: Mapping[str, Source]) -> Listings:
    """The saved listings, or new ones if there are none or more pictures are wanted than before."""
    listings: Listings = {}
    for side, source in sources.items():
        saved, limit = space.listing(side)
        if config.limit > limit:
            known = {remote.name for remote in saved}
            fresh = [r for r in _counted(source.list(config.limit), side) if r.name not in known]
            saved = (saved + fresh)[: max(config.limit, len(saved))]
            space.save_listing(side, saved, config.limit)
        listings[side] = saved
    return listings


def _archive(config: FetchConfig, space: Workspace, web: Web) -> Listings:
    """The listings of a published set, downloaded and unpacked unless that has been done."""
    assert config.name is not None
    listings = {side: space.listing(side)[0] for side in SIDES}
    if all(listings.values()) and not any(space.missing(side, listings[side]) for side in SIDES):
        return listings
    with tqdm(unit="B", unit_scale=True, desc=config.name, disable=None, delay=1) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total or None
            bar.update(done - bar.n)

        unpacked = archives.fetch_archive(
            config.name, space.hidden, web, config.archive_url.rstrip("/"), config.hub_url, progress
        )
    for side in SIDES:
        listings[side] = []
        for split in SPLITS:
            with suppress(FileNotFoundError):
                folder = Folder(unpacked / f"{split}{side}", True, ARCHIVE_LICENSE, "", ARCHIVE_PAGE, split)
                listings[side] += folder.list(10**9)
        space.save_listing(side, listings[side], len(listings[side]))
    return listings


def _counted(remotes: Iterable[Remote], side: str) -> Iterable[Remote]:
    return tqdm(remotes, desc=f"listing {side}", unit="picture", disable=None, delay=1)


def _count(placed: Sequence[Placed]) -> dict[str, int]:
    return dict(sorted(Counter(item.folder for item in placed).items()))


def _left_out(space: Workspace, listings: Listings) -> Counter[str]:
    """Pictures that are not used, by reason."""
    reasons = (space.left_out(side, remote) for side, remotes in listings.items() for remote in remotes)
    return Counter("too small" if "smaller than" in r else r if r == "copy" else "damaged" for r in reasons if r)
