"""The web page: what it refuses, and a session of two visitors in a headless browser."""

import importlib.util
import os
import pydoc
import re
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from conftest import exit_code, one_error
from PIL import Image, ImageChops

import app

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = [name for name in ("gradio", "playwright") if importlib.util.find_spec(name) is None]
MISSING += [] if CHROMIUM else ["chromium"]
TIMEOUT = 120_000
"""Milliseconds; the machine may be busy."""


@pytest.fixture
def port():
    """A port that another program listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def test_a_taken_port_gives_one_line(port, capsys):
    assert exit_code(app.main, "--port", port) == 2
    assert f"cannot listen on 127.0.0.1:{port} (Address already in use)" in one_error(capsys, "app.py")


def test_without_gradio_one_line_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setattr(app.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(app, "check_free", lambda host, port: None)
    assert exit_code(app.main) == 2
    assert "pip install '.[app]'" in one_error(capsys, "app.py")


def test_errors_name_the_file_and_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(app, "MAX_PIXELS", 10**6)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    Image.new("RGB", (1001, 1000)).save(tmp_path / "large.png")
    with (tmp_path / "large.png").open("r+") as file:  # The size is checked before pixels are missed.
        file.truncate(100)
    cases = {
        "broken.jpg": r"^broken.jpg: not a supported picture: its content is not ",
        "large.png": r"^large.png: expected at most 1 million pixels and 65,535 per side \(got 1001 x 1000\)$",
        "gone.png": "^The photograph has been deleted after 30 minutes; drop it again.$",
    }
    for name, message in cases.items():
        with pytest.raises(ValueError, match=message):
            app.load_photograph({"path": str(tmp_path / name)}, tmp_path)
    with pytest.raises(ValueError, match="Drop a photograph first"):
        app.load_photograph(None, tmp_path)


@pytest.mark.parametrize("step", ["stylekit.pictures.images.load", "johnson.stylize.stylize"])
def test_one_photograph_at_a_time_takes_memory(tmp_path, pictures, monkeypatch, step):
    pictures[0].save(tmp_path / "photo.png")
    original, alone = pydoc.locate(step), threading.Lock()

    def checked(*args, **options):
        assert alone.acquire(blocking=False)
        time.sleep(0.05)
        alone.release()
        return original(*args, **options)

    monkeypatch.setattr(step, checked)

    def visit(_):
        paint(app.load_photograph({"path": str(tmp_path / "photo.png")}, tmp_path), "Johnson", "starry-night")

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(visit, range(3)))


def test_a_request_cannot_read_other_files_of_the_server(tmp_path, pictures):
    (uploads := tmp_path / "uploads").mkdir()
    pictures[0].save(tmp_path / "private.png")
    (uploads / "link.png").symlink_to(tmp_path / "private.png")
    paths = tmp_path / "private.png", uploads / "../private.png", uploads / "link.png", uploads, None
    for photo in (*({"path": path} for path in paths), str(tmp_path / "private.png"), [1]):
        with pytest.raises(ValueError, match="has not been uploaded"):
            app.load_photograph(photo, uploads)


def test_old_files_and_folders_are_deleted_but_examples_stay(tmp_path):
    for name in ("example/cat.png", "upload/photo.png", "broken-off", "new/photo.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for path in tmp_path.rglob("*"):
        age = 60 * (app.MINUTES - 1 if "new" in path.parts else app.MINUTES + 1)
        os.utime(path, (time.time() - age,) * 2)
    app.delete_old(tmp_path, {tmp_path / "example", tmp_path / "example/cat.png"})
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    # Losing its file has made the folder new.
    assert left == {"example", "example/cat.png", "new", "new/photo.png", "upload"}
    os.utime(tmp_path / "upload", (0, 0))
    app.delete_old(tmp_path, {tmp_path / "example"})
    assert not (tmp_path / "upload").exists()


def paint(photograph, method, style, size=256, look=(100, False, 1), end=None):
    return list(app.paint(photograph, method, style, size, look, "cpu", end or threading.Event()))


@pytest.mark.parametrize("style", ["/etc", "user/model", "no-style", None, [1]])
def test_only_bundled_styles_can_be_asked_for(pictures, style):
    for method in (*app.METHODS, "no-method", None, [1]):
        with pytest.raises(ValueError, match=f"has no style {re.escape(str(style))}"):
            paint(pictures[0], method, style)


def test_numbers_stay_in_the_ranges_of_the_sliders(pictures, monkeypatch):
    seen = []
    monkeypatch.setattr("johnson.stylize.stylize", lambda image, network, **look: seen.append(look) or image)
    for given in (-1e9, float("nan"), 10**400):
        paint(pictures[0], "Johnson", "starry-night", look=(given, False, given))
    assert [(look["strength"], look["stroke_size"]) for look in seen] == [(0, 0.5), (1, 3), (1, 3)]
    for look in (("100", False, 1), (100, False, None), ([100], False, 1)):
        with pytest.raises(ValueError, match="Expected a number from"):
            paint(pictures[0], "Johnson", "starry-night", look=look)


def test_strokes_grow_with_the_photograph(pictures, monkeypatch):
    seen = []
    monkeypatch.setattr("johnson.stylize.stylize", lambda image, network, **look: seen.append(look) or image)
    monkeypatch.setattr(app, "BASE", 24)
    for image in (pictures[0].resize((20, 10)), pictures[0], pictures[0].resize((960, 4))):
        paint(image, "Johnson", "starry-night")
    assert [look["stroke_size"] for look in seen] == [1, 2, 8]


def test_gatys_ends_at_once_when_it_is_told_to(pictures):
    end = threading.Event()
    end.set()
    painted = paint(pictures[0], "Gatys", "starry-night", end=end)
    assert len(painted) <= 2 and painted[-1][1].size == (48, 48)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Where the page is served."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = str(tmp_path_factory.mktemp("visitors"))
    page = app.serve("127.0.0.1", port, "cpu", folder, hosts=["Paint.example"], wait=False)
    yield f"http://127.0.0.1:{port}"
    page.close()


@pytest.mark.skipif("gradio" in MISSING, reason="needs gradio")
def test_the_page_answers_to_its_own_names_only(address):
    def status(host):
        connection = HTTPConnection(urlsplit(address).netloc, timeout=TIMEOUT / 1000)
        connection.request("GET", "/config", headers={"Host": host})
        return connection.getresponse().status

    for host in (urlsplit(address).netloc, "localhost", "LOCALHOST:80", "[::1]:80", "192.0.2.1", "paint.example"):
        assert status(host) == 200, host
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "x@evil.example", "[", ""):
        assert status(host) == 400, host


@pytest.fixture
def visitors():
    """Opens pages that share downloaded scripts, though Gradio takes each for another visitor."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]).new_context()


