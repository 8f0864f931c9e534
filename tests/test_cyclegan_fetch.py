"""Data sets arrive complete over bad connections, with their credits, and nothing is written elsewhere."""

import csv
import errno
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
import zipfile
from pathlib import Path

import pytest
from conftest import exit_code, one_error
from picture_server import PictureServer, encoded, offer_flickr, offer_wikiart, picture
from PIL import Image

from cyclegan import fetch as fetching
from cyclegan.cli import main
from cyclegan.fetch import fetch, plan
from cyclegan.options import FetchConfig
from stylekit.collections import archives, flickr, wikiart, workspace
from stylekit.collections.web import Unreachable, Web


@pytest.fixture
def server(monkeypatch):
    server = PictureServer()
    monkeypatch.setenv("FLICKR_API_KEY", "secret")
    monkeypatch.setattr(wikiart, "SITE", server.url)
    monkeypatch.setattr(flickr, "INTERFACE", f"{server.url}/services/rest/")
    monkeypatch.setattr(archives, "AUTHORS", f"{server.url}/datasets")
    monkeypatch.setattr(archives, "HUB", server.url)
    yield server
    server.shutdown()


def patient_web(attempts=6, rate=None):
    """A client without a limit of its rate, and with short waits."""
    return Web(rate=rate, timeout=10, attempts=attempts, backoff=0.01)


def config(output, **options):
    return FetchConfig(output=output, **{"min_size": 32, "limit": 100, **options})


def both(output, **options):
    return config(output, x="flickr:landscape", y="wikiart:vincent-van-gogh", **options)


def contents(folder):
    """The files of a data set by name, without the journal."""
    files = (path for path in folder.rglob("*") if path.is_file() and ".fetch" not in path.parts)
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def manifest(folder):
    with (folder / "manifest.csv").open(newline="") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def test_two_hundred_pictures_arrive_over_a_faulty_server(server, tmp_path):
    offer_flickr(server, 125)
    offer_wikiart(server, "vincent-van-gogh", 100)
    faults = ["drop", "long", "429", "503", "500", "html", "type", "norange"]
    paths = sorted(server.files)
    for i, path in enumerate(paths[::2]):
        server.faults[path] = [faults[i % len(faults)]]
    server.faults["/en/vincent-van-gogh/mode/all-paintings"] = ["503", "drop"]
    server.faults["/services/rest/"] = ["429"]
    result = fetch(both(tmp_path / "set", test_share=0.2), patient_web())
    # A web page instead of a picture is a failure, which the next run makes good.
    assert {reason.rpartition(": ")[2] for reason in result.failed} == {"got a web page instead of a picture"}
    result = fetch(both(tmp_path / "set", test_share=0.2), patient_web())
    assert not result.failed and sum(result.counts.values()) == 200
    rows, files = manifest(tmp_path / "set"), contents(tmp_path / "set")
    assert set(files) == {*rows, "manifest.csv", "CREDITS.md"}
    assert {folder: sum(name.startswith(folder) for name in rows) for folder in result.counts} == result.counts
    assert 10 < result.counts["testA"] < 30 and 10 < result.counts["testB"] < 30
    sources = {hashlib.sha256(data).hexdigest(): data for data in server.files.values()}
    for name, row in rows.items():
        assert row["sha256"] == files[name] == row["source_sha256"] and row["sha256"] in sources
        assert row["license"] == ("CC BY 2.0" if "A/" in name else "not stated; see the page")
    painting = next(row for row in rows.values() if row["title"] == "Painting 7")
    assert painting["author"] == "Vincent Van Gogh"
    assert painting["page"] == f"{server.url}/en/vincent-van-gogh/painting-7"
    credits = (tmp_path / "set" / "CREDITS.md").read_text()
    assert "| CC BY 2.0 | 100 |" in credits and credits.count("\n* ") == 200
    assert "[Photo 3 \\*](<https://www.flickr.com/photos/3@N01/5003>), Author 3, CC BY 2.0" in credits
    assert all("image-translation/" in agent for agent in server.agents)
    assert "secret" not in (tmp_path / "set" / "manifest.csv").read_text() + credits


def fetch_in_child(options):
    fetch(options, patient_web(rate=100))  # Slow enough to be killed on its way even if this process has to wait.


