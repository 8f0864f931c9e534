"""The command line: `gatys PHOTO PAINTING`, `gatys styles`, `gatys make-style`. Heavy imports wait until needed."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gatys.options import MakeStyleConfig, PaintConfig, StylizeConfig
from stylekit import cli

if TYPE_CHECKING:
    from torch import Tensor

    from gatys.styles import Preset
    from gatys.stylize import Step
    from stylekit.vgg import VGGFeatures


def main() -> None:
    """Entry point of `gatys` and of `python -m gatys`."""
    commands = {"styles": styles, "make-style": make_style}
    args = sys.argv[1:]
    if args and args[0] in commands:
        sys.exit(cli.run(lambda: commands[args[0]](args[1:]), f"gatys {args[0]}"))
    sys.exit(cli.run(lambda: paint(args), "gatys"))


def paint(args: Sequence[str]) -> int:
    """Paint one photograph; a signal keeps the picture so far."""
    config = cli.parse(PaintConfig, args, "gatys")
    from stylekit import checkpoint, distributed, images

    if config.output.suffix.lower() not in images.FORMATS:
        raise ValueError(f"--output {config.output}: expected a name that ends in one of {' '.join(images.FORMATS)}")
    inputs = [*config.inputs, *config.style_mask, *filter(None, [config.content_mask])]
    if any(Path(name).resolve() == config.output.resolve() for name in inputs):
        raise ValueError(f"--output {config.output} is an input itself and is never replaced; choose another")
    if config.output.exists() and not config.overwrite and not config.dry_run:
        raise FileExistsError(f"{config.output} exists already; add --overwrite, or choose another --output")

    def read(name: str) -> Tensor:
        return images.to_tensor(images.load(name))

    from gatys.styles import load_preset

    content, *paintings = (read(name) for name in config.inputs)
    presets = [load_preset(name) for name in config.style]
    content_mask = read(config.content_mask) if config.content_mask else None
    style_masks = [read(name) for name in config.style_mask]
    init = None if config.init in ("content", "noise", "style") else read(config.init)

    from gatys.stylize import build_network, plan, stylize
    from stylekit.training import clock, collect_signals

    device = distributed.choose_device(config.device)
    network = build_network(config, device)
    if config.dry_run:
        return _dry_run(config, content, [*paintings, *presets], network)

    from tqdm import tqdm

    total = config.steps * len(plan(content.shape[2], content.shape[3], config))
    on_the_way = {
        number: config.output.with_name(f"{config.output.stem}-{number:04d}{config.output.suffix}")
        for number in (range(config.save_every, total + 1, config.save_every) if config.save_every else ())
    }
    if not config.overwrite and (there := [path for path in on_the_way.values() if path.exists()]):
        raise FileExistsError(f"{there[0]} exists already; add --overwrite, or choose another --output")
    checkpoint.check_writable(config.output)
    begun = time.monotonic()
    with collect_signals() as caught, tqdm(total=total, unit="step", dynamic_ncols=True, disable=None) as bar:
        work = _Work(content.shape[2], content.shape[3], config)

        def show(step: Step) -> bool:
            bar.update()
            if step.number % 10 == 0 or step.number == step.total:
                terms = {name: float(value) for name, value in step.terms.items()}
                style = sum(value for name, value in terms.items() if name not in ("content", "tv"))
                left = work.left(step.number, time.monotonic() - begun)
                text = f"{step.size[1]} x {step.size[0]}, content {terms['content']:.3g}, style {style:.3g}"
                bar.set_postfix_str(f"{text}, {clock(left)} left")
            if step.number in on_the_way:
                _save(step.image(), on_the_way[step.number], config)
            return not caught

        try:
            result = stylize(
                content,
                [*paintings, *presets],
                config,
                network=network,
                content_mask=content_mask,
                style_masks=style_masks,
                init=init,
                on_step=show,
            )
        except (RuntimeError, MemoryError) as error:
            if not cli.is_out_of_memory(error):
                raise
            raise MemoryError(
                "out of memory; try --memory 2 (gigabytes; it works in tiles then), or --size 512"
            ) from error
    _save(result, config.output, config)
    height, width = result.shape[2:]
    print(f"painted {config.output}, {width} x {height}, in {clock(time.monotonic() - begun)}")
    if caught:
        print("stopped early: this is the picture so far")
        return 128 + caught[0]
    return 0


def styles(args: Sequence[str]) -> int:
    """List the styles that come with the library."""
    if args:
        print("usage: gatys styles\n\nList the styles that come with the library, for --style.")
        return 0 if args[0] in ("-h", "--help") else 2
    from gatys.styles import shipped_presets

    for name in shipped_presets():
        print(name)
    return 0


def make_style(args: Sequence[str]) -> int:
    """Keep the style of paintings in a file."""
    config = cli.parse(MakeStyleConfig, args, "gatys make-style")
    from tqdm import tqdm

    from gatys.styles import make_preset, save_preset, style_network
    from stylekit import checkpoint, distributed, images

    output = config.output if config.output.suffix == ".safetensors" else Path(f"{config.output}.safetensors")
    if output.exists() and not config.overwrite:
        raise FileExistsError(f"{output} exists already; add --overwrite, or choose another --output")
    paths = [path for name in config.paintings for path in (images.find(name) if Path(name).is_dir() else [Path(name)])]
    if not paths:
        raise FileNotFoundError(f"no pictures in {' '.join(config.paintings)}")
    checkpoint.check_writable(output)
    network = style_network(config.network, config.vgg_weights, config.pooling)
    network.to(distributed.choose_device(config.device))
    pictures = (images.load(path) for path in tqdm(paths, unit="painting", disable=None, delay=2))
    save_preset(make_preset(pictures, network), output)
    print(f"the style of {len(paths)} painting{'s' if len(paths) > 1 else ''} is in {output}: --style {output}")
    return 0


class _Work:
    """How much work each step is, to tell the time that is left: nearly all of it is in the last scales."""

    def __init__(self, height: int, width: int, config: StylizeConfig) -> None:
        from gatys.stylize import plan

        self.parts = [h * w for h, w in plan(height, width, config) for _ in range(config.steps)]

    def left(self, done: int, seconds: float) -> float:
        """Seconds for what is left, if `done` steps took `seconds`."""
        return seconds / max(1, sum(self.parts[:done])) * sum(self.parts[done:])


def _dry_run(config: PaintConfig, content: Tensor, styles: Sequence[Tensor | Preset], network: VGGFeatures) -> int:
    """Measure a few small steps, and tell from them about the whole."""
    from gatys.objective import MARGIN
    from gatys.stylize import memory_needed, plan, stylize, tile_size
    from stylekit.training import clock

    sizes = plan(content.shape[2], content.shape[3], config)
    ready: list[float] = []
    trial = dataclasses.replace(config, steps=4, size=min(256, max(sizes[-1])), min_size=256, init="content")
    stylize(content, styles, trial, network=network, on_step=lambda _: ready.append(time.monotonic()))
    small = plan(content.shape[2], content.shape[3], trial)[-1]
    per_pixel = (ready[-1] - ready[0]) / (len(ready) - 1) / (small[0] * small[1])
    seconds = 0.0
    for height, width in sizes:
        tile = tile_size(network, (height, width), config)
        each = per_pixel * height * width * (1.0 if tile is None else 1.5 * ((tile + 2 * MARGIN) / tile) ** 2)
        seconds += each * config.steps
        memory = memory_needed(network, (height, width), tile, config) / 2**30
        how = "whole" if tile is None else f"in tiles of {tile} px"
        print(f"{width} x {height}: {config.steps} steps, about {each:.2f} s each, {memory:.1f} GB, {how}")
    print(f"about {clock(seconds)} in all")
    return 0


def _save(image: Tensor, path: Path, config: PaintConfig) -> None:
    """Write the picture with its options; TIFF with 16 bits."""
    from stylekit import images

    plain = {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(config).items()}
    images.save(
        image, path, description=f"gatys {json.dumps(plain)}", bits=16 if path.suffix.lower().startswith(".tif") else 8
    )
