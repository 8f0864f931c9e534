"""The web page and its HTTP API (`api.py`): `make app`, or `python app.py --port 8000`.

It needs Gradio (extra `app`), and no internet. Pictures lie in one temporary folder, for half an hour at most.
"""

import base64
import contextlib
import ctypes
import html
import importlib.util
import ipaddress
import json
import os
import shlex
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import api
from stylekit import cli
from stylekit.options import THREADS, check_at_least, default_is

if TYPE_CHECKING:
    import uvicorn
    from gradio import Blocks
    from starlette.types import ASGIApp

METHODS = {
    "cyclegan": (
        "A painter",
        "**CycleGAN**: a network that learned to turn one collection of pictures into another. It takes seconds.",
    ),
    "johnson": (
        "A painting",
        "**Johnson**: a network that learned the style of one painting. It takes seconds.",
    ),
    "gatys": (
        "Any painting",
        "**Gatys**: your photograph itself changes until it has the style of the painting. The best and slowest: a "
        "minute for 512 px on two CPU cores. You see it grow, and can stop it.",
    ),
}
"""What visitors read about the methods."""

EXAMPLES = {
    "sklearn/datasets/images/china.jpg": "temple by danielbuechele, CC BY 2.0",
    "sklearn/datasets/images/flower.jpg": "flower by vultilion, CC BY 2.0",
    "skimage/data/rocket.jpg": "rocket by SpaceX, public domain",
    "skimage/data/coffee.png": "cup of coffee by Rachel Michetti, CC0",
    "skimage/data/chelsea.png": "cat by Stefan van der Walt, CC0",
}
"""Photographs that scikit-learn and scikit-image ship, with their credits."""

SIZES = [256, 384, 512, 768, 1024]
"""Longer sides that Gatys paints; networks keep the size of the photograph."""
PREVIEW = 1280
"""Longer side of the pictures that the page shows."""
MINUTES = 30
"""How long files are kept."""

NOTES = f"""Your picture stays on this server for {MINUTES} minutes at most and is used for nothing else. \
Examples from scikit-learn and scikit-image: {"; ".join(EXAMPLES.values())}. Programs use the [HTTP API](docs)."""

CSS = """
.gradio-container {max-width: 1160px !important; margin: 0 auto !important}
.gallery-item img, .gallery-item .container {width: 58px !important; height: 44px !important; object-fit: cover}
#about p {opacity: .75}
#notes p {font-size: .85em; opacity: .65}
#status {min-height: 2em; opacity: .75}
.html-container {padding: 0 !important}
#styles .wrap {display: grid; grid-template-columns: repeat(auto-fill, minmax(100px, 1fr)); gap: 8px}
#styles label {position: relative; flex-direction: column; padding: 4px; gap: 4px; align-items: stretch}
#styles label span {margin: 0; font-size: .8em; line-height: 1.25; text-align: center}
#styles label::before {content: ""; aspect-ratio: 4 / 3; border-radius: 3px; background: center / cover}
#styles label:has(:checked) {outline: 2px solid var(--color-accent)}
#styles input {position: absolute; top: 8px; left: 8px}
.compare {position: relative; width: fit-content; margin: auto; overflow: hidden; border-radius: var(--radius-lg)}
.compare img {display: block; max-width: 100%; max-height: 640px; margin: 0}
.compare img + img {position: absolute; inset: 0; height: 100%; clip-path: inset(0 calc(100% - var(--at, 50%)) 0 0)}
.compare i {position: absolute; inset: 0 auto 0 var(--at, 50%); border-left: 2px solid #fff; translate: -1px}
.compare i::after {content: "↔"; position: absolute; top: 50%; left: -1px; translate: -50% -50%; padding: 0 9px;
  border-radius: 9px; background: var(--color-accent); color: #fff; font: 20px/32px system-ui}
.compare input {position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0; cursor: ew-resize;
  touch-action: pan-y}
.compare:has(:focus-visible) {outline: 3px solid var(--color-accent)}
.empty {display: grid; place-items: center; min-height: 200px; border: 1px dashed var(--border-color-primary);
  border-radius: var(--radius-lg); opacity: .75}
#method .wrap {gap: 6px}
#method label {padding: 6px 8px; font-size: .92em}
.command {display: flex; gap: 8px; align-items: start}
.command code {flex: 1; user-select: all; overflow-wrap: anywhere; padding: 6px 8px !important}
.command button {padding: 4px 10px; border-radius: 6px; background: var(--border-color-primary); font-size: .85em}
.bar {height: 6px; border-radius: 3px; background: var(--border-color-primary); overflow: hidden}
.bar div {height: 100%; background: var(--color-accent); transition: width .5s; animation: bar 1s infinite alternate}
@keyframes bar {to {opacity: .4}}
"""


