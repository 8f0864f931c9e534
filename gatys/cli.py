"""The command line: `gatys stylize`, `gatys styles`, `gatys make-style`. Heavy imports are inside functions."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatys.options import MakeStyleConfig, StylesConfig, StylizeCommand
from stylekit import cli
from stylekit.options import did_you_mean, parse_weights

if TYPE_CHECKING:
    from torch import Tensor

    from gatys.stylize import Step
    from stylekit.pictures.jobs import Job, Outcome


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of `gatys` and `python -m gatys`; returns the exit code. `gatys PHOTO` is `gatys stylize PHOTO`."""
    commands: cli.Commands = {
        "stylize": (StylizeCommand, stylize),
        "styles": (StylesConfig, styles),
        "make-style": (MakeStyleConfig, make_style),
    }
    args = list(sys.argv[1:] if args is None else args)
    known = args and args[0] in (*commands, "-h", "--help", "--version")
    if args and not known and (Path(args[0]).exists() or not did_you_mean(args[0], commands)):
        args.insert(0, "stylize")
    about = "Neural style transfer (Gatys et al. 2016). `gatys PHOTO PAINTING` means `gatys stylize PHOTO PAINTING`."
    with cli.exit_on_error("gatys"):
        command, config = cli.parse_command(commands, "gatys", about, args)
        return command(config)


def stylize(config: StylizeCommand) -> int:
    """Stylize photographs one by one; a failure is reported and does not stop the others.

    A signal stops early and keeps the current picture.
    """
    output = Path("out") if config.several and config.output == StylizeCommand.output else config.output
    with cli.standard_streams(dataclasses.replace(config, output=output)) as (config, report):
        return _stylize_all(config, report)


def _stylize_all(config: StylizeCommand, report: Callable[[Outcome], None]) -> int:
    from gatys.stylize import build_network
    from stylekit import devices
    from stylekit.pictures import images
    from stylekit.pictures.jobs import Outcome, plan_jobs

    output = config.output
    if not config.several and output.suffix.lower() not in images.FORMATS:
        raise ValueError(f"--output {output}: expected a file name ending in {', '.join(images.FORMATS)}")
    jobs = plan_jobs(config.photographs, output)
    paintings, styles = parse_weights("painting", config.paintings), parse_weights("--style", config.style)
    others = (*paintings, *config.style_regions, *filter(None, [config.mask, config.regions]))
    if replaced := {Path(name).resolve() for name in others} & {job.target.resolve() for job in jobs}:
        raise ValueError(f"{replaced.pop()} is also an input and is never replaced; choose another --output")
    jobs, _ = cli.select_jobs(jobs, output, sheet=False, overwrite=config.overwrite)
    arguments: dict[str, Any] = {
        "styles": {images.to_tensor(images.load(name)): weight for name, weight in paintings.items()} | styles,
        "mask": config.mask,
        "keep": config.keep,
        "regions": config.regions,
        "style_regions": config.style_regions,
        "init": None if config.init in ("content", "noise", "style") else config.init,
    }
    devices.set_threads(config.threads)
    arguments["network"] = build_network(config, devices.choose_device(config.device))
    failed = 0
    for job in jobs:
        try:
            outcome, signal = _stylize_one(job, config, arguments)
        except (ValueError, FileNotFoundError, MemoryError) as error:
            report(Outcome(job, error=str(error)))
            if not config.several:
                raise
            print(f"gatys: {cli.printable(str(error))}", file=sys.stderr)
            failed += 1
        else:
            report(outcome)
            if signal:
                return 128 + signal
    return 1 if failed else 0


def styles(config: StylesConfig) -> int:
    """List the bundled styles."""
    from gatys.styles import bundled_presets

    print("\n".join(bundled_presets()))
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


def _refuse_existing(paths: Iterable[Path], overwrite: bool) -> None:
    if not overwrite and (existing := [path for path in paths if path.exists()]):
        raise FileExistsError(f"{existing[0]} already exists; add --overwrite or choose another --output")


def _stylize_one(job: Job, config: StylizeCommand, arguments: dict[str, Any]) -> tuple[Outcome, int]:
    """Stylize one photograph; return the outcome and the signal that stopped it early, or 0.

    Args:
        arguments: Of `gatys.stylize.stylize`.
    """
    from tqdm import tqdm

    from gatys.stylize import scale_sizes, stylize
    from stylekit import atomic
    from stylekit.devices import memory_hint
    from stylekit.pictures import images
    from stylekit.pictures.jobs import Outcome
    from stylekit.training.log import format_duration
    from stylekit.training.signals import collect_signals

    content = images.to_tensor(images.load(job.source))
    sizes = scale_sizes(content.shape[2], content.shape[3], config)
    steps = range(config.save_every, config.steps * len(sizes) + 1, config.save_every) if config.save_every else ()
    intermediate = {step: job.target.with_stem(f"{job.target.stem}-{step:04d}") for step in steps}
    _refuse_existing(intermediate.values(), config.overwrite)
    atomic.check_writable(job.target)
    # The names of one's folders are nobody's business.
    shown = dataclasses.replace(config, inputs=(str(job.source), *config.paintings), content=(), output=job.target)
    options = {name: _without_folders(value) for name, value in dataclasses.asdict(shown).items()}

    def save(image: Tensor, path: Path) -> None:
        tiff = path.suffix.lower().startswith(".tif")
        images.save(image, path, f"gatys {json.dumps(options)}", bits=16 if tiff else 8)

    start = time.monotonic()
    # The bar counts pixels, since the last scales take most of the time.
    pixels = config.steps * sum(height * width for height, width in sizes)
    bar_format = "{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
    bar = tqdm(total=pixels, bar_format=bar_format, smoothing=0, dynamic_ncols=True, disable=None)
    with collect_signals() as caught, bar:

        def on_step(step: Step) -> bool:
            height, width = step.size
            bar.update(height * width)
            if not bar.disable and (step.number % 10 == 0 or step.number == step.total):
                style = sum(float(step.terms[layer]) for layer in config.style_layers)
                bar.set_postfix_str(f"{width} x {height}, content {step.terms['content']:.3g}, style {style:.3g}")
            if step.number in intermediate:
                save(step.image(), intermediate[step.number])
            return not caught

        with memory_hint("; try --memory 2 (gigabytes), which works in tiles, or --size 512"):
            result = stylize(content, config=config, on_step=on_step, **arguments)
    save(result, job.target)
    (height, width), seconds = result.shape[2:], time.monotonic() - start
    print(f"painted {cli.printable(str(job.target))}, {width} x {height}, in {format_duration(seconds)}")
    if caught:
        print(f"stopped early; {job.target} is the picture so far")
    return Outcome(job, after=images.to_image(result), seconds=seconds), caught[0] if caught else 0


def _without_folders(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_without_folders(part) for part in value]
    return Path(value).name if isinstance(value, str | Path) else value