def test_a_download_that_is_killed_again_and_again_ends_the_same(server, tmp_path):
    offer_flickr(server, 40)
    offer_wikiart(server, "vincent-van-gogh", 40)
    whole, killed = tmp_path / "whole" / "set", tmp_path / "killed" / "set"
    fetch(both(whole), patient_web())
    context = multiprocessing.get_context("fork")
    done = 0
    for _ in range(3):
        child = context.Process(target=fetch_in_child, args=(both(killed),))
        child.start()
        journal = killed / ".fetch" / "journal.jsonl"
        deadline = time.monotonic() + 60
        while child.is_alive() and time.monotonic() < deadline:
            lines = journal.read_text().count("\n") if journal.exists() else 0
            if lines > done + 10:
                break
            time.sleep(0.002)
        done = lines
        time.sleep(random.random() * 0.02)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    assert 0 < done < 72
    with journal.open("a") as file:  # A crash of the machine may cut a line off.
        file.write('\n{"side": "A", "spl')
    before = sum(server.requests.values())
    result = fetch(both(killed), patient_web())
    assert contents(killed) == contents(whole)
    assert sum(result.counts.values()) == 72
    # What was there was not fetched again; robots.txt and the licenses are asked for by every run.
    assert sum(server.requests.values()) - before <= 72 - done + 4
    assert not list(killed.rglob("*.part"))


def test_more_pictures_leave_the_others_where_they_are(server, tmp_path):
    offer_flickr(server, 50)
    first = fetch(config(tmp_path / "set", x="flickr:sea", limit=20, test_share=0.3), patient_web())
    old = contents(tmp_path / "set")
    second = fetch(config(tmp_path / "set", x="flickr:sea", limit=40, test_share=0.3), patient_web())
    new = contents(tmp_path / "set")
    assert sum(first.counts.values()) == 20 and sum(second.counts.values()) == 40
    assert {name for name in old if name.startswith("t")} < {name for name in new if name.startswith("t")}
    # The same again asks for nothing.
    before = sum(server.requests.values())
    assert fetch(config(tmp_path / "set", x="flickr:sea", limit=40, test_share=0.3), patient_web()) == second
    assert sum(server.requests.values()) == before and contents(tmp_path / "set") == new


def test_a_folder_of_an_older_version_is_continued(server, tmp_path):
    offer_flickr(server, 20)
    options = config(tmp_path / "set", x="flickr:sea")
    whole = fetch(options, patient_web())
    # Licenses had another spelling, and requests more keys.
    for path in (*tmp_path.glob("set/.fetch/*.json"), tmp_path / "set" / "manifest.csv"):
        text = path.read_text().replace('"license"', '"licence"').replace(",license,", ",licence,")
        path.write_text(text.replace('"genre": null', '"genre": null, "wikiart_size": "original"'))
    next(tmp_path.glob("set/trainA/*")).unlink()
    asked = sum(server.requests.values())
    assert fetch(options, patient_web()) == whole and sum(server.requests.values()) == asked + 1
    request = tmp_path / "set" / ".fetch" / "request.json"
    request.write_text(request.read_text().replace('"enlarge": false', '"enlarge": true'))
    with pytest.raises(ValueError, match="was fetched with enlarge True, not False"):
        fetch(options, patient_web())


def test_pictures_are_prepared(server, tmp_path):
    framed = Image.new("RGB", (120, 100), "white")
    framed.paste(picture(1, 80, 60), (20, 20))
    turned = Image.Exif()
    turned[274] = 6
    mine = tmp_path / "mine"
    (mine / "deep").mkdir(parents=True)
    framed.save(mine / "framed.png")
    picture(2, 200, 100).save(mine / "large.jpg")
    picture(3, 30, 20).save(mine / "small.jpg")
    picture(4, 80, 60).save(mine / "kept.png")
    picture(5, 60, 90).save(mine / "turned.jpg", exif=turned)
    picture(6, 60, 90).convert("CMYK").save(mine / "cmyk.jpg")
    shutil.copy(mine / "large.jpg", mine / "deep" / "copy.jpg")
    (mine / "broken.jpg").write_bytes((mine / "large.jpg").read_bytes()[:300])
    # The same at another size and quality: a near-duplicate goes where the other one goes.
    for i in range(20):
        picture(100 + i, 80, 60).save(mine / f"a{i}.png")
        picture(100 + i, 80, 60).resize((90, 68)).save(mine / f"b{i}.jpg", quality=70)
    result = fetch(config(tmp_path / "set", x=str(mine), size=60, test_share=0.5), patient_web())
    rows = {row["title"]: row for row in manifest(tmp_path / "set").values()}
    assert result.left_out == {"too small": 1, "damaged": 1, "copy": 1}
    assert rows["framed"]["preparation"] == "frame cropped to 20 20 100 80"
    assert "large" not in rows and rows["copy"]["preparation"] == "reduced to 120 x 60"
    assert rows["kept"]["preparation"] == "" and rows["kept"]["sha256"] == rows["kept"]["source_sha256"]
    assert (rows["turned"]["width"], rows["turned"]["preparation"]) == ("90", "converted to sRGB")
    with Image.open(tmp_path / "set" / rows["cmyk"]["file"]) as image:
        assert image.mode == "RGB"
    pairs = [(rows[f"a{i}"]["file"][:5], rows[f"b{i}"]["file"][:5]) for i in range(20)]
    assert {a == b for a, b in pairs} == {True} and {a for a, _ in pairs} == {"train", "testA"}
    assert not [path for path in (mine).rglob("*") if path.suffix == ".part"]


