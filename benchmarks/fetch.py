"""Pictures per second of `cyclegan fetch` against a server on loopback, beside a bare client without any processing.

The server runs in a process of its own and answers at once, or after a delay as over the internet.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import multiprocessing
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image

from cyclegan.fetch import fetch
from cyclegan.options import FetchConfig
from stylekit.collections import wikiart
from stylekit.collections.web import CONNECTIONS, Web


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--side", type=int, default=768, help="longer side of the pictures")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"{options.pictures} pictures, {CONNECTIONS} connections, median of {options.rounds}")
    for delay in (0.0, 0.05, 0.2):
        receiver, sender = multiprocessing.Pipe(duplex=False)
        server = multiprocessing.Process(
            target=serve, args=(options.pictures, options.side, delay, sender), daemon=True
        )
        server.start()
        port, size = receiver.recv()
        ways = {"bare client": bare, "downloads": download, "fetch": whole, "fetch --size 384": reduced}
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.rounds):  # Alternate, since other work on the machine comes and goes.
            for name, way in ways.items():
                start = time.perf_counter()
                way(port, options.pictures)
                times[name].append(time.perf_counter() - start)
        server.terminate()
        rates = ", ".join(f"{name} {options.pictures / np.median(t):.0f}" for name, t in times.items())
        print(f"delay {delay * 1000:.0f} ms, {size / 1e6:.2f} MB a picture: {rates} pictures per second")


def bare(port: int, count: int) -> None:
    """Read everything and keep nothing, over connections that stay open."""

    def read(worker: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for i in range(worker, count, CONNECTIONS):
            connection.request("GET", f"/{i}.jpg")
            connection.getresponse().read()

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(read, range(CONNECTIONS)))


def download(port: int, count: int) -> None:
    """Write every file, without looking at it."""
    web = Web(rate=None)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(CONNECTIONS) as pool:
        list(
            pool.map(lambda i: web.file(f"http://127.0.0.1:{port}/{i}.jpg", Path(folder) / str(i), 10**9), range(count))
        )


def whole(port: int, count: int, size: int = 10_000) -> None:
    """List, download, verify, hash, split and write the credits."""
    with tempfile.TemporaryDirectory() as folder:
        wikiart.SITE = f"http://127.0.0.1:{port}"
        config = FetchConfig(y="wikiart:somebody", output=Path(folder) / "set", limit=count, size=size)
        result = fetch(config, Web(rate=None))
        assert sum(result.counts.values()) == count, result


def reduced(port: int, count: int) -> None:
    """The same, and make every picture smaller."""
    whole(port, count, 384)


def serve(count: int, side: int, delay: float, sender: Connection) -> None:
    """Serve different pictures with much detail, and a listing of them in the form of WikiArt's."""
    coarse = np.random.default_rng(0).integers(0, 255, (count, 24, 32, 3), np.uint8)
    files = []
    for pixels in coarse:
        data = io.BytesIO()
        Image.fromarray(pixels).resize((side, side * 3 // 4), Image.Resampling.BICUBIC).effect_spread(3).save(
            data, "JPEG", quality=90
        )
        files.append(data.getvalue())

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16

        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if parts.path.endswith(".jpg"):
                time.sleep(delay)
                return self.answer(200, files[int(parts.path[1:-4])])
            if parts.path.startswith("/en/"):
                first = 60 * (int(parse_qs(parts.query)["page"][0]) - 1)
                paintings = [
                    {"title": str(i), "image": f"http://127.0.0.1:{port}/{i}.jpg"}
                    for i in range(first, min(first + 60, count))
                ]
                return self.answer(200, json.dumps({"Paintings": paintings or None}).encode())
            return self.answer(404, b"")

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    port = server.server_port
    sender.send((port, sum(map(len, files)) / count))
    server.serve_forever()


if __name__ == "__main__":
    main()
