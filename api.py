"""What the server paints, for visitors of the page (`app.py`) and for programs: POST /paint, GET /styles, GET /health.

Both use the same functions, so that at any time one photograph is decoded or painted at full size.
"""

import asyncio
import contextlib
import functools
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, Field, ValidationError, model_validator

from stylekit import __version__

if TYPE_CHECKING:
    from fastapi import FastAPI
    from PIL.Image import Image
    from starlette.types import ASGIApp
    from torch import Tensor
    from typing_extensions import Self

MAX_PIXELS = 25_000_000
"""Larger photographs are scaled down."""
MAX_DECODED, MAX_JPEG = 50_000_000, 120_000_000
"""Larger files are refused. The decoder of JPEG scales down before anything takes memory."""
MAX_UPLOAD = 40 * 2**20
"""Bytes of a request."""
PAINTERS, QUEUE = 4, 40
"""Requests that are painted at once (photographs at full size one after the other), and that may wait."""

LARGE_MEMORY = threading.Lock()
"""Held while a photograph is decoded or painted at full size, which takes up to two gigabytes."""

METHODS = ("cyclegan", "johnson", "gatys")

TITLES = {
    "landscape2vangogh": "Van Gogh, trained on his paintings",
    "landscape2vangogh-cycle": "Van Gogh, trained as in the paper",
    "vangogh2landscape": "Painting to photograph",
    "vangogh2landscape-cycle": "Painting to photograph, as in the paper",
    "van-gogh": "Van Gogh, mean of 358 paintings",
    "starry-night": "The Starry Night",
}
"""What visitors read instead of names that do not explain themselves."""


