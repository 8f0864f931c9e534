"""A web server on loopback that serves files and JSON, and misbehaves as told."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from PIL import Image

HTML = b"<!DOCTYPE html><html><body>Please enable JavaScript.</body></html>"


class PictureServer(ThreadingHTTPServer):
    """Serves `files` with ranges and ETags, and `answers` as JSON.

    `faults` holds what goes wrong with the next requests for a path, in order: drop (the connection breaks halfway),
    long (Content-Length promises more), 429 and 503 (with Retry-After of `patience` seconds), 500, html (a page with
    status 200), loris (a byte at a time), type (a lying Content-Type), redirect, norange (a range is ignored).
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.answers: dict[str, Callable[[dict[str, str]], Any]] = {}
        self.faults: dict[str, list[str]] = defaultdict(list)
        self.requests: Counter[str] = Counter()
        self.ranges: list[str] = []
        self.patience = "0"
        self.agents: set[str] = set()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that are killed break their connections."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16
    server: PictureServer

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        self.server.requests[path] += 1
        self.server.agents.add(self.headers.get("User-Agent", ""))
        fault = self.server.faults[path].pop(0) if self.server.faults[path] else ""
        if fault.isdigit():
            return self.answer(int(fault), b"busy", {"Retry-After": self.server.patience})
        if fault == "html":
            return self.answer(200, HTML, {"Content-Type": "text/html"})
        if fault == "redirect":
            return self.answer(302, b"", {"Location": self.path})
        if path in self.server.answers:
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            return self.answer(200, json.dumps(self.server.answers[path](query)).encode(), {})
        if path not in self.server.files:
            return self.answer(404, b"nothing here", {})
        self.serve(self.server.files[path], fault)
        return None

    def do_HEAD(self) -> None:
        """What huggingface_hub asks before it downloads a file."""
        data = self.server.files.get(unquote(urlsplit(self.path).path))
        if data is None:
            return self.answer(404, b"", {})
        tag = f'"{hashlib.sha256(data).hexdigest()}"'
        headers = {"Content-Length": str(len(data)), "ETag": tag, "X-Repo-Commit": "c" * 40, "Accept-Ranges": "bytes"}
        return self.begin(200, headers)

    def serve(self, data: bytes, fault: str) -> None:
        tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        headers = {
            "ETag": tag,
            "X-Repo-Commit": "c" * 40,
            "Content-Type": "text/plain" if fault == "type" else "image/jpeg",
        }
        status, start = 200, 0
        wanted = self.headers.get("Range", "")
        if wanted:
            self.server.ranges.append(wanted)
        if wanted and self.headers.get("If-Range", tag) == tag and fault != "norange":
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(data):
                return self.answer(416, b"", {})
            status = 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        body = data[start:]
        if fault in ("drop", "long"):
            headers["Content-Length"] = str(len(body) + (10 if fault == "long" else 0))
            self.begin(status, headers)
            self.wfile.write(body if fault == "long" else body[: len(body) // 2])
            self.close_connection = True
            return None
        if fault == "loris":
            headers["Content-Length"] = str(len(body))
            self.begin(status, headers)
            for byte in body:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(0.02)
            return None
        return self.answer(status, body, headers)

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.begin(status, {"Content-Length": str(len(body)), **headers})
        self.wfile.write(body)

    def begin(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def picture(seed: int, width: int = 64, height: int = 48) -> Image.Image:
    """Smooth colored noise; another seed gives another picture."""
    coarse = np.random.default_rng(seed).integers(30, 225, (6, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """The bytes of a picture file."""
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def offer_wikiart(server: PictureServer, artist: str, count: int, per_page: int = 60, **kwargs: Any) -> None:
    """Offer paintings as WikiArt does, in pages."""
    paintings = []
    for i in range(count):
        path = f"/images/{artist}/painting-{i}.jpg"
        server.files[path] = encoded(picture(1000 + i, **kwargs))
        paintings.append(
            {
                "title": f"Painting {i}",
                "width": 64,
                "height": 48,
                "artistName": artist.replace("-", " ").title(),
                "image": f"{server.url}{path}!Large.jpg",
                "paintingUrl": f"/en/{artist}/painting-{i}",
            }
        )

    def answer(query: dict[str, str]) -> dict[str, Any]:
        start = (int(query["page"]) - 1) * per_page
        # Beyond the last page, the site sends null.
        return {"Paintings": paintings[start : start + per_page] or None}

    server.answers[f"/en/{artist}/mode/all-paintings"] = answer


LICENSES = [
    {"id": "0", "name": "All Rights Reserved", "url": ""},
    {"id": "2", "name": "Attribution-NonCommercial License", "url": "https://creativecommons.org/licenses/by-nc/2.0/"},
    {"id": "4", "name": "Attribution License", "url": "https://creativecommons.org/licenses/by/2.0/"},
    {"id": "6", "name": "Attribution-NoDerivs License", "url": "https://creativecommons.org/licenses/by-nd/2.0/"},
    {"id": "7", "name": "No known copyright restrictions", "url": "https://www.flickr.com/commons/usage/"},
    {"id": "9", "name": "CC0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"},
]


def offer_flickr(server: PictureServer, count: int, per_page: int = 50, key: str = "secret") -> None:
    """Offer photographs as Flickr's REST interface does; every fifth may not be changed."""
    photos = []
    for i in range(count):
        path = f"/65535/{5000 + i}_abc_l.jpg"
        server.files[path] = encoded(picture(i))
        photos.append(
            {
                "id": str(5000 + i),
                "owner": f"{i % 7}@N01",
                "title": f"Photo {i} *",
                "license": "6" if i % 5 == 4 else "4",
                "ownername": f"Author {i % 7}",
                "media": "photo",
                "url_l": server.url + path,
                "width_l": 64,
                "height_l": "48",
            }
        )

    def answer(query: dict[str, str]) -> dict[str, Any]:
        if query["api_key"] != key:
            return {"stat": "fail", "code": 100, "message": "Invalid API Key (Key has invalid format)"}
        if query["method"] == "flickr.photos.licenses.getInfo":
            return {"licenses": {"license": LICENSES}, "stat": "ok"}
        if query["method"] == "flickr.urls.lookupGroup":
            if query["url"].rstrip("/").endswith("/landscapes"):
                return {"group": {"id": "11@N00", "groupname": {"_content": "Landscapes"}}, "stat": "ok"}
            return {"stat": "fail", "code": 1, "message": "Group not found"}
        chosen = photos
        if "license" in query:
            chosen = [photo for photo in photos if photo["license"] in query["license"].split(",")]
        start = (int(query["page"]) - 1) * per_page
        part = chosen[start : start + per_page]
        pages = -(-len(chosen) // per_page)
        return {"photos": {"page": int(query["page"]), "pages": pages, "photo": part}, "stat": "ok"}

    server.answers["/services/rest/"] = answer
