"""The command line: `gatys stylize`, `gatys styles`, `gatys make-style`. Heavy imports are inside functions."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatys.options import MakeStyleConfig, StylesConfig, StylizeCommand
from stylekit import cli

if TYPE_CHECKING:
    from torch import Tensor
    from tqdm import tqdm

    from gatys.styles import Style
    from gatys.stylize import Step
    from stylekit.networks.vgg import VGGFeatures


COMMANDS = {"stylize": StylizeCommand, "styles": StylesConfig, "make-style": MakeStyleConfig}


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of `gatys` and `python -m gatys`; returns the exit code.

    Args:
        args: Command line; None takes sys.argv. `gatys PHOTO PAINTING` is short for `gatys stylize PHOTO PAINTING`.
    """
    args = list(sys.argv[1:] if args is None else args)
    if args and args[0] not in (*COMMANDS, "-h", "--help", "--version"):
        args.insert(0, "stylize")
    about = (
        "Neural style transfer (Gatys et al. 2016). `gatys PHOTO PAINTING` is short for `gatys stylize PHOTO PAINTING`."
    )
    with cli.exit_on_error("gatys"):
        config = cli.parse_command(COMMANDS, "gatys", about, args)
        if isinstance(config, StylizeCommand):
            return stylize_all(config) if config.several else stylize(config)
        return make_style(config) if isinstance(config, MakeStyleConfig) else styles()


def stylize_all(config: StylizeCommand) -> int:
    """Stylize photographs one by one; a failure is reported and does not stop the others, a signal does."""
    from stylekit.pictures.jobs import plan_jobs

    output = Path("out") if config.output == StylizeCommand.output else config.output
    jobs, _ = cli.select_jobs(plan_jobs(config.photographs, output), output, False, config.overwrite)
    failed = 0
    for job in jobs:
        inputs = (str(job.source), *config.paintings)
        try:
            code = stylize(dataclasses.replace(config, inputs=inputs, content=(), output=job.target))
        except (ValueError, FileNotFoundError, MemoryError) as error:
            print(f"gatys: {cli.printable(str(error))}", file=sys.stderr)
            failed += 1
        else:
            if code:
                return code
    return 1 if failed else 0


def stylize(config: StylizeCommand) -> int:
    """Stylize one photograph; a signal stops early and keeps the current picture."""
    from tqdm import tqdm

    from gatys.stylize import build_network, scale_sizes
    from stylekit import devices
    from stylekit.training.log import format_duration
    from stylekit.training.signals import collect_signals

    _check_output(config)
    inputs = _load_inputs(config)
    devices.set_threads(config.threads)
    network = build_network(config, devices.choose_device(config.device))
    if config.dry_run:
        return _dry_run(config, inputs["content"], inputs["styles"], network)
    height, width = inputs["content"].shape[2:]
    sizes = scale_sizes(height, width, config)
    total = config.steps * len(sizes)
    intermediate = _intermediate_paths(config, total)
    start = time.monotonic()
    with collect_signals() as caught, tqdm(total=total, unit="step", dynamic_ncols=True, disable=None) as bar:
        progress = _Progress(bar, sizes, config.steps)

        def on_step(step: Step) -> bool:
            progress.update(step)
            if step.number in intermediate:
                _save(step.image(), intermediate[step.number], config)
            return not caught

        result = _run_gatys(config=config, network=network, on_step=on_step, **inputs)
    _save(result, config.output, config)
    height, width = result.shape[2:]
    print(f"painted {config.output}, {width} x {height}, in {format_duration(time.monotonic() - start)}")
    if caught:
        print(f"stopped early; {config.output} is the picture so far")
        return 128 + caught[0]
    return 0


def styles() -> int:
    """List the bundled styles."""
    from gatys.styles import bundled_presets

    for name in bundled_presets():
        print(name)
    return 0


def make_style(config: MakeStyleConfig) -> int:
    """Save the style of paintings in a file."""
    from tqdm import tqdm

    from gatys.styles import make_preset, save_preset, style_network
    from stylekit import atomic, devices
    from stylekit.pictures import images

    output = config.output if config.output.suffix == ".safetensors" else Path(f"{config.output}.safetensors")
    _refuse_existing([output], config.overwrite)
    paths = [path for name in config.paintings for path in (images.find(name) if Path(name).is_dir() else [Path(name)])]
    if not paths:
        raise FileNotFoundError(f"no pictures in {' '.join(config.paintings)}")
    atomic.check_writable(output)
    devices.set_threads(config.threads)
    network = style_network(config.network, config.vgg_weights, config.pooling)
    network.to(devices.choose_device(config.device))
    pictures = (images.load(path) for path in tqdm(paths, unit="painting", disable=None, delay=2))
    save_preset(make_preset(pictures, network), output)
    print(f"saved the style of {len(paths)} painting{'s' if len(paths) > 1 else ''}; use it with --style {output}")
    return 0


def _check_output(config: StylizeCommand) -> None:
    from stylekit.pictures import images

    if config.output.suffix.lower() not in images.FORMATS:
        raise ValueError(f"--output {config.output}: expected a file name ending in {', '.join(images.FORMATS)}")
    inputs = [*config.photographs, *config.paintings, *config.style_mask, *filter(None, [config.content_mask])]
    if any(Path(name).resolve() == config.output.resolve() for name in inputs):
        raise ValueError(f"--output {config.output} is also an input, which is never replaced; choose another --output")
    if not config.dry_run:
        _refuse_existing([config.output], config.overwrite)


