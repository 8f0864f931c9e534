"""The web page and the HTTP API: what they refuse, twenty clients, and visitors in a headless browser."""

import functools
import importlib.util
import io
import os
import pydoc
import random
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from conftest import ROOT, exit_code, one_error
from PIL import Image, ImageChops, ImageStat
from sklearn.datasets import load_sample_image

import api
import app
import cyclegan.cli
import gatys.cli
import johnson.cli
from gatys.options import StylizeConfig

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


@pytest.fixture(scope="module")
def china_image():
    return Image.fromarray(load_sample_image("china.jpg"))


def saved(folder, picture, name="photo.png"):
    """The path of a picture that has been written to a folder."""
    picture.save(folder / name)
    return folder / name


def test_errors_name_the_file_and_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(api, "MAX_DECODED", 10**6)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    with saved(tmp_path, Image.new("RGB", (1001, 1000)), "large.png").open("r+") as file:
        file.truncate(100)  # The size is checked before pixels are missed.
    cases = {
        "broken.jpg": r"^broken.jpg: not a supported picture: its content is not ",
        "large.png": r"^large.png: expected at most 1 million pixels and 65,535 per side \(got 1001 x 1000\); make it ",
        "gone.png": "^gone.png has been deleted; upload it again$",
    }
    for name, message in cases.items():
        with pytest.raises(ValueError, match=message):
            api.load_photograph(tmp_path / name)


@pytest.mark.parametrize("suffix", ["jpg", "png", "heic"])
def test_a_large_photograph_is_scaled_down(tmp_path, china_image, monkeypatch, suffix):
    pytest.importorskip("pillow_heif").register_heif_opener()
    path = saved(tmp_path, china_image, f"photo.{suffix}")
    whole = api.load_photograph(path)
    assert whole.image.size == (640, 427) and whole.scaled_from is None
    monkeypatch.setattr(api, "MAX_PIXELS", 640 * 427 // 5)
    small = api.load_photograph(path)
    assert small.image.size == (160, 107) and small.scaled_from == (640, 427)
    difference = ImageChops.difference(small.image, whole.image.resize((160, 107), Image.Resampling.BOX))
    assert ImageStat.Stat(difference).mean < [6] * 3


@pytest.mark.parametrize("step", ["stylekit.pictures.images.to_rgb", "johnson.stylize.stylize"])
def test_one_photograph_at_a_time_takes_memory(tmp_path, pictures, monkeypatch, step):
    path = saved(tmp_path, pictures[0])
    original, alone = pydoc.locate(step), threading.Lock()

    def checked(*args, **options):
        assert alone.acquire(blocking=False)
        time.sleep(0.05)
        alone.release()
        return original(*args, **options)

    monkeypatch.setattr(step, checked)

    def visit(_):
        paint(api.load_photograph(path).image, method="johnson")

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(visit, range(3)))


def test_a_visitor_cannot_read_other_files_of_the_server(tmp_path, pictures):
    (uploads := tmp_path / "uploads").mkdir()
    private = saved(tmp_path, pictures[0], "private.png")
    (uploads / "link.png").symlink_to(private)
    paths = private, uploads / "../private.png", uploads / "link.png", uploads, None
    for photo in (*({"path": path} for path in paths), str(private), [1]):
        with pytest.raises(ValueError, match="has not been uploaded"):
            app.uploaded(photo, uploads)
    with pytest.raises(ValueError, match="Drop a photograph first"):
        app.uploaded(None, uploads)


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


def paint(photograph, end=None, **settings):
    """The result of painting with settings."""
    return list(api.paint(photograph, api.Settings(**settings), "cpu", end or threading.Event()))[-1][1]


@pytest.mark.parametrize("style", ["/etc", "user/model", "no-style"])
def test_only_bundled_styles_can_be_asked_for(style):
    for method in api.METHODS:
        with pytest.raises(ValueError, match=f"{method} has no style {style}; expected one of .*"):
            api.Settings(method=method, style=style)


def test_numbers_stay_in_the_ranges_of_the_sliders():
    for name in ("size", "strength", "stroke_size"):
        for given in (-1e9, float("nan"), 10**400, "x", [1], None):
            with pytest.raises(ValueError, match=name):
                api.Settings(**{name: given})


def test_gatys_ends_at_once_when_it_is_told_to(pictures):
    end = threading.Event()
    end.set()
    painted = list(api.paint(pictures[0], api.Settings(method="gatys"), "cpu", end))
    assert len(painted) <= 2 and painted[-1][1].size == (48, 48)


