"""The web page: visitors paint their photographs with all three methods. `make app`, or `python app.py --port 8000`.

It needs Gradio (extra `app`), and no internet. Pictures lie in one temporary folder, for half an hour at most.
"""

import contextlib
import ctypes
import functools
import html
import importlib.util
import ipaddress
import os
import queue
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from stylekit import cli
from stylekit.options import STROKE_SIZES, THREADS, check_at_least, default_is

if TYPE_CHECKING:
    from gradio import Blocks
    from PIL.Image import Image
    from starlette.types import ASGIApp
    from torch import Tensor

METHODS = {
    "CycleGAN": "A network that learned to turn one collection of pictures into another, photographs into paintings. "
    "It takes about a second.",
    "Johnson": "A network that learned the style of one painting and paints in a single pass. It takes about a second.",
    "Gatys": "No network is trained: the picture itself is optimized until it has the statistics of the painting. "
    "The best and slowest: about a minute for 512 px on two CPU cores. You see it grow, and can stop it.",
}

EXAMPLES = {
    "sklearn/datasets/images/china.jpg": "temple by danielbuechele, CC BY 2.0",
    "sklearn/datasets/images/flower.jpg": "flower by vultilion, CC BY 2.0",
    "skimage/data/rocket.jpg": "rocket by SpaceX, public domain",
    "skimage/data/coffee.png": "coffee by Rachel Michetti, CC0",
    "skimage/data/chelsea.png": "cat by Stefan van der Walt, CC0",
}
"""Photographs that scikit-learn and scikit-image ship, with their credits."""

MAX_PIXELS = 25_000_000
MAX_FILE = "40mb"
SIZES = [256, 384, 512, 768, 1024]
"""Longer sides that Gatys paints; networks keep the size of the photograph."""
BASE = 640
"""Longer side at which strokes of networks have their own size; they grow with larger photographs."""
STRENGTHS = 0, 100
STROKES = 0.5, 3
"""Ranges of the sliders. A request that does not come from the page may ask for any number."""
PREVIEW = 1280
"""Longer side of the pictures in the slider."""
MINUTES = 30
"""How long files are kept."""

NOTES = f"""Your picture stays on this server for {MINUTES} minutes at most and is used for nothing else. \
Examples from scikit-learn and scikit-image: {"; ".join(EXAMPLES.values())}."""

LARGE_MEMORY = threading.Lock()
"""Held while a photograph is decoded or painted at full size, which takes up to two gigabytes."""

CSS = """
.gradio-container {max-width: 1160px !important; margin: 0 auto !important}
.gallery-item img, .gallery-item .container {width: 58px !important; height: 44px !important; object-fit: cover}
#about p {opacity: .75; min-height: 4.5em}
#notes p {font-size: .85em; opacity: .65}
@media (min-width: 768px) {#result {min-height: 380px}}
#status {min-height: 2em; opacity: .75}
.bar {height: 6px; border-radius: 3px; background: var(--border-color-primary); overflow: hidden}
.bar div {height: 100%; background: var(--color-accent); transition: width .5s; animation: bar 1s infinite alternate}
@keyframes bar {to {opacity: .4}}
"""


@dataclass(frozen=True)
class PageConfig:
    """Serve a web page on which visitors paint their photographs."""

    host: Annotated[str | None, default_is("GRADIO_SERVER_NAME, or 127.0.0.1", "STR")] = None
    """Address to listen on. 0.0.0.0 accepts visitors from other machines."""

    port: int = 7860
    """Port to listen on."""

    hosts: Annotated[tuple[str, ...], default_is("localhost, the name of this machine, and IP addresses")] = ()
    """Further names by which browsers may reach the page, such as the name of a proxy; * accepts all."""

    device: str = "auto"
    """auto, cpu, mps, cuda or cuda:N."""

    threads: Annotated[int | None, THREADS] = None
    """CPU threads."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "port", "threads")
        if self.port > 65535:
            raise ValueError(f"--port must be at most 65535, got {self.port}")


def main(args: Sequence[str] | None = None) -> int:
    """Serve the page until Ctrl-C or SIGTERM; returns the exit code.

    Args:
        args: Command line; None takes sys.argv.
    """
    with cli.exit_on_error("app.py"):
        config = cli.parse(PageConfig, "app.py", args)
        host = config.host or os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
        check_free(host, config.port)
        if importlib.util.find_spec("gradio") is None:
            raise ValueError("the page needs Gradio; install it with `pip install '.[app]'`, or run `make app`")
        from stylekit import devices

        devices.set_threads(config.threads)
        device = devices.choose_device(config.device)
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        with tempfile.TemporaryDirectory(prefix="image-translation-", ignore_cleanup_errors=True) as folder:
            serve(host, config.port, str(device), folder, config.hosts)
    return 0


def check_free(host: str, port: int) -> None:
    """Fail early if the page could not listen there.

    Raises:
        OSError: The port is taken, or this machine does not have the address.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise OSError(f"cannot listen on {host}:{port} ({error.strerror}); choose another --port or --host") from error