def visit(visitors, address, width, requests):
    page = visitors.new_page()
    page.set_viewport_size({"width": width, "height": 800})
    page.set_default_timeout(TIMEOUT)
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    page.get_by_role("button", name="Paint", exact=True).wait_for()
    return page


def upload(page, path):
    page.locator("input[type=file]").first.set_input_files(path)


@pytest.mark.skipif(bool(MISSING), reason=f"needs {' and '.join(MISSING)}")
def test_two_visitors_paint_at_once(address, visitors, pictures, tmp_path):
    requests: list[str] = []
    wide, narrow = (visit(visitors, address, width, requests) for width in (1200, 390))

    (tmp_path / "broken.png").write_bytes(b"no picture")
    upload(wide, tmp_path / "broken.png")
    wide.get_by_text("broken.png: not a supported picture").wait_for()

    narrow.get_by_text("Gatys", exact=True).click()
    narrow.get_by_label("256").wait_for()
    # Large enough for Gatys not to end before it can be stopped.
    sent = ((wide, pictures[0]), (narrow, pictures[6].resize((200, 200))))
    for page, photograph in sent:
        photograph.save(tmp_path / "photo.png")
        upload(page, tmp_path / "photo.png")
        page.get_by_label("Remove Image").wait_for()
    for page in (wide, narrow):
        page.get_by_role("button", name="Paint", exact=True).click()
    narrow.get_by_role("button", name="Stop here").click()

    for page, photograph in sent:
        page.get_by_text("{} x {} pixels".format(*photograph.size)).wait_for()
        assert page.locator("#result img").count() == 2
        for name, suffix in (("JPEG", "jpg"), ("PNG", "png")):
            with page.expect_download() as download:
                page.get_by_role("button", name=f"Download {name}").click()
            assert download.value.suggested_filename.endswith(f".{suffix}")
            painting = Image.open(Path(download.value.path()))
            assert (painting.format, painting.size) == (name, photograph.size)
            assert ImageChops.difference(painting.convert("RGB"), photograph).getbbox()
    assert narrow.evaluate("document.documentElement.scrollWidth") <= 390
    assert all(request.startswith((address, "data:", "blob:")) for request in requests)
