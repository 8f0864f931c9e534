"""WikiArt and Flickr are read in the shapes that they document, and survive what they do not."""

from itertools import islice

import pytest
from picture_server import LICENSES

from stylekit.collections.flickr import list_flickr
from stylekit.collections.sources import file_name
from stylekit.collections.wikiart import list_wikiart


class Answers:
    """Answers instead of a web: a function of the address without its site, and the query."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = []

    def json(self, url, params=None, robots=True):
        self.asked.append((url, params or {}))
        return self.answer(url.split("/", 3)[3], params or {})


def painting(i, **changes):
    common = {"id": f"{i:024x}", "title": f"Painting {i}", "year": "1889", "width": 800, "height": 600}
    common |= {"artistName": "A. Painter", "image": f"https://uploads1.wikiart.org/images/a/p{i}.jpg!Large.jpg"}
    return {**common, "paintingUrl": f"/en/a-painter/p{i}", "artistUrl": "/en/a-painter", **changes}


def test_wikiart_is_read_page_by_page_until_the_limit():
    web = Answers(lambda path, query: {"Paintings": [painting(60 * query["page"] + i) for i in range(60)]})
    found = list(islice(list_wikiart(web, "style", "Post Impressionism"), 130))
    assert len(found) == 130 and [query["page"] for _, query in web.asked] == [1, 2, 3]
    assert web.asked[0][0] == "https://www.wikiart.org/en/paintings-by-style/post-impressionism"
    first = found[0]
    assert first.url == "https://uploads1.wikiart.org/images/a/p60.jpg" and (first.width, first.height) == (800, 600)
    assert first.page == "https://www.wikiart.org/en/a-painter/p60" and first.author == "A. Painter"
    assert first.name.startswith("a-painter-painting-60-") and len({remote.name for remote in found}) == 130


def test_wikiart_survives_missing_fields_and_repeated_paintings():
    odd = [painting(1), painting(1), painting(2, image=None), "nonsense", None, {"image": "/images/x.jpg"}]
    odd += [painting(3, title=None, width="?", height=-5, artistName=7, paintingUrl=None)]
    web = Answers(lambda path, query: {"Paintings": odd if query["page"] == 1 else None})
    found = list(islice(list_wikiart(web, "artist", "a-painter"), 100))
    assert [remote.url.rpartition("/")[2] for remote in found] == ["p1.jpg", "x.jpg", "p3.jpg"]
    assert (found[2].title, found[2].author, found[2].width, found[2].page) == ("", "", 0, "")


def test_wikiart_keeps_one_genre_of_an_artist():
    def answer(path, query):
        if path == "en/App/Painting/PaintingsByArtist":
            assert query == {"artistUrl": "a-painter", "json": 2}
            return [{"contentId": i, **painting(i)} for i in range(1, 7)] + [{"contentId": None}, 3]
        number = int(path.rpartition("/")[2])
        return {"genre": ("landscape", "portrait", None, "Landscape, marina")[number % 4], "url": "x"}

    found = list(islice(list_wikiart(Answers(answer), "artist", "a-painter", genre="landscape"), 10))
    assert [remote.title for remote in found] == ["Painting 3", "Painting 4"]
    with pytest.raises(ValueError, match="no paintings of the artist 'a-painter' with the genre marine"):
        list(islice(list_wikiart(Answers(answer), "artist", "a-painter", genre="marine"), 10))


def photo(i, **changes):
    common = {
        "id": str(i),
        "owner": "1@N01",
        "ownername": "Ann",
        "title": f"Photo {i}",
        "license": "4",
        "media": "photo",
    }
    sizes = {"url_z": f"https://live/{i}_z.jpg", "width_z": 640, "height_z": 427}
    sizes |= {"url_l": f"https://live/{i}_l.jpg", "width_l": "1024", "height_l": "683"}
    sizes |= {"url_o": f"https://live/{i}_o.jpg", "width_o": 6000, "height_o": 4000}
    return {**common, **sizes, **changes}


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("FLICKR_API_KEY", "key")


def flickr(web, kind="tag", name="sea", limit=50, **options):
    return list(islice(list_flickr(web, kind, name, **options), limit))


def answers(pages):
    """A web with the licenses, and the photographs that `pages` makes of a query."""

    def answer(path, query):
        assert query["api_key"] == "key" and query["format"] == "json" and query["nojsoncallback"] == "1"
        if query["method"] == "flickr.photos.licenses.getInfo":
            return {"licenses": {"license": LICENSES}, "stat": "ok"}
        return {"photos": pages(query), "stat": "ok"}

    return Answers(answer)


@pytest.mark.parametrize(("size", "copy"), [(400, "z"), (512, "l"), (1000, "o"), (None, "o"), (9000, "o")])
def test_flickr_gives_the_smallest_copy_that_is_large_enough(size, copy):
    web = answers(lambda query: {"page": 1, "pages": 1, "photo": [photo(1)]})
    (found,) = flickr(web, size=size)
    assert found.url == f"https://live/1_{copy}.jpg" and found.keyed
    assert (found.author, found.license, found.page) == ("Ann", "CC BY 2.0", "https://www.flickr.com/photos/1@N01/1")
    assert found.name == file_name("1 Photo 1", "1")


@pytest.mark.parametrize(
    ("license", "kept"), [("derivatives", "2 4 7 9"), ("commercial", "4 7 9"), ("any", "0 2 4 6 7 9")]
)
def test_flickr_filters_licenses_also_in_groups(license, kept):
    photos = [photo(i, license=entry["id"]) for i, entry in enumerate(LICENSES)] + [photo(50, license="99")]
    web = answers(lambda query: {"page": 1, "pages": 1, "photo": photos})
    found = flickr(web, "group", "11@N00", license=license)
    assert " ".join(LICENSES[int(remote.title.split()[1])]["id"] for remote in found) == kept
    flickr_search = answers(lambda query: {"page": 1, "pages": 1, "photo": [photo(1)]})
    flickr(flickr_search, license=license)
    assert flickr_search.asked[1][1]["license"] == kept.replace(" ", ",")


def test_flickr_survives_missing_fields_videos_and_deleted_photographs():
    odd = [photo(1), photo(1), photo(2, media="video"), {"id": "3"}, "nonsense", photo(4, title=None, ownername=None)]
    bare = {"id": "5", "license": "4", "url_z": "https://live/5_z.jpg"}
    web = answers(lambda query: {"page": 1, "pages": "1", "photo": [*odd, bare]})
    found = flickr(web)
    assert [remote.url for remote in found] == ["https://live/1_o.jpg", "https://live/4_o.jpg", "https://live/5_z.jpg"]
    assert (found[1].title, found[1].author, found[2].page) == ("", "1@N01", "")


def test_flickr_is_read_page_by_page_as_far_as_it_shows_a_search():
    web = answers(lambda query: {"pages": 18, "photo": [photo(500 * int(query["page"]) + i) for i in range(500)]})
    found = flickr(web, limit=9000)
    assert len({remote.name for remote in found}) == 4000
    assert [query["page"] for _, query in web.asked[1:]] == list("12345678")


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        ({"stat": "fail", "code": 100, "message": "Invalid API Key"}, ValueError, "does not accept the key"),
        (
            {"stat": "fail", "code": 105, "message": "Service currently unavailable"},
            ValueError,
            "unavailable .*; try again later",
        ),
        (["nonsense"], OSError, "not documented"),
        ({"stat": "ok"}, ValueError, "no photographs of the tag 'sea' with the licenses of --license derivatives"),
    ],
)
def test_errors_of_flickr_are_explained(answer, error, said):
    with pytest.raises(error, match=said):
        flickr(Answers(lambda path, query: answer))


def test_file_names_are_plain():
    assert file_name("Café ../../etc/passwd\0 <b>", "u").startswith("cafe-etc-passwd-b-")
    assert file_name("星月夜", "u") == file_name("", "u") and len(file_name("x" * 500, "u")) == 89