@dataclass(frozen=True)
class PageConfig:
    """Serve a web page on which visitors paint their photographs, and an HTTP API."""

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
            server = build_server(host, config.port, str(device), folder, config.hosts)
            print(f"http://{host}:{config.port} (page), http://{host}:{config.port}/docs (API); Ctrl-C ends it")
            server.run()
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


def build_server(host: str, port: int, device: str, folder: str, hosts: Sequence[str] = ()) -> "uvicorn.Server":
    """The page and the API; `run()` of the result serves them until it is interrupted.

    Args:
        folder: Where Gradio and the page keep the pictures of visitors.
        hosts: See `PageConfig`.
    """
    # Both are read when Gradio is imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = folder
    import gradio as gr
    import uvicorn

    site = api.build_api(device, Path(folder))
    # The proxy of a Hugging Face Space forwards nothing but requests for the Space.
    names = {"*"} if "SPACE_ID" in os.environ else {"localhost", socket.gethostname(), host, *hosts}
    site.add_middleware(check_host, names={name.lower() for name in names})
    gr.mount_gradio_app(
        site,
        build_page(device, Path(folder)),
        path="/",
        # Fonts of the system: others would be fetched from Google.
        theme=gr.themes.Default(primary_hue="indigo", neutral_hue="stone", font=["system-ui", "sans-serif"]),
        css=CSS + thumbnails(),
        max_file_size=api.MAX_UPLOAD,
        allowed_paths=[folder],
        footer_links=[],
        ssr_mode=False,
        pwa=False,
        run_history=False,
        enable_monitoring=False,
    )
    threading.Thread(target=keep_clean, args=(Path(folder),), daemon=True).start()
    return uvicorn.Server(uvicorn.Config(site, host, port, log_level="warning", timeout_graceful_shutdown=3))


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


def thumbnails() -> str:
    """CSS that shows a picture of each style, as `recipes/thumbnails.py` painted it."""
    from stylekit.networks.weights import BUNDLED

    rules = []
    for path in sorted((BUNDLED / "thumbnails").glob("*.jpg")):
        data = base64.b64encode(path.read_bytes()).decode()
        choice = path.stem.replace("-", "/", 1)
        rules.append(
            f"#styles label:has([value='{choice}'])::before {{background-image: url(data:image/jpeg;base64,{data})}}"
        )
    return "\n".join(rules)


