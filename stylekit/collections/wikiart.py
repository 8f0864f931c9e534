"""WikiArt as a source: the paintings of an artist, a style or a genre, over the site's public JSON pages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal
from urllib.parse import quote, urljoin

from stylekit.collections.records import Remote, file_name, positive, text
from stylekit.collections.web import Failure, Web

SITE = "https://www.wikiart.org"

Kind = Literal["artist", "style", "genre"]


class WikiArt:
    """Paintings on WikiArt. The site does not state their licenses in its lists.

    Args:
        kind: What `name` is.
        name: As in the site's addresses, such as vincent-van-gogh, impressionism or landscape.
        genre: Keep only paintings of this genre, which takes one request for each painting; artists only.
        large: Take the site's reduced copies ("Large") instead of the originals.
    """

    def __init__(
        self, web: Web, kind: Kind, name: str, genre: str | None = None, large: bool = False, site: str = SITE
    ) -> None:
        self.web = web
        self.kind = kind
        self.name = name.strip().lower().replace(" ", "-")
        self.genre = genre
        self.large = large
        self.site = site.rstrip("/")
        if genre and kind != "artist":
            raise ValueError(f"--genre {genre} goes with an artist, such as wikiart:vincent-van-gogh, not a {kind}")

    def list(self, limit: int) -> Iterator[Remote]:
        """See `Source`."""
        paintings = self._of_genre() if self.genre else self._pages()
        seen: set[str] = set()
        for painting in paintings:
            if (remote := self._remote(painting)) and remote.url not in seen:
                seen.add(remote.url)
                yield remote
                if len(seen) == limit:
                    return
        if not seen:
            raise ValueError(self._unknown(f" with the genre {self.genre}" if self.genre else ""))

    def _pages(self) -> Iterator[dict[str, Any]]:
        place = f"{quote(self.name)}/mode/all-paintings"
        if self.kind != "artist":
            place = f"paintings-by-{self.kind}/{quote(self.name)}"
        page = 1
        while True:
            answer = self._json(f"en/{place}", json=2, layout="new", resultType="masonry", page=page)
            paintings = answer.get("Paintings") if isinstance(answer, dict) else None
            if not isinstance(paintings, list) or not paintings:
                return
            yield from (painting for painting in paintings if isinstance(painting, dict))
            page += 1

    def _of_genre(self) -> Iterator[dict[str, Any]]:
        """An artist's paintings whose own page names the genre."""
        answer = self._json("en/App/Painting/PaintingsByArtist", artistUrl=self.name, json=2)
        wanted = text(self.genre).casefold()
        for painting in answer if isinstance(answer, list) else []:
            if isinstance(painting, dict) and positive(painting.get("contentId")):
                details = self._json(f"en/App/Painting/ImageJson/{painting['contentId']}")
                genres = text(details.get("genre") if isinstance(details, dict) else "").casefold().split(",")
                if wanted in map(str.strip, genres):
                    yield {**details, **painting}

    def _json(self, place: str, **params: str | int) -> Any:
        try:
            return self.web.json(f"{self.site}/{place}", params)
        except Failure as error:
            if "answers 404" in str(error):
                raise ValueError(self._unknown("")) from error
            raise OSError(f"WikiArt: {error}") from error

    def _remote(self, painting: dict[str, Any]) -> Remote | None:
        """A painting as the site describes it; None if it has no picture."""
        image = text(painting.get("image")).partition("!")[0]
        if not image:
            return None
        author, title = text(painting.get("artistName")), text(painting.get("title"))
        url = urljoin(f"{self.site}/", image)
        artist = text(painting.get("artistUrl")).strip("/").rpartition("/")[2]
        page = text(painting.get("paintingUrl"))
        if not page and artist and text(painting.get("url")):
            page = f"/en/{artist}/{text(painting.get('url'))}"
        return Remote(
            url=f"{url}!Large.jpg" if self.large else url,
            name=file_name(f"{author or artist} {title}", url),
            title=title,
            author=author,
            page=urljoin(f"{self.site}/", page) if page else "",
            width=0 if self.large else positive(painting.get("width")),
            height=0 if self.large else positive(painting.get("height")),
        )

    def _unknown(self, more: str) -> str:
        place = "en" if self.kind == "artist" else f"en/paintings-by-{self.kind}"
        return (
            f"WikiArt has no paintings of the {self.kind} {self.name!r}{more}; "
            f"give the name as in the site's addresses, {self.site}/{place}/NAME"
        )