@pytest.mark.parametrize(
    ("main", "settings"),
    [
        (cyclegan.cli.main, {"style": "landscape2vangogh-cycle", "stroke_size": 1.5, "strength": 0.7}),
        (johnson.cli.main, {"method": "johnson", "style": "mosaic", "preserve_color": True, "keep_faces": True}),
        (gatys.cli.main, {"method": "gatys", "style": "mosaic", "preserve_color": True}),
        (gatys.cli.main, {"method": "gatys", "stroke_size": 2}),
    ],
)
def test_the_command_paints_the_same_picture(tmp_path, monkeypatch, pictures, main, settings):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gatys.stylize.StylizeConfig", functools.partial(StylizeConfig, steps=2))
    photo, own = saved(tmp_path, pictures[0], "my photo.png"), saved(tmp_path, pictures[6], "mine.png")
    chosen = api.Settings(**settings)
    *_, (_, painted) = api.paint(pictures[0], chosen, "cpu", threading.Event(), None if chosen.style else pictures[6])
    command = app.command(photo, None if chosen.style else own, chosen, 48)
    flags = ["--steps", "2"] if main is gatys.cli.main else []
    assert main([*shlex.split(command)[1:], *flags]) == 0
    assert_same_picture(Image.open("painting.png").convert("RGB"), painted)


def assert_same_picture(one, other, levels=1):
    assert one.size == other.size
    assert max(high for _, high in ImageChops.difference(one, other).getextrema()) <= levels