def zipped(members):
    path = Path("set.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path.read_bytes()


@pytest.fixture
def published(server, tmp_path, monkeypatch):
    """The set `tiny`, published on the server."""
    monkeypatch.chdir(tmp_path)
    members = {f"tiny/{folder}/{folder} {i}.jpg": encoded(picture(i)) for folder in archives.FOLDERS for i in range(3)}
    members |= {
        "tiny/trainA/same.jpg": encoded(picture(0)),
        "__MACOSX/tiny/trainA/._1.jpg": b"x",
        "tiny/readme.txt": b"x",
        "tiny/trainA/.hidden.jpg": b"x",
    }
    server.files["/datasets/tiny.zip"] = data = zipped(members)
    monkeypatch.setitem(archives.PUBLISHED, "tiny", (len(data), hashlib.sha256(data).hexdigest()))
    return members


def test_a_published_set_is_continued_where_the_connection_broke(server, published, tmp_path, capsys):
    server.faults["/datasets/tiny.zip"] = ["drop", "drop", "503", "norange"]
    assert fetching.report(fetch(config(None, name="tiny", min_size=0, limit=1000), patient_web())) == 0
    starts = [int(text[6:-1]) for text in server.ranges]
    assert len(starts) == 2 and 0 < starts[0] < starts[1]
    out = capsys.readouterr().out
    assert "datasets/tiny: testA 3, testB 3, trainA 4, trainB 3" in out and "next: cyclegan check" in out
    for name, data in published.items():
        path = tmp_path / "datasets" / name
        assert path.exists() == ("train" in name or "test" in name) * ("/." not in name)
        assert not path.exists() or path.read_bytes() == data
    assert sorted(path.name for path in (tmp_path / "datasets/tiny").iterdir()) == sorted(
        [".fetch", "CREDITS.md", "manifest.csv", *archives.FOLDERS]
    )


def test_a_published_set_with_a_wrong_checksum_comes_from_the_mirror(server, published, tmp_path, capsys):
    import pyarrow
    import pyarrow.parquet

    server.files["/datasets/tiny.zip"] = server.files["/datasets/tiny.zip"][:-1] + b"!"
    paths = []
    for split in ("train", "test"):
        cells = {
            side: [{"bytes": encoded(picture(i % 2)), "path": f"{split}{side}{i % 2}.jpg"} for i in range(4)]
            for side in "AB"
        }
        table = pyarrow.table({"imageA": cells["A"], "imageB": cells["B"]})
        pyarrow.parquet.write_table(table, f"{split}.parquet")
        paths.append(f"data/{split}-00000-of-00001.parquet")
        server.files[f"/datasets/huggan/tiny/resolve/main/{paths[-1]}"] = Path(f"{split}.parquet").read_bytes()
    tree = [{"type": "file", "path": path, "size": 1, "oid": "a" * 40} for path in ("README.md", *paths)]
    server.answers["/api/datasets/huggan/tiny/tree/main"] = lambda query: tree
    result = fetch(config(None, name="tiny", min_size=0, limit=1000), patient_web())
    assert result.counts == {"testA": 2, "testB": 2, "trainA": 2, "trainB": 2}
    assert "SHA-256" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("trainA/huge.jpg", "20,000 bytes"),
        ("trainA/broken.jpg", "damaged"),
        ("elsewhere/x.jpg", "no pictures in trainA"),
    ],
)
def test_a_malicious_archive_is_refused_whole(name, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(archives, "_LARGEST_MEMBER", 10_000)
    member = zipfile.ZipInfo()
    member.filename = name
    with zipfile.ZipFile("set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("elsewhere/fine.jpg" if said.startswith("no pictures") else "trainA/fine.jpg", b"fine")
        archive.writestr(member, bytes(20_000) if "huge" in name else b"payload", zipfile.ZIP_DEFLATED)
    if said == "damaged":
        data = Path("set.zip").read_bytes()
        Path("set.zip").write_bytes(data.replace(b"payload", b"another") if b"payload" in data else data[:-30])
    with pytest.raises(ValueError, match=said):
        archives.unpack(Path("set.zip"), tmp_path / "out" / "inner")


def test_an_archive_writes_nothing_outside_its_folder(tmp_path):
    names = ("trainA/../../x.jpg", "../trainA/x.jpg", "/etc/trainA/x.jpg", "..\\trainA\\x.jpg", "trainA/..\\..\\x.jpg")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("trainA/fine.jpg", b"fine")
        for name in names:
            member = zipfile.ZipInfo()
            member.filename = name  # The constructor would change backslashes.
            archive.writestr(member, b"payload")
        link = zipfile.ZipInfo("trainA/link.jpg")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    folder = tmp_path / "out" / "inner"
    archives.unpack(tmp_path / "set.zip", folder)
    written = [path for path in tmp_path.rglob("*") if path.name != "set.zip" and not path.is_dir()]
    assert folder / "trainA" / "fine.jpg" in written
    assert {path.parent for path in written} == {folder / "trainA"} and not any(path.is_symlink() for path in written)


def test_dry_run_writes_nothing(server, tmp_path, capsys):
    offer_flickr(server, 50)
    flags = ["--x", "flickr:group:landscapes", "-o", tmp_path / "set", "--dry-run", "--limit", 30, "--rate", 1000]
    assert exit_code(main, "fetch", *flags) == 0
    out = capsys.readouterr().out
    assert "30 pictures" in out and "CC BY 2.0 (30)" in out and not (tmp_path / "set").exists()
    lines = plan(FetchConfig("vangogh2photo", output=tmp_path / "set"))
    assert lines[0].endswith("vangogh2photo.zip: 307 MB") and not (tmp_path / "set").exists()


MISTAKES = [
    (["vangogh2foto"], "no published set 'vangogh2foto'; expected one of vangogh2photo, monet2photo"),
    (["--x", "flikr:sea", "-o", "set"], "neither a folder nor a source; expected flickr:TAG"),
    (
        ["--x", "flickr:group:nowhere", "-o", "set"],
        "Flickr knows no public group https://www.flickr.com/groups/nowhere/ (Group not found)",
    ),
    (["--y", "wikiart:nobody", "-o", "set"], "WikiArt has no paintings of the artist 'nobody'"),
    (["--y", "wikiart:style:x", "--genre", "y", "-o", "set"], "--genre y goes with an artist"),
    (["--y", "wikiart:page", "-o", "set"], "got a web page that is not JSON; try again later"),
    (["--y", "wikiart:vincent", "-o", "full"], "full holds something else; choose another --output"),
    (["--y", "wikiart:vincent", "-o", "file"], "file is not a folder"),
    (["--y", "wikiart:vincent", "-o", "linked"], "linked/trainA is a link; nothing is written outside linked"),
]


@pytest.mark.parametrize(("flags", "said"), MISTAKES, ids=[said[:30] for _, said in MISTAKES])
def test_a_mistake_gets_one_helpful_line(flags, said, server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    offer_flickr(server, 1)
    server.answers["/en/nobody/mode/all-paintings"] = lambda query: {"Paintings": None, "AllPaintingsCount": 0}
    server.files["/en/page/mode/all-paintings"] = b"<html>Sign in</html>"
    Path("full").mkdir()
    Path("full/thesis.txt").write_text("mine")
    Path("file").write_text("mine")
    Path("linked").mkdir()
    Path("linked/trainA").symlink_to(tmp_path)
    before = sorted(path for path in tmp_path.rglob("*"))
    assert exit_code(main, "fetch", *flags, "--rate", 1000) == 2
    assert said in one_error(capsys, "cyclegan")
    assert [path for path in sorted(tmp_path.rglob("*")) if path not in before and ".fetch" not in path.parts] in (
        [],
        [tmp_path / "set"],
    )


@pytest.mark.parametrize(
    ("key", "said"), [("wrong", "does not accept the key in FLICKR_API_KEY;"), ("", "set FLICKR_API_KEY to yours")]
)
def test_a_missing_or_wrong_key_is_explained(key, said, server, tmp_path, monkeypatch, capsys):
    offer_flickr(server, 1)
    monkeypatch.setenv("FLICKR_API_KEY", key)
    assert exit_code(main, "fetch", "--x", "flickr:sea", "-o", tmp_path / "set") == 2
    assert said in (error := one_error(capsys, "cyclegan")) and "wrong" not in error


def test_pictures_on_a_silent_server_end_the_run(server, tmp_path, monkeypatch):
    offer_flickr(server, 10)
    listing = server.answers["/services/rest/"]
    there, silent = server.url, "http://127.0.0.1:9"
    server.answers["/services/rest/"] = lambda query: json.loads(json.dumps(listing(query)).replace(there, silent))
    with pytest.raises(Unreachable, match=r"^http://127.0.0.1:9/.*: no connection \(.*\), 1 times; check the network$"):
        fetch(config(tmp_path / "set", x="flickr:sea"), patient_web(attempts=1))


def test_a_full_disk_ends_the_run_and_keeps_what_is_there(server, tmp_path, monkeypatch):
    offer_flickr(server, 10)
    options = config(tmp_path / "set", x="flickr:sea")
    original, written, journal = Web.file, [], tmp_path / "set" / ".fetch" / "journal.jsonl"

    def full(self, url, path, *args, **keywords):
        written.append(path)
        if len(written) > 4:
            while not journal.exists() or journal.read_text().count("\n") < 3:
                time.sleep(0.01)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return original(self, url, path, *args, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(Web, "file", full)
        with pytest.raises(OSError, match="the disk is full; free some space and run the same command again"):
            fetch(options, patient_web())
    before, done = server.requests.copy(), journal.read_text().count("\n")
    assert sum(fetch(options, patient_web()).counts.values()) == 8
    assert sum((server.requests - before)[path] for path in server.files) == 8 - done


def test_a_published_set_that_does_not_fit_on_the_disk_is_not_begun(server, published, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(OSError, match="needs about 0 MB, and 0 MB are free"):
        fetch(config(None, name="tiny", limit=1000), patient_web())
    assert not server.requests


def test_another_request_or_program_in_the_same_folder_is_refused(server, tmp_path):
    offer_flickr(server, 10)
    fetch(config(tmp_path / "set", x="flickr:sea"), patient_web())
    with pytest.raises(ValueError, match="was fetched with x flickr:sea, not flickr:mountain; choose another"):
        fetch(config(tmp_path / "set", x="flickr:mountain"), patient_web())
    options = config(tmp_path / "set", x="flickr:sea")
    with (
        workspace.open_workspace(tmp_path / "set", fetching.request(options)),
        pytest.raises(FileExistsError, match="another program is fetching"),
    ):
        fetch(options, patient_web())


def test_a_redirect_that_never_ends_and_a_missing_picture_are_failures_with_a_reason(server, tmp_path, capsys):
    offer_flickr(server, 10)
    paths = sorted(server.files)
    server.faults[paths[0]] = ["redirect"] * 99
    del server.files[paths[1]]
    result = fetch(config(tmp_path / "set", x="flickr:sea"), patient_web())
    assert sorted(reason.removeprefix(server.url) for reason in result.failed) == [
        "/65535/5000_abc_l.jpg: redirected in a circle",
        "/65535/5001_abc_l.jpg: the server answers 404 Not Found",
    ]
    assert fetching.report(result) == 1
    assert "failed: 2 pictures; run the same command again to retry" in capsys.readouterr().err


def test_nothing_left_is_no_success(server, tmp_path, capsys):
    offer_flickr(server, 3)
    result = fetch(config(tmp_path / "set", x="flickr:sea", min_size=100), patient_web())
    assert result.left_out == {"too small": 3} and fetching.report(result) == 1
    assert "no picture is left; see --min-size" in capsys.readouterr().err
