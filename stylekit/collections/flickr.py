"""Flickr as a source: the photographs of a group, with a tag or found by a search, over its REST interface."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

from stylekit.collections.records import Remote, file_name, positive, text
from stylekit.collections.web import Failure, Unreachable, Web

INTERFACE = "https://api.flickr.com/services/rest/"

Kind = Literal["tag", "group", "search"]
License = Literal["derivatives", "commercial", "any"]

_PER_PAGE = 500
_MOST_RESULTS = 4000
"""Flickr shows no more results of one search; older photographs need another search."""

_SIZES = ("z", "c", "l", "h", "k", "o")
"""Sizes of the copies, from 640 px on the longer side to the original."""

_EXTRAS = ",".join(("license", "owner_name", "date_upload", "media", *(f"url_{size}" for size in _SIZES)))


class Flickr:
    """Photographs on Flickr.

    Args:
        kind: What `name` is.
        name: A tag, the name of a group as in its address (or its id), or words to search for.
        key: Key of the interface.
        license: Accepted licenses: those that allow derivatives, those that also allow commercial use, or any.
        size: The copy to take is the smallest whose shorter side has this many pixels; None takes the largest.
    """

    def __init__(
        self,
        web: Web,
        kind: Kind,
        name: str,
        key: str | None,
        license: License = "derivatives",
        size: int | None = None,
        interface: str = INTERFACE,
    ) -> None:
        if not key:
            raise ValueError(
                "Flickr needs a key: set FLICKR_API_KEY to yours, from https://www.flickr.com/services/apps/create"
            )
        self.web = web
        self.kind = kind
        self.name = name
        self.license = license
        self.size = size
        self.interface = interface
        self._key = key

    def list(self, limit: int) -> Iterator[Remote]:
        """See `Source`."""
        licenses = self._licenses()
        seen: set[str] = set()
        found = 0
        for photo in self._group() if self.kind == "group" else self._search(licenses, limit):
            number = str(photo.get("id", ""))
            license = licenses.get(str(photo.get("license", "")))
            if license is None or number in seen or photo.get("media", "photo") != "photo":
                continue
            seen.add(number)
            if remote := self._remote(photo, license):
                found += 1
                yield remote
                if found == limit:
                    return
        if not found:
            what = {"tag": "the tag", "group": "the group", "search": "the search for"}[self.kind]
            raise ValueError(
                f"Flickr has no photographs of {what} {self.name!r} with the licenses of --license {self.license}"
            )

    def _licenses(self) -> dict[str, str]:
        """Names of the accepted licenses by their number."""
        answer = self._call("flickr.photos.licenses.getInfo")
        licenses = answer.get("licenses", {}).get("license", [])
        named = {str(item.get("id")): _license_name(item) for item in licenses}
        return {number: name for number, name in named.items() if _accepts(self.license, name)}

    def _group(self) -> Iterator[dict[str, Any]]:
        group = self.name
        if not re.fullmatch(r"\d+@N\d+", group):
            found = self._call("flickr.urls.lookupGroup", url=f"https://www.flickr.com/groups/{group}/")
            group = text(found.get("group", {}).get("id"))
        yield from self._pages("flickr.groups.pools.getPhotos", group_id=group)

    def _search(self, licenses: dict[str, str], limit: int) -> Iterator[dict[str, Any]]:
        query = {"tags" if self.kind == "tag" else "text": self.name, "license": ",".join(licenses)}
        query |= {"media": "photos", "content_types": "0", "safe_search": "1"}
        if limit <= _MOST_RESULTS:
            yield from self._pages("flickr.photos.search", sort="interestingness-desc", **query)
            return
        before = ""
        while True:
            oldest = before
            for photo in self._pages("flickr.photos.search", sort="date-posted-desc", **query):
                oldest = text(photo.get("dateupload")) or oldest
                yield photo
            if oldest == before:
                return
            query["max_upload_date"] = before = oldest

    def _pages(self, method: str, **params: str) -> Iterator[dict[str, Any]]:
        page, pages = 1, 1
        last = _MOST_RESULTS // _PER_PAGE if method == "flickr.photos.search" else 10_000
        while page <= min(pages, last):
            answer = self._call(method, per_page=str(_PER_PAGE), page=str(page), extras=_EXTRAS, **params)
            photos = answer.get("photos", {})
            pages = positive(photos.get("pages"))
            listed = photos.get("photo") or []
            if not listed:
                return
            yield from (photo for photo in listed if isinstance(photo, dict))
            page += 1

    def _call(self, method: str, **params: str) -> dict[str, Any]:
        query = {"method": method, "api_key": self._key, "format": "json", "nojsoncallback": "1", **params}
        try:
            answer = self.web.json(self.interface, query, robots=False)
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
        if self.kind == "group" and code in (1, 2):
            raise ValueError(
                f"Flickr knows no public group {self.name!r} ({message}); "
                f"give its name as in https://www.flickr.com/groups/NAME"
            )
        raise ValueError(f"Flickr: {message or 'error'} ({code})")

    def _remote(self, photo: dict[str, Any], license: str) -> Remote | None:
        """A photograph as Flickr describes it; None if no copy of it is public."""
        copies = []
        for size in _SIZES:
            if url := text(photo.get(f"url_{size}")):
                width, height = positive(photo.get(f"width_{size}")), positive(photo.get(f"height_{size}"))
                copies.append((min(width, height), width, height, url))
        if not copies:
            return None
        enough = [copy for copy in copies if self.size and copy[0] >= self.size]
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