def _refuse_existing(paths: Sequence[Path], overwrite: bool) -> None:
    if not overwrite and (existing := [path for path in paths if path.exists()]):
        raise FileExistsError(f"{existing[0]} already exists; add --overwrite or choose another --output")


def _load_inputs(config: StylizeCommand) -> dict[str, Any]:
    """The pictures and presets among the arguments of `gatys.stylize.stylize`."""
    from gatys.styles import load_preset
    from stylekit.pictures import images

    def load(name: str) -> Tensor:
        return images.to_tensor(images.load(name))

    content, *paintings = (load(name) for name in (*config.photographs, *config.paintings))
    return {
        "content": content,
        "styles": [*paintings, *(load_preset(name) for name in config.style)],
        "content_mask": load(config.content_mask) if config.content_mask else None,
        "style_masks": [load(name) for name in config.style_mask],
        "init": None if config.init in ("content", "noise", "style") else load(config.init),
    }


def _intermediate_paths(config: StylizeCommand, steps: int) -> dict[int, Path]:
    """Paths of the intermediate pictures by step; checks that they and the output can be written."""
    from stylekit import atomic

    numbers = range(config.save_every, steps + 1, config.save_every) if config.save_every else ()
    stem, suffix = config.output.stem, config.output.suffix
    paths = {number: config.output.with_name(f"{stem}-{number:04d}{suffix}") for number in numbers}
    _refuse_existing(list(paths.values()), config.overwrite)
    atomic.check_writable(config.output)
    return paths


class _Progress:
    """The progress bar. Its remaining time counts pixels, since the last scales take most of the time."""

    def __init__(self, bar: tqdm[Any], sizes: Sequence[tuple[int, int]], steps: int) -> None:
        self.bar = bar
        self.pixels = [height * width for height, width in sizes for _ in range(steps)]
        self.start = time.monotonic()

    def update(self, step: Step) -> None:
        from stylekit.training.log import format_duration

        self.bar.update()
        if step.number % 10 and step.number < step.total:
            return
        terms = {name: float(value) for name, value in step.terms.items()}
        style = sum(value for name, value in terms.items() if name not in ("content", "tv"))
        seconds_per_pixel = (time.monotonic() - self.start) / sum(self.pixels[: step.number])
        left = format_duration(seconds_per_pixel * sum(self.pixels[step.number :]))
        height, width = step.size
        self.bar.set_postfix_str(f"{width} x {height}, content {terms['content']:.3g}, style {style:.3g}, {left} left")


def _run_gatys(**arguments: Any) -> Tensor:
    from gatys.stylize import stylize
    from stylekit.devices import is_out_of_memory

    try:
        return stylize(**arguments)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryError("out of memory; try --memory 2 (gigabytes), which works in tiles, or --size 512") from error


def _dry_run(config: StylizeCommand, content: Tensor, styles: list[Style], network: VGGFeatures) -> int:
    """Time a few steps at a small size and print estimates for the whole run."""
    from gatys.objective import MARGIN, memory_needed, tile_size
    from gatys.stylize import scale_sizes
    from stylekit.training.log import format_duration

    sizes = scale_sizes(content.shape[2], content.shape[3], config)
    times: list[float] = []
    trial = dataclasses.replace(config, steps=4, size=min(256, max(sizes[-1])), min_size=256, init="content")
    arguments = {"content": content, "styles": styles, "config": trial, "network": network}
    _run_gatys(**arguments, on_step=lambda _: times.append(time.monotonic()))
    height, width = scale_sizes(content.shape[2], content.shape[3], trial)[-1]
    seconds_per_pixel = (times[-1] - times[0]) / (len(times) - 1) / (height * width)
    total = 0.0
    for height, width in sizes:
        tile = tile_size(network, (height, width), config)
        overhead = 1.0 if tile is None else 1.5 * ((tile + 2 * MARGIN) / tile) ** 2
        seconds = seconds_per_pixel * height * width * overhead
        total += seconds * config.steps
        gigabytes = memory_needed(network, (height, width), tile, config) / 2**30
        tiles = "in one piece" if tile is None else f"in tiles of {tile} px"
        print(f"{width} x {height}: {config.steps} steps, about {seconds:.2f} s each, {gigabytes:.1f} GB, {tiles}")
    print(f"about {format_duration(total)} in all")
    return 0


def _save(image: Tensor, path: Path, config: StylizeCommand) -> None:
    """Write a picture with the options in its metadata; TIFF with 16 bits."""
    from stylekit.pictures import images

    options = {name: _without_folders(value) for name, value in dataclasses.asdict(config).items()}
    tiff = path.suffix.lower().startswith(".tif")
    images.save(image, path, f"gatys {json.dumps(options)}", bits=16 if tiff else 8)


def _without_folders(value: Any) -> Any:
    """Pictures are published, and the names of one's folders are nobody's business."""
    if isinstance(value, tuple | list):
        return [_without_folders(part) for part in value]
    return Path(value).name if isinstance(value, str | Path) else value