def build_page(device: str, folder: Path) -> "Blocks":
    """The layout of the page, and what its buttons do.

    Args:
        folder: See `build_server`.
    """
    import gradio as gr

    from stylekit.pictures import images

    stops: dict[str | None, threading.Event] = {}
    """Ends the painting of a visitor."""

    def error(problem: Exception) -> gr.Error:
        return gr.Error(html.escape(api.explain(problem)[1]), print_exception=False)

    def check(photo):
        try:
            path = uploaded(photo, folder)
            photograph = api.load_photograph(path)
        except ValueError as problem:
            raise error(problem) from problem
        note = ""
        if size := photograph.scaled_from:
            new = "{} x {}".format(*photograph.image.size)
            note = f"{html.escape(path.name)} has {size[0]} x {size[1]} pixels; it is painted at {new}."
        if size or photograph.format in ("HEIF", "TIFF"):  # Browsers do not show these.
            path = Path(tempfile.mkdtemp(dir=folder), f"{path.name}.{'png' if photograph.alpha else 'jpg'}")
            images.save(photograph.image, path, alpha=photograph.alpha)
        return str(path), note

    def choose(method):
        choices = style_choices(method)
        is_gatys = method == "gatys"
        radio = gr.Radio(choices, value=choices[0][1])
        return METHODS[method][1], radio, gr.Radio(visible=is_gatys), gr.Image(value=None, visible=is_gatys)

    def run(photo, style, own, size, strength, stroke_size, keep_colors, keep_faces, visitor: gr.Request):
        end = stops[visitor.session_hash] = threading.Event()
        try:
            path = uploaded(photo, folder)
            method, _, name = str(style or "gatys/").partition("/")
            look = {"stroke_size": stroke_size, "strength": strength}
            look |= {"preserve_color": keep_colors, "keep_faces": keep_faces}
            settings = api.Settings(method=method, style=name, size=size, **look)
            own_path = uploaded(own, folder) if own else None
            own_painting = api.load_photograph(own_path).image if own_path else None
            photograph = api.load_photograph(path)
            # A browser that is busy skips all updates but the last: each repeats the ones before.
            shown = {button: gr.DownloadButton(interactive=False) for button in downloads.values()}
            shown |= {stop: gr.Button(visible=method == "gatys"), status: bar()}
            yield shown
            place = Path(tempfile.mkdtemp(dir=folder))
            before = place / "before.jpg"
            images.save(images.resize(photograph.image, PREVIEW), before)
            painted = api.paint(photograph.image, settings, device, end, own_painting)
            for number, (done, painting) in enumerate(painted):
                after = place / f"after-{number}.jpg"
                images.save(images.resize(painting, PREVIEW), after)
                shown |= {slider: compare(before, after), status: bar(done)}
                yield shown
            words = command(path, own_path, settings, max(painting.size))
            for suffix, button in downloads.items():
                file = place / f"{path.stem}-{name or 'painted'}.{suffix}"
                api.save(painting, file, photograph.alpha)
                shown |= {button: gr.DownloadButton(value=str(file), interactive=True)}
                yield shown
            facts = [f"{painting.width} x {painting.height} pixels"]
            facts += ["your painting" if own_path else api.styles(method)[name]]
            facts += [f"stroke size {settings.stroke_size:g}", f"strength {settings.strength:g}"]
            facts += ["colors of the photograph"] * settings.preserve_color + ["faces kept"] * settings.keep_faces
            yield shown | {status: f"<p>{' · '.join(facts)}</p>{copyable(words)}"}
        except Exception as problem:
            raise error(problem) from problem

    def stop_painting(visitor: gr.Request):
        if visitor.session_hash in stops:
            stops.pop(visitor.session_hash).set()

    examples = example_photographs()
    with gr.Blocks(title="Image translation") as page:
        gr.Markdown("# Image translation\nTurn a photograph into a painting.")
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                photo = gr.Image(label="Photograph", sources=["upload", "clipboard"], height=220, buttons=[])
                gr.Examples(list(examples), photo, label="Or take one of these", elem_id="examples")
                titles = [(title, name) for name, (title, _) in METHODS.items()]
                method = gr.Radio(titles, value="cyclegan", label="Paint like", elem_id="method")
                about = gr.Markdown(METHODS["cyclegan"][1], elem_id="about")
                choices = style_choices("cyclegan")
                style = gr.Radio(choices, value=choices[0][1], label="Style", elem_id="styles")
                own = gr.Image(label="Or your own painting", sources=["upload"], height=160, buttons=[], visible=False)
                size = gr.Radio(SIZES, value=512, label="Longer side in pixels", visible=False)
                with gr.Accordion("Adjust", open=False):
                    strength = gr.Slider(0, 1, 1, step=0.05, label="Strength")
                    stroke_size = gr.Slider(0.5, 3, 1, step=0.25, label="Stroke size")
                    keep_colors = gr.Checkbox(label="Keep the colors of the photograph")
                    keep_faces = gr.Checkbox(label="Keep faces as they are")
                start = gr.Button("Paint", variant="primary")
            with gr.Column(scale=3, min_width=320):
                slider = gr.HTML('<div class="empty">The painting appears here.</div>', elem_id="result")
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
        for picture in (photo, own):
            checked = picture.upload(check, picture, [picture, status], show_progress="hidden", **raw)
            checked.failure(lambda: None, outputs=picture, **now)
        # Either a style or an own painting.
        own.upload(lambda: None, outputs=style, **now)
        own.clear(lambda: style_choices("gatys")[0][1], outputs=style, **now)
        style.input(lambda: None, outputs=own, **now)
        method.input(choose, method, [about, style, size, own], **now)
        settings = [photo, style, own, size, strength, stroke_size, keep_colors, keep_faces]
        results = [slider, status, stop, *downloads.values()]
        painted = start.click(run, settings, results, concurrency_limit=api.PAINTERS, show_progress_on=slider, **raw)
        painted.then(lambda: gr.Button(visible=False), outputs=stop, **now)
        painted.failure(lambda: "", outputs=status, **now)
        stop.click(stop_painting, **now)
        page.unload(stop_painting)
        label = f"(button, i) => button.ariaLabel = {json.dumps(list(examples.values()))}[i]"
        page.load(js=f"() => document.querySelectorAll('#examples button').forEach({label})")
    return page.queue(max_size=api.QUEUE)