def serve(host: str, port: int, device: str, folder: str, hosts: Sequence[str] = (), wait: bool = True) -> "Blocks":
    """Launch the page, and wait until it is interrupted.

    Args:
        folder: Where Gradio and the page keep the pictures of visitors.
        hosts: See `PageConfig`.
        wait: False returns at once; `close()` of the result stops the page.
    """
    # Both are read when Gradio is imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = folder
    import gradio as gr
    from starlette.middleware import Middleware

    page = build_page(device, Path(folder))
    # The proxy of a Hugging Face Space forwards nothing but requests for the Space.
    names = {"*"} if "SPACE_ID" in os.environ else {"localhost", socket.gethostname(), host, *hosts}
    page.launch(
        server_name=host,
        server_port=port,
        # Fonts of the system: others would be fetched from Google.
        theme=gr.themes.Default(primary_hue="indigo", neutral_hue="stone", font=["system-ui", "sans-serif"]),
        css=CSS,
        max_file_size=MAX_FILE,
        footer_links=[],
        share=False,
        ssr_mode=False,
        pwa=False,
        run_history=False,
        enable_monitoring=False,
        prevent_thread_lock=True,
        app_kwargs={"middleware": [Middleware(check_host, names={name.lower() for name in names})]},
    )
    threading.Thread(target=keep_clean, args=(Path(folder),), daemon=True).start()
    if wait:
        page.block_thread()
    return page


