"""Flickr as a source: the photographs of a group, with a tag or found by a search, over its REST interface."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from stylekit.collections.sources import Remote, file_name, positive, text
from stylekit.collections.web import Failure, Web

INTERFACE = "https://api.flickr.com/services/rest/"

KINDS = ("tag", "group", "search")

_PER_PAGE = 500

_SIZES = ("z", "c", "l", "h", "k", "o")  # Sizes of the copies, from 640 px on the longer side to the original.

_EXTRAS = ",".join(("license", "owner_name", "media", *(f"url_{size}" for size in _SIZES)))


def list_flickr(
    web: Web, kind: str, name: str, license: str = "derivatives", size: int | None = None
) -> Iterator[Remote]:
    """Yield photographs on Flickr, the same order every time; Flickr shows 4,000 of a search, 10,000 of a group.

    Args:
        kind: One of `KINDS`: what `name` is.
        name: A tag, the name of a group as in its address (or its id), or words to search for.
        license: Accepted licenses: those that allow derivatives, those that also allow commercial use, or any.
        size: The copy to take is the smallest whose shorter side has this many pixels; None takes the largest.
    """
    answer = _call(web, "flickr.photos.licenses.getInfo").get("licenses", {}).get("license", [])
    named = {str(item.get("id")): _license_name(item) for item in answer}
    licenses = {number: name for number, name in named.items() if _accepts(license, name)}
    if kind == "group":
        photos = _pages(web, "flickr.groups.pools.getPhotos", 10_000, group_id=_group_id(web, name))
    else:
        query = {"tags" if kind == "tag" else "text": name, "license": ",".join(licenses), "media": "photos"}
        query |= {"content_types": "0", "safe_search": "1", "sort": "interestingness-desc"}
        photos = _pages(web, "flickr.photos.search", 4000, **query)
    seen: set[str] = set()
    for photo in photos:
        stated = licenses.get(str(photo.get("license", "")))
        if stated is None or photo.get("media", "photo") != "photo":
            continue
        if (remote := _remote(photo, stated, size)) and remote.name not in seen:
            seen.add(remote.name)
            yield remote
    if not seen:
        what = {"tag": "the tag", "group": "the group", "search": "the search for"}[kind]
        raise ValueError(f"Flickr has no photographs of {what} {name!r} with the licenses of --license {license}")


def _group_id(web: Web, group: str) -> str:
    if re.fullmatch(r"\d+@N\d+", group):
        return group
    found = _call(web, "flickr.urls.lookupGroup", url=f"https://www.flickr.com/groups/{group}/")
    return text(found.get("group", {}).get("id"))


def _pages(web: Web, method: str, most: int, **params: str) -> Iterator[dict[str, Any]]:
    for page in range(1, most // _PER_PAGE + 1):
        query = {"per_page": str(_PER_PAGE), "page": str(page), "extras": _EXTRAS, **params}
        answer = _call(web, method, **query).get("photos", {})
        yield from (photo for photo in answer.get("photo") or [] if isinstance(photo, dict))
        if page >= positive(answer.get("pages")):
            return


def _call(web: Web, method: str, **params: str) -> dict[str, Any]:
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
    if code in (1, 2) and "group" in method.lower():
        group = params.get("url") or params.get("group_id")
        raise ValueError(f"Flickr knows no public group {group} ({message}); give its name as in the site's addresses")
    raise ValueError(f"Flickr: {message or 'error'} ({code}); try again later")


def _remote(photo: dict[str, Any], license: str, wanted: int | None) -> Remote | None:
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


def _accepts(wanted: str, name: str) -> bool:
    if wanted == "any":
        return True
    if name.casefold() == "all rights reserved" or not name:
        return False
    terms = name.split()[1].split("-") if name.startswith("CC ") else []
    return "ND" not in terms and (wanted == "derivatives" or "NC" not in terms)