class Settings(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """How a photograph is painted."""

    method: Literal["cyclegan", "johnson", "gatys"] = "cyclegan"
    style: str = Field("", description="A name that GET /styles lists. Default: the first.")
    size: int = Field(512, ge=128, le=1024, description="Longer side of the result in pixels, for gatys.")
    stroke_size: float = Field(1, ge=0.5, le=3, description="Size of the strokes; they follow that of the photograph.")
    strength: float = Field(1, ge=0, le=1, description="Weight of the painting against the photograph.")
    preserve_color: bool = Field(False, description="Keep the colors of the photograph.")
    keep_faces: bool = Field(False, description="Keep the photograph where faces are found.")

    @model_validator(mode="after")
    def check_style(self) -> "Self":
        if self.style and self.style not in (known := styles(self.method)):
            raise ValueError(f"{self.method} has no style {self.style}; expected one of {', '.join(known)}")
        return self

    @property
    def chosen_style(self) -> str:
        return self.style or next(iter(styles(self.method)))


class TooLargeError(ValueError):
    """A picture has too many pixels."""


class Photograph(NamedTuple):
    """A decoded picture, upright, in sRGB, on white; its opacity; the format of its file, and its size if too large."""

    image: "Image"
    alpha: "Image | None"
    format: str | None
    scaled_from: tuple[int, int] | None


def load_photograph(path: Path) -> Photograph:
    """Read a picture that has been uploaded.

    Raises:
        TooLargeError: It has too many pixels.
        ValueError: It is missing, damaged, or of another format. Messages have the name of the file, but no folder.
    """
    from PIL import Image, ImageOps

    from stylekit.pictures import images

    try:
        with path.open("rb") as file:
            limit = MAX_JPEG if file.read(3) == b"\xff\xd8\xff" else MAX_DECODED
        with LARGE_MEMORY, images.decode(path, limit) as opened:
            size, factor = opened.size, 1
            while size[0] * size[1] > MAX_PIXELS * factor**2:
                factor *= 2
            is_reduced = opened.draft("", (size[0] // factor, size[1] // factor))
            upright = ImageOps.exif_transpose(opened)
            pictures = images.to_rgb(upright), images.alpha_of(upright)
            if factor > 1 and not is_reduced:
                pictures = pictures[0].reduce(factor), pictures[1] and pictures[1].reduce(factor)
            return Photograph(*pictures, opened.format, size if factor > 1 else None)
    except OSError as error:
        raise ValueError(f"{path.name} has been deleted; upload it again") from error
    except ValueError as error:
        text = str(error).replace(str(path), path.name)
        if isinstance(error.__cause__, Image.DecompressionBombError):
            advice = "make it smaller"
            if limit < MAX_JPEG:
                advice += f", or save it as a JPEG, which may have {MAX_JPEG // 10**6} million"
            raise TooLargeError(f"{text}; {advice}") from error
        raise ValueError(text) from error


def styles(method: str) -> dict[str, str]:
    """Names and titles of the bundled networks or styles of a method; the first is the default."""
    from gatys.styles import bundled_presets
    from stylekit.networks.weights import bundled

    names = {"cyclegan": bundled(), "johnson": bundled("johnson"), "gatys": bundled_presets()}[method]
    names = sorted(names, key=lambda name: name != "starry-night")
    return {name: TITLES.get(name, name.replace("-", " ").capitalize()) for name in names}


def paint(
    photograph: "Image", settings: Settings, device: str, end: threading.Event, painting: "Image | None" = None
) -> "Iterator[tuple[float, Image]]":
    """Paint a photograph; yields the fraction done and the picture so far, the result last.

    Args:
        end: Set it to stop Gatys.
        painting: A style of its own, for Gatys.
    """
    from cyclegan.translate import translate
    from johnson.stylize import stylize
    from stylekit.pictures import images, masks, strokes

    method, style = settings.method, settings.chosen_style
    strength, preserve_color = settings.strength, settings.preserve_color
    keep: Literal["faces"] | None = "faces" if settings.keep_faces else None
    if method == "gatys":
        content = images.to_tensor(images.resize(photograph, settings.size)).to(device)
        weight = strength * masks.paint_weight(content, None, keep)
        for done, picture in optimize(content, painting or style, settings.stroke_size, device, end):
            yield done, images.to_image(strokes.combine(content, picture, weight, preserve_color))
        return
    function = translate if method == "cyclegan" else stylize
    with LARGE_MEMORY:
        network = load(method, style, device)
        content = images.to_tensor(photograph).to(device)
        look: dict[str, Any] = {"strength": strength, "preserve_color": preserve_color, "keep": keep}
        painted = function(content, network, stroke_size=settings.stroke_size, **look)
        result = images.to_image(painted)
    yield 1.0, result


@functools.cache
def load(method: str, style: str, device: str) -> Any:
    """A network, or for Gatys a preset. Threads share them."""
    from cyclegan.translate import load_generator
    from gatys.styles import load_preset
    from johnson.stylize import load_network
    from stylekit.devices import to_device

    if method == "gatys":
        return load_preset(style)
    return to_device(load_generator(style) if method == "cyclegan" else load_network(style), device)


@functools.cache
def feature_network(device: str) -> Any:
    """The network of Gatys."""
    from gatys.stylize import StylizeConfig, build_network

    return build_network(StylizeConfig(), device)


def optimize(
    content: "Tensor", style: "str | Image", stroke_size: float, device: str, end: threading.Event
) -> "Iterator[tuple[float, Tensor]]":
    """Run Gatys in a thread; yields the fraction done and the picture so far twice a second, and the result last."""
    from gatys.regions import resize
    from gatys.stylize import Step, StylizeConfig, stylize

    config = StylizeConfig(size=max(content.shape[2:]), style_scale=stroke_size)
    steps: queue.SimpleQueue[tuple[float, Tensor] | None] = queue.SimpleQueue()
    given = load("gatys", style, device) if isinstance(style, str) else style

    def on_step(step: Step) -> bool:
        steps.put((step.number / step.total, step.image()))
        return not end.is_set()

    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(stylize, content, [given], config, network=feature_network(device), on_step=on_step)
        result.add_done_callback(lambda _: steps.put(None))
        shown = 0.0
        try:
            while (step := steps.get()) is not None:
                done, picture = step
                if time.monotonic() - shown > 0.5:
                    yield done, resize(picture, tuple(content.shape[2:]))
                    shown = time.monotonic()
        finally:
            end.set()  # If the visitor has left, nobody asks for the next step.
    yield 1.0, result.result()


def save(painting: "Image", path: Path, alpha: "Image | None") -> None:
    """Write a painting; a PNG is as transparent as its photograph."""
    from stylekit.pictures import images

    images.save(painting, path, alpha=alpha.resize(painting.size) if alpha and path.suffix == ".png" else None)


def explain(problem: Exception) -> tuple[int, str]:
    """The HTTP status and a line about a problem with a request; raises any other exception again."""
    from stylekit.devices import is_out_of_memory

    if isinstance(problem, ValidationError):
        return 422, one_line(problem.errors())
    if isinstance(problem, TooLargeError):
        return 413, str(problem)
    if isinstance(problem, ValueError | FloatingPointError):
        return 400, str(problem)
    if is_out_of_memory(problem):
        return 503, "This server is out of memory; try a smaller photograph or size."
    raise problem


def one_line(errors: Any) -> str:
    """What pydantic has to say about wrong values."""
    texts = (f"{error['loc'][-1]}: {error['msg']}" if error["loc"][1:] else error["msg"] for error in errors)
    return "; ".join(texts).replace("Value error, ", "")


def limit_body(app: "ASGIApp", most: int) -> "ASGIApp":
    """ASGI middleware that ends a request with the status 413 once it has more than so many bytes."""
    from fastapi import HTTPException

    async def limited(scope: Any, receive: Any, send: Any) -> None:
        size = 0

        async def counted() -> Any:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > most:
                raise HTTPException(413)
            return message

        await app(scope, counted if scope["type"] == "http" else receive, send)

    return limited


def build_api(device: str, folder: Path) -> "FastAPI":
    """The HTTP API, with its documentation at /docs. Pictures lie in `folder` while they are painted."""
    from fastapi import FastAPI, File, Form, HTTPException, Request, Response, UploadFile
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse

    class Order(Settings):
        picture: UploadFile = File(description="The photograph.")
        painting: UploadFile | None = File(None, description="A painting as the style, for gatys.")
        format: Literal["png", "jpeg"] | None = Field(None, description="Default: what Accept asks for, or png.")

        @model_validator(mode="after")
        def check_painting(self) -> "Self":
            if self.painting and (self.style or self.method != "gatys"):
                raise ValueError("a painting needs method=gatys and no style")
            return self

    @contextlib.asynccontextmanager
    async def lifespan(api: FastAPI) -> AsyncIterator[None]:
        yield
        pool.shutdown()  # Before the folder is deleted.

    api = FastAPI(title="Image translation", version=__version__, lifespan=lifespan)
    api.add_middleware(limit_body, most=MAX_UPLOAD)
    pool = ThreadPoolExecutor(PAINTERS)
    """Not the threads that serve the page."""
    orders: set[threading.Event] = set()

    def refuse(status: int, text: str) -> JSONResponse:
        return JSONResponse({"detail": text}, status, {"Retry-After": "10"} if status == 503 else None)

    @api.exception_handler(RequestValidationError)
    async def wrong_value(request: Request, problem: RequestValidationError) -> JSONResponse:
        return refuse(422, one_line(problem.errors()))

    @api.exception_handler(413)
    async def too_large(request: Request, problem: HTTPException) -> JSONResponse:
        return refuse(413, f"The upload has more than {MAX_UPLOAD // 2**20} MB.")

    @api.exception_handler(Exception)
    async def failure(request: Request, problem: Exception) -> JSONResponse:
        return refuse(500, "The server failed; its log says why.")

    @api.get("/health")
    async def health() -> dict[str, str | int]:
        """Whether the server answers, and how many requests it paints or has waiting."""
        return {"status": "ok", "version": __version__, "device": device, "requests": len(orders)}

    @api.get("/styles")
    def list_styles() -> dict[str, dict[str, str]]:
        """Names and titles of the styles of each method; the first is the default."""
        return {method: styles(method) for method in METHODS}

    def work(order: Order, suffix: str, end: threading.Event) -> bytes:
        place = Path(tempfile.mkdtemp(dir=folder))
        try:
            pictures: list[Photograph] = []
            for name in ("picture", "painting"):
                if (upload := getattr(order, name)) and not end.is_set():
                    with (place / name).open("wb") as file:
                        shutil.copyfileobj(upload.file, file)
                    pictures.append(load_photograph(place / name))
            if end.is_set():  # The client has left.
                return b""
            image, *painting = (picture.image for picture in pictures)
            *_, (_, result) = paint(image, order, device, end, *painting)
            save(result, place / f"result.{suffix}", pictures[0].alpha)
            return (place / f"result.{suffix}").read_bytes()
        finally:
            shutil.rmtree(place)

    @api.post(
        "/paint",
        response_class=Response,
        responses={
            200: {"content": {"image/png": {}, "image/jpeg": {}}, "description": "The painting."},
            400: {"description": "The picture is damaged, or of another format."},
            413: {"description": "The upload or the picture is too large."},
            422: {"description": "A value is wrong."},
            503: {"description": "Too many requests are waiting."},
        },
    )
    async def paint_picture(order: Annotated[Order, Form(media_type="multipart/form-data")], request: Request) -> Any:
        """Paint a photograph."""
        if len(orders) >= PAINTERS + QUEUE:
            return refuse(503, f"{len(orders)} requests are waiting; try again later.")
        accept = request.headers.get("accept", "")
        kind = order.format or ("jpeg" if "image/jpeg" in accept and "image/png" not in accept else "png")
        orders.add(end := threading.Event())

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            end.set()

        watching = asyncio.create_task(watch())
        try:
            content = await asyncio.get_running_loop().run_in_executor(pool, work, order, kind, end)
        except Exception as problem:
            return refuse(*explain(problem))
        finally:
            watching.cancel()
            end.set()
            orders.remove(end)
        return Response(content, media_type=f"image/{kind}")

    return api