def check_host(app: "ASGIApp", names: Set[str]) -> "ASGIApp":
    """ASGI middleware that refuses a Host header with neither one of the names nor an IP address.

    Otherwise any site could let its name resolve to this machine, and use the page from the browsers of its own
    visitors (DNS rebinding).
    """
    from starlette.datastructures import Headers
    from starlette.responses import PlainTextResponse

    def is_known(host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return not names.isdisjoint({name, "*"}) or bool(ipaddress.ip_address(name))
        except ValueError:
            return False

    async def checked(scope: Any, receive: Any, send: Any) -> None:
        # Messages about start and stop have no headers.
        if "headers" in scope and not is_known(host := Headers(scope=scope).get("host", "")):
            refusal = PlainTextResponse(f"Unknown host {host!r}; to accept it, start the page with --hosts.", 400)
            return await refusal(scope, receive, send)
        return await app(scope, receive, send)

    return checked


def keep_clean(folder: Path) -> None:
    """Every minute, delete old files, but not the examples, which are there from the start; and free memory."""
    examples = set(folder.rglob("*"))
    while True:
        time.sleep(60)
        delete_old(folder, examples)
        with contextlib.suppress(AttributeError, TypeError):  # glibc keeps what threads have freed.
            ctypes.CDLL(None).malloc_trim(0)


def delete_old(folder: Path, but: set[Path]) -> None:
    """Delete what is older than `MINUTES`.

    Gradio's own `delete_cache` misses the pictures of the slider and uploads that were broken off.
    """
    for path in sorted(folder.rglob("*"), reverse=True):  # A folder after its files.
        with contextlib.suppress(OSError):
            if path not in but and time.time() - path.stat().st_mtime > 60 * MINUTES:
                path.rmdir() if path.is_dir() else path.unlink()


def build_page(device: str, folder: Path) -> "Blocks":
    """The layout of the page, and what its buttons do.

    Args:
        folder: See `serve`.
    """
    import gradio as gr

    from stylekit.devices import is_out_of_memory
    from stylekit.pictures import images

    stops: dict[str | None, threading.Event] = {}
    """Ends the painting of a visitor."""

    def error(problem: Exception) -> gr.Error:
        return gr.Error(html.escape(str(problem)), print_exception=False)

    def bar(done: float) -> str:
        return f'<div class="bar" role="progressbar"><div style="width: {done:.1%}"></div></div>'

    def check(photo):
        try:
            load_photograph(photo, folder)
        except ValueError as problem:
            raise error(problem) from problem

    def choose(method):
        names = styles(method)
        best = "starry-night" if "starry-night" in names else names[0]
        return METHODS[method], gr.Dropdown(names, value=best), gr.Radio(visible=method == "Gatys")

    def run(photo, method, style, size, strength, stroke_size, keep_colors, visitor: gr.Request):
        end = stops[visitor.session_hash] = threading.Event()
        try:
            photograph = load_photograph(photo, folder)
            # A browser that is busy skips all updates but the last: each repeats the ones before.
            shown = {button: gr.DownloadButton(interactive=False) for button in downloads.values()}
            shown |= {stop: gr.Button(visible=method == "Gatys"), status: bar(1)}
            yield shown
            place = Path(tempfile.mkdtemp(dir=folder))
            before = place / "before.jpg"
            images.save(images.resize(photograph, PREVIEW), before)
            look = strength, keep_colors, stroke_size
            for number, (done, painting) in enumerate(paint(photograph, method, style, size, look, device, end)):
                after = place / f"after-{number}.jpg"
                images.save(images.resize(painting, PREVIEW), after)
                shown |= {slider: (str(before), str(after)), status: bar(done)}
                yield shown
            for suffix, button in downloads.items():
                file = place / f"{Path(photo['path']).stem}-{style}.{suffix}"
                images.save(painting, file)
                shown |= {button: gr.DownloadButton(value=str(file), interactive=True)}
                yield shown
            yield shown | {status: f"{painting.width} x {painting.height} pixels"}
        except (ValueError, FloatingPointError) as problem:
            raise error(problem) from problem
        except (RuntimeError, MemoryError) as problem:
            if not is_out_of_memory(problem):
                raise
            raise error(MemoryError("This server is out of memory; try a smaller photograph or size.")) from problem

    def stop_painting(visitor: gr.Request):
        if visitor.session_hash in stops:
            stops.pop(visitor.session_hash).set()

    with gr.Blocks(title="Image translation") as page:
        gr.Markdown("# Image translation\nTurn a photograph into a painting.")
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                photo = gr.Image(label="Photograph", sources=["upload", "clipboard"], height=220, buttons=[])
                gr.Examples(example_photographs(), photo, label="Or take one of these")
                method = gr.Radio(list(METHODS), value="CycleGAN", label="Method")
                about = gr.Markdown(METHODS["CycleGAN"], elem_id="about")
                style = gr.Dropdown(styles("CycleGAN"), label="Style")
                size = gr.Radio(SIZES, value=512, label="Longer side in pixels", visible=False)
                with gr.Accordion("Adjust", open=False):
                    strength = gr.Slider(*STRENGTHS, 100, step=5, label="Strength in percent")
                    stroke_size = gr.Slider(*STROKES, 1, step=0.25, label="Stroke size")
                    keep_colors = gr.Checkbox(label="Keep the colors of the photograph")
                start = gr.Button("Paint", variant="primary")
            with gr.Column(scale=3, min_width=320):
                slider = gr.ImageSlider(
                    label="Before and after",
                    interactive=False,
                    buttons=["fullscreen"],
                    max_height=640,
                    elem_id="result",
                )
                status = gr.HTML(elem_id="status")
                stop = gr.Button("Stop here", visible=False)
                with gr.Row():
                    downloads = {
                        suffix: gr.DownloadButton(f"Download {name}", interactive=False, size="md", min_width=140)
                        for suffix, name in (("jpg", "JPEG"), ("png", "PNG"))
                    }
        gr.Markdown(NOTES, elem_id="notes")

        # Gradio's preprocessing would decode the file, and not explain what is wrong with it.
        raw: dict[str, Any] = {"preprocess": False, "api_visibility": "private"}
        now: dict[str, Any] = raw | {"queue": False, "show_progress": "hidden"}
        photo.upload(check, photo, show_progress="hidden", **raw).failure(lambda: None, outputs=photo, **now)
        method.change(choose, method, [about, style, size], **now)
        settings = [photo, method, style, size, strength, stroke_size, keep_colors]
        results = [slider, status, stop, *downloads.values()]
        painted = start.click(run, settings, results, concurrency_limit=4, show_progress_on=slider, **raw)
        painted.then(lambda: gr.Button(visible=False), outputs=stop, **now)
        painted.failure(lambda: "", outputs=status, **now)
        stop.click(stop_painting, **now)
        page.unload(stop_painting)
    return page.queue(max_size=40)


def example_photographs() -> list[str]:
    """The files of `EXAMPLES` whose package is installed."""
    specs = {name: importlib.util.find_spec(name.partition("/")[0]) for name in EXAMPLES}
    return [str(Path(spec.origin).parents[1] / name) for name, spec in specs.items() if spec and spec.origin]


def load_photograph(photo: dict[str, str] | None, folder: Path) -> "Image":
    """Read the picture that a visitor has uploaded.

    Args:
        photo: Gradio's description of the file.
        folder: Where uploads are.

    Raises:
        ValueError: There is none, or it is damaged, of another format or too large; the message has no folder.
    """
    from stylekit.pictures import images

    if photo is None:
        raise ValueError("Drop a photograph first, or take one of the examples.")
    path = str(photo.get("path")) if isinstance(photo, dict) else ""
    # A request that does not come from the page may name any file of this machine.
    if folder.resolve() not in Path(path).resolve().parents:
        raise ValueError(f"{Path(path).name} has not been uploaded.")
    try:
        with LARGE_MEMORY:
            return images.load(path, MAX_PIXELS)
    except FileNotFoundError as error:
        raise ValueError(f"The photograph has been deleted after {MINUTES} minutes; drop it again.") from error
    except ValueError as error:
        raise ValueError(str(error).replace(path, Path(path).name)) from error


def within(value: Any, limits: tuple[float, float]) -> float:
    """A number of a request, clamped to the range of its slider; raises a ValueError for anything else."""
    if not isinstance(value, int | float):
        raise ValueError(f"Expected a number from {limits[0]} to {limits[1]}.")
    return max(limits[0], min(limits[1], value))


def styles(method: str) -> list[str]:
    """The bundled networks or styles of a method."""
    from gatys.styles import bundled_presets
    from stylekit.networks.weights import bundled

    return list({"CycleGAN": bundled(), "Johnson": bundled("johnson"), "Gatys": bundled_presets()}[method])


@functools.cache
def load(method: str, style: str, device: str) -> Any:
    """A network, or for Gatys a preset and the feature network. Threads share them."""
    from cyclegan.translate import load_generator
    from gatys.styles import load_preset
    from gatys.stylize import StylizeConfig, build_network
    from johnson.stylize import load_network
    from stylekit.devices import to_device

    if method == "Gatys":
        return load_preset(style), build_network(StylizeConfig(), device)
    return to_device(load_generator(style) if method == "CycleGAN" else load_network(style), device)


def paint(
    photograph: "Image",
    method: str,
    style: str,
    size: int,
    look: tuple[float, bool, float],
    device: str,
    end: threading.Event,
) -> "Iterator[tuple[float, Image]]":
    """Paint a photograph; yields the fraction done and the picture so far, the result last.

    Args:
        size: Longer side in pixels, one of `SIZES`, for Gatys.
        look: Strength in percent, whether to keep the colors, and the stroke size.
        end: Set it to stop Gatys.

    Raises:
        ValueError: There is no such style or size, or the strength or the stroke size is no number.
    """
    from cyclegan.translate import translate
    from johnson.stylize import stylize
    from stylekit.pictures import images, strokes

    # The form of the page offers nothing else, but a request may; a name could be any file.
    if method not in list(METHODS) or style not in styles(method) or size not in SIZES:
        raise ValueError(f"{method} has no style {style} of {size} px")
    strength, preserve_color, stroke_size = within(look[0], STRENGTHS) / 100, bool(look[1]), within(look[2], STROKES)
    if method == "Gatys":
        content = images.to_tensor(images.resize(photograph, size)).to(device)
        for done, picture in optimize(content, style, stroke_size, device, end):
            blended = strokes.render(
                content, lambda _, picture=picture: picture, strength=strength, preserve_color=preserve_color
            )
            yield done, images.to_image(blended)
        return
    stroke_size = min(stroke_size * max(1, max(photograph.size) / BASE), STROKE_SIZES[1])
    function = translate if method == "CycleGAN" else stylize
    with LARGE_MEMORY:
        network = load(method, style, device)
        content = images.to_tensor(photograph).to(device)
        painted = function(content, network, strength=strength, preserve_color=preserve_color, stroke_size=stroke_size)
        painting = images.to_image(painted)
    yield 1.0, painting


def optimize(
    content: "Tensor", style: str, stroke_size: float, device: str, end: threading.Event
) -> "Iterator[tuple[float, Tensor]]":
    """Run Gatys in a thread; yields the fraction done and the picture so far twice a second, and the result last."""
    from gatys.regions import resize
    from gatys.stylize import Step, StylizeConfig, stylize

    preset, network = load("Gatys", style, device)
    config = StylizeConfig(size=max(content.shape[2:]), style_scale=stroke_size)
    steps: queue.SimpleQueue[tuple[float, Tensor] | None] = queue.SimpleQueue()

    def on_step(step: Step) -> bool:
        steps.put((step.number / step.total, step.image()))
        return not end.is_set()

    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(stylize, content, [preset], config, network=network, on_step=on_step)
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


if __name__ == "__main__":
    sys.exit(main())