def test_every_style_has_a_thumbnail():
    rules = app.thumbnails()
    for method in api.METHODS:
        for _, value in app.style_choices(method):
            assert f"[value='{value}']" in rules


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Where page and API are served."""
    pytest.importorskip("gradio")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = str(tmp_path_factory.mktemp("visitors"))
    server = app.build_server("127.0.0.1", port, "cpu", folder, hosts=["Paint.example"])
    serving = threading.Thread(target=server.run)
    serving.start()
    while not server.started:
        assert serving.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    serving.join()


def test_the_server_answers_to_its_own_names_only(address):
    def status(host, path):
        connection = HTTPConnection(urlsplit(address).netloc, timeout=TIMEOUT / 1000)
        connection.request("GET", path, headers={"Host": host})
        return connection.getresponse().status

    for path in ("/config", "/health"):
        for host in (urlsplit(address).netloc, "localhost", "LOCALHOST:80", "[::1]:80", "192.0.2.1", "paint.example"):
            assert status(host, path) == 200, host
        for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "x@evil.example", "[", ""):
            assert status(host, path) == 400, host


def encoded(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def post(address, picture, painting=None, accept="*/*", **fields):
    files = {"picture": picture} | ({"painting": painting} if painting else {})
    return requests.post(f"{address}/paint", files=files, data=fields, headers={"Accept": accept}, timeout=120)


def test_twenty_clients_get_their_own_paintings(address, pictures):
    photographs = [pictures[i % 12].rotate(90 * (i // 12)) for i in range(20)]
    orders = [{"method": "johnson", "style": ("mosaic", "van-gogh")[i % 2], "strength": 1 - i / 40} for i in range(20)]
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda photo, order: post(address, encoded(photo), **order), photographs, orders))
    for photograph, order, answer in zip(photographs, orders, answers, strict=True):
        assert answer.status_code == 200 and answer.headers["content-type"] == "image/png"
        assert_same_picture(Image.open(io.BytesIO(answer.content)), paint(photograph, **order))


def test_a_painting_is_png_or_jpeg_and_only_png_is_transparent(address, pictures):
    photograph = pictures[0].copy()
    photograph.putalpha(Image.linear_gradient("L").resize((48, 48)))
    for options, kind in (
        ({}, "PNG"),
        ({"accept": "image/jpeg"}, "JPEG"),
        ({"accept": "image/png, image/jpeg"}, "PNG"),
        ({"accept": "image/jpeg", "format": "png"}, "PNG"),
        ({"format": "jpeg"}, "JPEG"),
    ):
        painting = Image.open(io.BytesIO(post(address, encoded(photograph), **options).content))
        assert painting.format == kind and painting.size == (48, 48)
        if kind == "PNG":
            assert not ImageChops.difference(painting.getchannel("A"), photograph.getchannel("A")).getbbox()


def test_the_style_may_be_a_painting(address, pictures, monkeypatch):
    monkeypatch.setattr("gatys.stylize.StylizeConfig", functools.partial(StylizeConfig, steps=2))
    photograph, painting, settings = pictures[0], pictures[6], {"method": "gatys", "size": 128}
    answer = post(address, encoded(photograph), encoded(painting), **settings)
    *_, (_, expected) = api.paint(photograph, api.Settings(**settings), "cpu", threading.Event(), painting)
    assert_same_picture(Image.open(io.BytesIO(answer.content)), expected)


def test_damaged_uploads_and_wrong_values_get_a_line(address, pictures, china_image):
    photo = encoded(pictures[0])
    noise = random.Random(0).randbytes(3000)
    jpeg = encoded(china_image, "JPEG", quality=95)
    header = encoded(Image.new("1", (9000, 9000)))[:60]
    for status, text, picture, fields in (
        (400, "picture: not a supported picture: its content is not", noise, {}),
        (400, "picture: not a supported picture", b"", {}),
        (400, "picture: damaged or unsupported picture", jpeg[: len(jpeg) // 2], {}),
        (400, "picture: damaged or unsupported picture", jpeg[:1000], {}),
        (400, "painting: not a supported picture", photo, {"painting": noise, "method": "gatys"}),
        (413, "picture: expected at most 50 million pixels and 65,535 per side (got 9000 x 9000); make it", header, {}),
        (422, "method: Input should be 'cyclegan', 'johnson' or 'gatys'", photo, {"method": "x"}),
        (422, "cyclegan has no style /etc; expected one of landscape2vangogh", photo, {"style": "/etc"}),
        (422, "stroke_size: Input should be less than or equal to 3", photo, {"stroke_size": 4}),
        (422, "strength: Input should be a finite number", photo, {"strength": "nan"}),
        (422, "stroke-size: Extra inputs are not permitted", photo, {"stroke-size": 2}),
        (422, "format: Input should be 'png' or 'jpeg'", photo, {"format": "gif"}),
        (422, "a painting needs method=gatys and no style", photo, {"painting": photo}),
    ):
        answer = post(address, picture, **fields)
        assert answer.status_code == status and answer.json()["detail"].startswith(text), answer.text
        assert "\n" not in answer.json()["detail"] and list(answer.json()) == ["detail"]
    answer = requests.post(f"{address}/paint", data={"picture": "x"}, timeout=60)
    assert answer.status_code == 422 and answer.json()["detail"].startswith("picture: ")
    answer = requests.post(f"{address}/paint", b"x", headers={"Content-Type": "multipart/form-data"}, timeout=60)
    assert answer.status_code == 400
    assert requests.get(f"{address}/health", timeout=60).json()["requests"] == 0


def test_a_request_that_is_too_large_is_refused_while_it_arrives(address):
    start = b'--x\r\nContent-Disposition: form-data; name="picture"; filename="x"\r\n\r\n'
    chunks = [start, *[bytes(2**20)] * 41, b"\r\n--x--\r\n"]
    for body in (b"".join(chunks), iter(chunks)):  # With and without Content-Length.
        answer = requests.post(
            f"{address}/paint", body, headers={"Content-Type": "multipart/form-data; boundary=x"}, timeout=60
        )
        assert answer.status_code == 413 and answer.json() == {"detail": "The upload has more than 40 MB."}


def test_a_busy_server_says_so(address, pictures, monkeypatch):
    monkeypatch.setattr(api, "QUEUE", -api.PAINTERS)
    answer = post(address, encoded(pictures[0]))
    assert answer.status_code == 503 and answer.headers["Retry-After"] and "try again" in answer.json()["detail"]


def test_a_failure_is_no_traceback(address, pictures, monkeypatch, caplog):
    def fail(*args):
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(api, "paint", fail)
    answer = post(address, encoded(pictures[0]))
    assert answer.status_code == 500 and answer.json() == {"detail": "The server failed; its log says why."}


def test_gatys_stops_when_its_client_leaves(address, china_image):
    with pytest.raises(requests.Timeout):
        requests.post(f"{address}/paint", files={"picture": encoded(china_image)}, data={"method": "gatys"}, timeout=1)
    deadline = time.monotonic() + 60
    while requests.get(f"{address}/health", timeout=60).json()["requests"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_api_describes_itself(address):
    assert requests.get(f"{address}/docs", timeout=60).status_code == 200
    paths = requests.get(f"{address}/openapi.json", timeout=60).json()["paths"]
    assert {"/paint", "/styles", "/health"} <= set(paths)
    assert requests.get(f"{address}/styles", timeout=60).json()["cyclegan"]["landscape2vangogh"]


@pytest.mark.parametrize("language", ["bash", "python"])
def test_the_examples_of_the_guide_work(address, pictures, tmp_path, monkeypatch, language):
    guide = (ROOT / "docs" / "deployment.md").read_text()
    [example] = [text for text in re.findall(rf"```{language}\n(.*?)```", guide, re.DOTALL) if "/paint" in text]
    monkeypatch.setattr("gatys.stylize.StylizeConfig", functools.partial(StylizeConfig, steps=2))
    saved(tmp_path, pictures[0], "photo.jpg")
    saved(tmp_path, pictures[6], "painting.jpg")
    program = {"bash": ["bash", "-e", "-c"], "python": [sys.executable, "-c"]}[language]
    done = subprocess.run(
        [*program, example.replace("http://127.0.0.1:7860", address)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    written = [path for path in tmp_path.iterdir() if path.name not in ("photo.jpg", "painting.jpg")]
    assert written
    for path in written:
        assert Image.open(path).size == (48, 48)
        assert (Image.open(path).format == "JPEG") == (path.suffix == ".jpg")


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

    narrow.get_by_text("Any painting").click()
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


def nameless(page):
    """The controls and pictures that a screen reader cannot name."""
    return page.evaluate(
        """() => [...document.querySelectorAll("button, input, textarea, img, select")]
            .filter(e => e.checkVisibility() && e.type != "file")
            .filter(e => !(e.innerText || e.ariaLabel || e.hasAttribute("alt") || e.title || e.labels?.length))
            .filter(e => !e.closest("[aria-label], [title]"))
            .map(e => e.outerHTML)"""
    )


@pytest.mark.skipif(bool(MISSING), reason=f"needs {' and '.join(MISSING)}")
def test_a_phone_paints_heic_transparent_pictures_and_its_own_style(address, visitors, pictures, tmp_path, monkeypatch):
    pytest.importorskip("pillow_heif").register_heif_opener()
    monkeypatch.setattr("gatys.stylize.StylizeConfig", functools.partial(StylizeConfig, steps=2))
    page = visit(visitors, address, 390, [])
    paint_button = page.get_by_role("button", name="Paint", exact=True)
    page.get_by_role("button", name="Photograph of a cup of coffee").wait_for()

    upload(page, saved(tmp_path, pictures[0], "photo.heic"))
    photograph = page.locator(".image-frame img")
    photograph.wait_for()
    paint_button.click()
    page.get_by_text("48 x 48 pixels · Van Gogh, trained on his paintings · stroke size 1").wait_for()
    assert photograph.evaluate("image => image.naturalWidth") == 48
    assert page.locator("#status code").inner_text().startswith("cyclegan translate photo.heic --weights")

    slider = page.get_by_role("slider", name="Before and after")
    shown = page.get_by_alt_text("The photograph")
    slider.focus()
    for key, width in (("Home", "100%"), ("End", "0%"), ("ArrowLeft", "1%")):
        slider.press(key)
        assert shown.evaluate("image => getComputedStyle(image).clipPath") == f"inset(0px {width} 0px 0px)"

    transparent = pictures[1].copy()
    transparent.putalpha(Image.linear_gradient("L").resize((48, 48)))
    page.get_by_label("Remove Image").click()
    upload(page, saved(tmp_path, transparent, "photo.png"))
    page.get_by_label("Remove Image").wait_for()
    page.get_by_text("A painting", exact=True).click()
    page.get_by_label("Mosaic").check()
    paint_button.click()
    page.get_by_text("48 x 48 pixels · Mosaic").wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download PNG").click()
    alpha = Image.open(Path(download.value.path())).getchannel("A")
    assert not ImageChops.difference(alpha, transparent.getchannel("A")).getbbox()

    page.get_by_text("Any painting").click()
    page.locator("input[type=file]").nth(1).set_input_files(saved(tmp_path, pictures[6], "mine.png"))
    page.get_by_label("Remove Image").nth(1).wait_for()
    page.locator("#styles :checked").wait_for(state="detached")
    paint_button.click()
    page.get_by_text("48 x 48 pixels · your painting").wait_for()
    assert page.locator("#status code").inner_text() == "gatys photo.png mine.png --size 48 -o painting.png"
    page.get_by_text("Adjust").click()
    page.get_by_label("Keep the colors").wait_for()
    assert nameless(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