def example_photographs() -> dict[str, str]:
    """The files of `EXAMPLES` whose package is installed, and their names."""
    specs = {name: importlib.util.find_spec(name.partition("/")[0]) for name in EXAMPLES}
    return {
        str(Path(spec.origin).parents[1] / name): f"Photograph of a {EXAMPLES[name].partition(' by ')[0]}"
        for name, spec in specs.items()
        if spec and spec.origin
    }


def style_choices(method: str) -> list[tuple[str, str]]:
    """What visitors read, and the value that they send, for the styles of a method."""
    return [(title, f"{method}/{name}") for name, title in api.styles(method).items()]


def uploaded(photo: Any, folder: Path) -> Path:
    """The file that a visitor has uploaded; a ValueError if there is none.

    Args:
        photo: Gradio's description of the file.
        folder: Where uploads are.
    """
    if photo is None:
        raise ValueError("Drop a photograph first, or take one of the examples.")
    path = Path(str(photo.get("path")) if isinstance(photo, dict) else "")
    # A request that does not come from the page may name any file of this machine.
    if folder.resolve() not in path.resolve().parents:
        raise ValueError(f"{path.name} has not been uploaded.")
    return path


def command(photo: Path, own: Path | None, settings: api.Settings, size: int) -> str:
    """The command that paints the same picture; the longer side of it has `size` pixels."""
    source = original_name(photo)
    words = {
        "cyclegan": ["cyclegan", "translate", source, "--weights", settings.style],
        "johnson": ["johnson", "stylize", source, "--style", settings.style],
        "gatys": ["gatys", source, *([original_name(own)] if own else ["--style", settings.style])],
    }[settings.method]
    if settings.method == "gatys":
        words += ["--size", str(size)] + ["--style-scale", f"{settings.stroke_size:g}"] * (settings.stroke_size != 1)
        words += ["--preserve-color", "luminance"] * settings.preserve_color
    else:
        words += ["--stroke-size", f"{settings.stroke_size:g}"] * (settings.stroke_size != 1)
        words += ["--strength", f"{settings.strength:g}"] * (settings.strength != 1)
        words += ["--preserve-color"] * settings.preserve_color
    words += ["--keep", "faces"] * settings.keep_faces
    only_here = settings.method == "gatys" and settings.strength < 1
    return shlex.join([*words, "-o", "painting.png"]) + f"  # strength {settings.strength:g}: only here" * only_here


def original_name(path: Path) -> str:
    """The name under which a visitor has uploaded a picture, which `check` may have converted."""
    from stylekit.pictures.jobs import PICTURES

    return path.stem if Path(path.stem).suffix.lower() in PICTURES else path.name


def compare(before: Path, after: Path) -> str:
    """HTML that shows the one picture left of a line and the other right of it; keys and fingers move the line."""
    return f"""<div class="compare"><img src="gradio_api/file={after}" alt="The painting">
<img src="gradio_api/file={before}" alt="The photograph"><i></i>
<input type="range" value="50" aria-label="Before and after: how much of the photograph is shown"
oninput="document.documentElement.style.setProperty('--at', this.value + '%')"></div>"""


def copyable(words: str) -> str:
    """HTML of a command with a button that copies it."""
    return f"""<p>The same as a command:</p><div class="command"><code>{html.escape(words)}</code>
<button onclick="navigator.clipboard.writeText(this.previousElementSibling.innerText)">Copy</button></div>"""


def bar(done: float | None = None) -> str:
    """HTML of a progress bar; without a number it only pulses."""
    now = "" if done is None else f'aria-valuenow="{100 * done:.0f}"'
    width = 1.0 if done is None else done
    return (
        f'<div class="bar" role="progressbar" aria-label="Painting" {now}><div style="width: {width:.1%}"></div></div>'
    )


if __name__ == "__main__":
    sys.exit(main())
