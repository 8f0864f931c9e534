"""Flickr as a source: the photographs of a group, with a tag or found by a search, over its REST interface."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any, Literal

from stylekit.collections.sources import Remote, file_name, positive, text
from stylekit.collections.web import Failure, Unreachable, Web

INTERFACE = "https://api.flickr.com/services/rest/"

KINDS = ("tag", "group", "search")

License = Literal["derivatives", "commercial", "any"]

_PER_PAGE = 500
_MOST_RESULTS = 4000
"""Flickr shows no more results of one search; older photographs need another search."""

_SIZES = ("z", "c", "l", "h", "k", "o")
"""Sizes of the copies, from 640 px on the longer side to the original."""

_EXTRAS = ",".join(("license", "owner_name", "date_upload", "media", *(f"url_{size}" for size in _SIZES)))

_Photo = dict[str, Any]


def list_flickr(
    web: Web, kind: str, name: str, limit: int, license: License = "derivatives", size: int | None = None
) -> Iterator[Remote]:
    """Yield photographs on Flickr, the same order every time.

    Args:
        kind: One of `KINDS`: what `name` is.
        name: A tag, the name of a group as in its address (or its id), or words to search for.
        limit: How many are wanted. More than Flickr shows for one search are listed by date, not by interest.
        license: Accepted licenses: those that allow derivatives, those that also allow commercial use, or any.
        size: The copy to take is the smallest whose shorter side has this many pixels; None takes the largest.

    Raises:
        ValueError: There are no such photographs, or FLICKR_API_KEY is missing or wrong.
        OSError: Flickr cannot be reached.
    """
    answer = _call(web, "flickr.photos.licenses.getInfo").get("licenses", {}).get("license", [])
    named = {str(item.get("id")): _license_name(item) for item in answer}
    licenses = {number: name for number, name in named.items() if _accepts(license, name)}
    seen: set[str] = set()
    found = False
    for photo in _group(web, name) if kind == "group" else _search(web, kind, name, licenses, limit):
        number, stated = str(photo.get("id", "")), licenses.get(str(photo.get("license", "")))
        if stated is None or number in seen or photo.get("media", "photo") != "photo":
            continue
        seen.add(number)
        if remote := _remote(photo, stated, size):
            found = True
            yield remote
    if not found:
        what = {"tag": "the tag", "group": "the group", "search": "the search for"}[kind]
        raise ValueError(f"Flickr has no photographs of {what} {name!r} with the licenses of --license {license}")


def _group(web: Web, group: str) -> Iterator[_Photo]:
    if not re.fullmatch(r"\d+@N\d+", group):
        found = _call(web, "flickr.urls.lookupGroup", group, url=f"https://www.flickr.com/groups/{group}/")
        group = text(found.get("group", {}).get("id"))
    yield from _pages(web, "flickr.groups.pools.getPhotos", 10_000, group, group_id=group)


def _search(web: Web, kind: str, name: str, licenses: dict[str, str], limit: int) -> Iterator[_Photo]:
    query = {"tags" if kind == "tag" else "text": name, "license": ",".join(licenses)}
    query |= {"media": "photos", "content_types": "0", "safe_search": "1"}
    method, last = "flickr.photos.search", _MOST_RESULTS // _PER_PAGE
    if limit <= _MOST_RESULTS:
        yield from _pages(web, method, last, sort="interestingness-desc", **query)
        return
    before = ""
    while True:
        oldest = before
        for photo in _pages(web, method, last, sort="date-posted-desc", **query):
            oldest = text(photo.get("dateupload")) or oldest
            yield photo
        if oldest == before:
            return
        query["max_upload_date"] = before = oldest


def _pages(web: Web, method: str, last: int, group: str = "", **params: str) -> Iterator[_Photo]:
    page, pages = 1, 1
    while page <= min(pages, last):
        query = {"per_page": str(_PER_PAGE), "page": str(page), "extras": _EXTRAS, **params}
        answer = _call(web, method, group, **query).get("photos", {})
        pages = positive(answer.get("pages"))
        if not (listed := answer.get("photo") or []):
            return
        yield from (photo for photo in listed if isinstance(photo, dict))
        page += 1


def _call(web: Web, method: str, group: str = "", **params: str) -> dict[str, Any]:
    """Ask Flickr; `group` is named if Flickr does not know it."""
    if not (key := os.environ.get("FLICKR_API_KEY")):
        raise ValueError(
            "Flickr needs a key: set FLICKR_API_KEY to yours, from https://www.flickr.com/services/apps/create"
        )
    query = {"method": method, "api_key": key, "format": "json", "nojsoncallback": "1", **params}
    try:
        answer = web.json(INTERFACE, query, robots=False)
    except Failure as error:
        raise OSError(f"Flickr: {error}") from error
    if not isinstance(answer, dict) or answer.get("stat") not in ("ok", "fail"):
        raise OSError("Flickr: got an answer that is not documented; try again later")
    if answer["stat"] == "ok":
        return answer
    code, message = answer.get("code"), text(answer.get("message"))
    if code == 100:
        raise ValueError("Flickr does not accept the key in FLICKR_API_KEY; check it at flickr.com/services/apps")
    if code in (105, 106):
        raise Unreachable(f"Flickr: {message}; try again later")
    if group and code in (1, 2):
        raise ValueError(
            f"Flickr knows no public group {group!r} ({message}); "
            f"give its name as in https://www.flickr.com/groups/NAME"
        )
    raise ValueError(f"Flickr: {message or 'error'} ({code})")


def _remote(photo: _Photo, license: str, wanted: int | None) -> Remote | None:
    """A photograph as Flickr describes it; None if no copy of it is public."""
    copies = []
    for size in _SIZES:
        if url := text(photo.get(f"url_{size}")):
            width, height = positive(photo.get(f"width_{size}")), positive(photo.get(f"height_{size}"))
            copies.append((min(width, height), width, height, url))
    if not copies:
        return None
    enough = [copy for copy in copies if wanted and copy[0] >= wanted]
    _, width, height, url = min(enough) if enough else max(copies)
    number, owner, title = str(photo.get("id")), text(photo.get("owner")), text(photo.get("title"))
    page = f"https://www.flickr.com/photos/{owner}/{number}" if owner else ""
    author = text(photo.get("ownername")) or owner
    # The address of a copy changes with its size, the number of a photograph never does.
    return Remote(url, file_name(f"{number} {title}", number), title, author, license, page, width, height, True)


def _license_name(item: dict[str, Any]) -> str:
    """Short names of Creative Commons licenses from their address, else Flickr's name."""
    parts = re.search(r"creativecommons\.org/(licenses|publicdomain)/([a-z-]+)/([\d.]+)", text(item.get("url")))
    if not parts:
        return text(item.get("name"))
    if parts[1] == "publicdomain":
        return "CC0 1.0" if parts[2] == "zero" else "Public Domain Mark 1.0"
    return f"CC {parts[2].upper()} {parts[3]}"


def _accepts(wanted: License, name: str) -> bool:
    if wanted == "any":
        return True
    if name.casefold() == "all rights reserved" or not name:
        return False
    terms = name.split()[1].split("-") if name.startswith("CC ") else []
    return "ND" not in terms and (wanted == "derivatives" or "NC" not in terms)
