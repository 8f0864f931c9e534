"""WikiArt as a source: the paintings of an artist, a style or a genre, over the site's public JSON pages."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any
from urllib.parse import quote, urljoin

from stylekit.collections.sources import Remote, file_name, positive, text
from stylekit.collections.web import Failure, Web

SITE = "https://www.wikiart.org"

KINDS = ("artist", "style", "genre")


def list_wikiart(web: Web, kind: str, name: str, genre: str | None = None) -> Iterator[Remote]:
    """Yield paintings on WikiArt, the same order every time. The site does not state their licenses in its lists.

    Args:
        kind: One of `KINDS`: what `name` is.
        name: As in the site's addresses, such as vincent-van-gogh, impressionism or landscape.
        genre: Keep only paintings of this genre, which takes one request for each painting; artists only.
    """
    name = name.strip().lower().replace(" ", "-")
    place = f"{SITE}/en/{'' if kind == 'artist' else f'paintings-by-{kind}/'}"
    seen: set[str] = set()
    try:
        pages = f"{place}{quote(name)}{'/mode/all-paintings' if kind == 'artist' else ''}"
        for painting in _of_genre(web, name, genre) if genre else _pages(web, pages):
            if (remote := _remote(painting)) and remote.url not in seen:
                seen.add(remote.url)
                yield remote
    except Failure as error:
        if "answers 404" not in str(error):
            raise OSError(f"WikiArt: {error}") from error
    if not seen:
        raise ValueError(
            f"WikiArt has no paintings of the {kind} {name!r}{f' with the genre {genre}' if genre else ''}; "
            f"give the name as in the site's addresses, {place}NAME"
        )


def _pages(web: Web, address: str) -> Iterator[dict[str, Any]]:
    for page in count(1):
        answer = web.json(address, {"json": 2, "layout": "new", "resultType": "masonry", "page": page})
        paintings = answer.get("Paintings") if isinstance(answer, dict) else None
        if not isinstance(paintings, list) or not paintings:
            return
        yield from (painting for painting in paintings if isinstance(painting, dict))


def _of_genre(web: Web, artist: str, genre: str) -> Iterator[dict[str, Any]]:
    """An artist's paintings whose own page names the genre."""
    answer = web.json(f"{SITE}/en/App/Painting/PaintingsByArtist", {"artistUrl": artist, "json": 2})
    for painting in answer if isinstance(answer, list) else []:
        if isinstance(painting, dict) and positive(painting.get("contentId")):
            details = web.json(f"{SITE}/en/App/Painting/ImageJson/{painting['contentId']}")
            genres = text(details.get("genre") if isinstance(details, dict) else "").casefold().split(",")
            if genre.casefold() in map(str.strip, genres):
                yield {**details, **painting}


def _remote(painting: dict[str, Any]) -> Remote | None:
    """A painting as the site describes it; None if it has no picture."""
    if not (image := text(painting.get("image")).partition("!")[0]):
        return None
    url, author, title = urljoin(f"{SITE}/", image), text(painting.get("artistName")), text(painting.get("title"))
    artist = text(painting.get("artistUrl")).strip("/").rpartition("/")[2]
    page = text(painting.get("paintingUrl"))
    if not page and artist and text(painting.get("url")):
        page = f"/en/{artist}/{text(painting.get('url'))}"
    return Remote(
        url=url,
        name=file_name(f"{author or artist} {title}", url),
        title=title,
        author=author,
        page=urljoin(f"{SITE}/", page) if page else "",
        width=positive(painting.get("width")),
        height=positive(painting.get("height")),
    )
