"""Downloads are complete or failures with a reason, and servers are treated politely."""

import gzip
import threading
import time
import tracemalloc

import pytest
from picture_server import Handler, PictureServer

from stylekit.collections.web import Failure, Stopped, Unreachable, Web

DATA = bytes(range(256)) * 40


@pytest.fixture
def server():
    server = PictureServer()
    server.files["/a.bin"] = DATA
    yield server
    server.shutdown()


def impatient(**options):
    return Web(**{"rate": None, "timeout": 10, "backoff": 0.01, "attempts": 4, **options})


@pytest.mark.parametrize("fault", ["drop", "429", "503", "500", "type", "loris", "redirect"])
def test_a_file_is_complete_after_one_fault(fault, server, tmp_path):
    server.faults["/a.bin"] = [fault]
    impatient(slowest=10_000, timeout=0.3).file(f"{server.url}/a.bin", tmp_path / "a.bin", 10**6)
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("drop", "the connection broke after 7,680 bytes, 2 times"),
        ("long", "the server answers 416 to a request for the rest, 2 times"),
        ("loris", "less than 10000 bytes per second, 2 times"),
        ("503", "the server answers 503 Service Unavailable, 2 times"),
        ("redirect", "redirected in a circle"),
    ],
)
def test_a_server_that_never_recovers_gets_a_reason(fault, said, server, tmp_path):
    server.faults["/a.bin"] = [fault] * 30
    with pytest.raises(Failure, match=rf"^{server.url}/a.bin: {said}$"):
        impatient(slowest=10_000, timeout=0.3, attempts=2).file(f"{server.url}/a.bin", tmp_path / "a.bin", 10**6)
    assert not (tmp_path / "a.bin").exists()


def test_a_later_program_continues_the_same_file_and_starts_again_with_another(server, tmp_path):
    server.faults["/a.bin"] = ["drop"] * 2
    with pytest.raises(Failure):
        impatient(attempts=2).file(f"{server.url}/a.bin", tmp_path / "a.bin", 10**6)
    assert len((tmp_path / "a.bin.part").read_bytes()) == 7680
    impatient().file(f"{server.url}/a.bin", tmp_path / "a.bin", 10**6)
    assert server.ranges == ["bytes=5120-", "bytes=7680-"] and (tmp_path / "a.bin").read_bytes() == DATA

    server.faults["/a.bin"] = ["drop"]
    with pytest.raises(Failure):
        impatient(attempts=1).file(f"{server.url}/a.bin", tmp_path / "b.bin", 10**6)
    server.files["/a.bin"] = DATA[::-1]
    impatient().file(f"{server.url}/a.bin", tmp_path / "b.bin", 10**6)
    assert (tmp_path / "b.bin").read_bytes() == DATA[::-1]


def test_a_file_that_is_too_large_is_refused_before_it_arrives(server, tmp_path):
    with pytest.raises(Failure, match="10,240 bytes are more than the limit of 1,000"):
        impatient().file(f"{server.url}/a.bin", tmp_path / "a.bin", 1000)
    assert (tmp_path / "a.bin.part").stat().st_size == 0


def test_all_threads_wait_as_long_as_the_server_asks(server):
    server.answers["/x"] = lambda query: 1
    server.faults["/x"] = ["429"]
    server.patience = "1"
    web, times = impatient(), []

    def ask():
        web.json(f"{server.url}/x")
        times.append(time.monotonic())

    start = time.monotonic()
    ask_first = threading.Thread(target=ask)
    ask_first.start()
    while not any(host.next > start + 0.9 for host in web._hosts.values()):  # Until the answer has arrived.
        time.sleep(0.01)
    ask()
    ask_first.join()
    assert len(times) == 2 and all(0.9 < moment - start < 30 for moment in times)
    server.faults["/x"], server.patience = ["503"], "3600"
    with pytest.raises(Unreachable, match=r"127.0.0.1:\d+ asks to be left alone for 60 minutes"):
        web.json(f"{server.url}/x")


def test_requests_keep_to_the_rate(server):
    server.answers["/x"] = lambda query: 1
    web = impatient(rate=50)
    start = time.monotonic()
    for _ in range(10):
        web.json(f"{server.url}/x", robots=False)
    assert 0.17 < time.monotonic() - start < 30


def test_robots_are_respected(server):
    server.files["/robots.txt"] = b"User-agent: *\nDisallow: /private/\nCrawl-delay: 1\n" + bytes(600_000)
    server.answers["/private/x"] = server.answers["/x"] = lambda query: query
    web = impatient()
    start = time.monotonic()
    assert web.json(f"{server.url}/x", {"a": "b"}) == {"a": "b"}
    with pytest.raises(Failure, match=r"private/x: robots.txt of 127.0.0.1:\d+ does not allow it"):
        web.json(f"{server.url}/private/x", {"key": "secret"})
    assert web.json(f"{server.url}/private/x", robots=False) == {}
    assert server.requests["/robots.txt"] == 1 and server.requests["/private/x"] == 1
    assert 0.9 < time.monotonic() - start < 30


def test_errors_do_not_show_queries_and_web_pages_are_not_json(server):
    server.files["/page"] = b"<!DOCTYPE html><html>Sign in</html>"
    for path, said in (("page", "got a web page that is not JSON"), ("none", "the server answers 404 Not Found")):
        with pytest.raises(Failure, match=said) as caught:
            impatient().json(f"{server.url}/{path}", {"api_key": "secret"})
        assert "secret" not in str(caught.value)
    with pytest.raises(Unreachable, match=r"no connection \(Connection refused\), 2 times") as unreachable:
        impatient(attempts=2).json("http://127.0.0.1:9/x", {"api_key": "secret"})
    assert "secret" not in str(unreachable.value)
    with pytest.raises(Failure, match="not an address that can be fetched"):
        impatient().json("file:///etc/passwd", robots=False)


@pytest.mark.parametrize("status", [200, 302])
def test_a_robots_txt_that_unpacks_to_fifty_megabytes_is_read_in_part(status, server, monkeypatch):
    packed = gzip.compress(b"User-agent: *\nDisallow: /\n" + bytes(50_000_000), 1)
    headers = {"Content-Encoding": "gzip", "Location": "/robots.txt"}
    monkeypatch.setattr(Handler, "do_GET", lambda self: self.answer(status, packed, headers))
    tracemalloc.start()
    with pytest.raises(Failure, match=r"robots.txt of .* does not allow it|redirected in a circle"):
        impatient().json(f"{server.url}/x")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_a_slow_robots_txt_holds_up_nobody_else_and_can_be_stopped(server):
    server.files["/robots.txt"] = b"# A byte at a time.\n" * 100
    server.faults["/robots.txt"] = ["loris"]
    server.answers["/x"] = lambda query: 1
    web, ended = impatient(), []

    def ask():
        with pytest.raises(Stopped):
            web.json(f"{server.url}/x")
        ended.append(time.monotonic())

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    start = time.monotonic()
    while not server.requests["/robots.txt"]:
        time.sleep(0.01)
    assert web.json(f"http://localhost:{server.server_port}/x") == 1
    web.stop.set()
    for thread in threads:
        thread.join()
    assert len(ended) == 2 and max(ended) - start < 10
