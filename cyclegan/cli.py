"""The command line: `cyclegan train`, `cyclegan translate`, `cyclegan weights`. Heavy imports wait until needed."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cyclegan.options import TrainConfig, TranslateConfig
from stylekit import cli

if TYPE_CHECKING:
    from PIL import Image

SHEET_LIMIT = 120
"""Pictures on a sheet: JPEG ends at 65,535 pixels."""


def main() -> None:
    """Entry point of `cyclegan` and of `python -m cyclegan`."""
    commands = {
        "train": (train, "train two generators on two folders of pictures"),
        "translate": (translate, "translate pictures and folders of pictures"),
        "weights": (weights, "list the networks that come with the library"),
    }
    about = "Unpaired image-to-image translation with cycle-consistent adversarial networks (Zhu et al. 2017)."
    sys.exit(cli.dispatch(commands, sys.argv[1:], "cyclegan", about))


def train_main() -> None:
    """Entry point of train.py."""
    sys.exit(cli.run(lambda: train(sys.argv[1:], "train.py"), "train.py"))


def train(args: Sequence[str], prog: str = "cyclegan train") -> int:
    """Train, or go on; a signal saves first."""
    config = cli.parse(TrainConfig, args, prog, _saved_options(args))
    if "WANDB_SWEEP_ID" in os.environ and config.name == TrainConfig.name:
        # The trials of a sweep differ in their flags only: each needs a folder of its own.
        config = replace(config, name=os.environ["WANDB_RUN_ID"])
    from cyclegan import train as training
    from stylekit import distributed

    try:
        result = training.train(config)
    except (RuntimeError, MemoryError) as error:
        if not cli.is_out_of_memory(error):
            raise
        smaller = config.crop_size // 8 * 4
        raise MemoryError(
            f"out of memory with --batch-size {config.batch_size} --crop-size {config.crop_size} --ngf {config.ngf}; "
            + "try "
            + (f"--batch-size {config.batch_size // 2}, " if config.batch_size > 1 else "")
            + f"--crop-size {smaller}, --amp on, --n-blocks 6 or --ngf {max(1, config.ngf // 2)}"
        ) from error
    if result.signal is None:
        return 0
    if distributed.is_main():
        script = "python train.py" if prog == "train.py" else prog
        where = "" if config.checkpoints_dir == Path("checkpoints") else f" --checkpoints-dir {config.checkpoints_dir}"
        print(f"stopped and saved at step {result.step}; go on with\n    {script} --name {config.name}{where} --resume")
    return 128 + result.signal


def translate(args: Sequence[str]) -> int:
    """Translate what is given; name what cannot be, and go on."""
    config = cli.parse(TranslateConfig, args, "cyclegan translate")
    from tqdm import tqdm

    from cyclegan.translate import load_generator, plan, translate_files
    from stylekit import distributed, images

    jobs = plan(config.inputs, config.output, config.format)
    sheet_path = None
    if config.sheet:
        sheet_path = config.output / "sheet.jpg"
        if jobs[0].target == config.output:
            sheet_path = config.output.with_name(f"{config.output.stem}-sheet.jpg")
        if any(sheet_path.resolve() in (job.source.resolve(), job.target.resolve()) for job in jobs):
            raise ValueError(f"--sheet: {sheet_path} is a picture of its own here; choose another --output")
    if not config.overwrite:
        there = [job for job in jobs if job.target.exists()]
        if len(there) == len(jobs):
            rest = f" and {len(there) - 1} more" if len(there) > 1 else ""
            raise FileExistsError(
                f"{there[0].target}{rest} exist(s) already; add --overwrite, or choose another --output"
            )
        if sheet_path is not None and sheet_path.exists():
            raise FileExistsError(f"{sheet_path} exists already; add --overwrite, or choose another --output")
        if there:
            print(f"left alone {len(there)} pictures that were there already (--overwrite replaces them)")
            jobs = [job for job in jobs if job not in there]
    device = distributed.choose_device(config.device)
    generator = load_generator(config.weights, config.direction)

    failed = 0
    pairs: list[list[Image.Image]] = []
    height = 480 if len(jobs) == 1 else 256
    outcomes = translate_files(jobs, generator, device, config.size)
    for outcome in tqdm(outcomes, total=len(jobs), unit="picture", disable=None, delay=1):
        if outcome.error is not None:
            failed += 1
            tqdm.write(f"cyclegan translate: {outcome.error}", file=sys.stderr)
        elif sheet_path is not None and len(pairs) < SHEET_LIMIT and outcome.before and outcome.after:
            pairs.append([images.resize(picture, 2 * height) for picture in (outcome.before, outcome.after)])
    done = len(jobs) - failed
    if done:
        where = jobs[0].target if len(jobs) == 1 else config.output
        print(f"translated {done} picture{'s' if done > 1 else ''}: {where}")
    if pairs and sheet_path is not None:
        across = 1 if len(pairs) <= 4 else 3
        rows = [list(itertools.chain(*pairs[i : i + across])) for i in range(0, len(pairs), across)]
        images.save(images.sheet(rows, ("before", "after") * across, height), sheet_path)
        print(f"before and after{f' (the first {SHEET_LIMIT})' if done > SHEET_LIMIT else ''}: {sheet_path}")
    return 1 if failed else 0


def weights(args: Sequence[str]) -> int:
    """List the shipped networks, each with the first line of its model card."""
    if args:
        print("usage: cyclegan weights\n\nList the networks that come with the library, for --weights.")
        return 0 if args[0] in ("-h", "--help") else 2
    from stylekit.weights import shipped

    for name, folder in shipped().items():
        card = folder / "README.md"
        lines = card.read_text(encoding="utf-8").splitlines() if card.is_file() else []
        title = next((line.lstrip("# ") for line in lines if line.startswith("# ")), "")
        print(f"{name:24} {title}")
    return 0


def _saved_options(args: Sequence[str]) -> TrainConfig | None:
    """With --resume, the options of the run that is gone on with: they are the defaults then."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--resume", "--continue-train", "--continue_train", action="store_true")
    parser.add_argument("--name", default=TrainConfig.name)
    parser.add_argument("--checkpoints-dir", "--checkpoints_dir", type=Path, default=TrainConfig.checkpoints_dir)
    parser.add_argument("-h", "--help", action="store_true")
    try:
        given, _ = parser.parse_known_args(args)
    except SystemExit:  # A flag without its value: the real parser says so.
        return None
    if not given.resume or given.help:
        return None
    path = given.checkpoints_dir / given.name / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"nothing to resume: no {path}; leave out --resume, or check --name and --checkpoints-dir"
        )
    try:
        saved = json.loads(path.read_text())
        known = {field.name for field in fields(TrainConfig)}
        saved = {key: value for key, value in saved.items() if key in known}
        # The folder may have been moved or renamed since.
        return TrainConfig(**{**saved, "name": given.name, "checkpoints_dir": given.checkpoints_dir, "resume": True})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path}: not the options of a run ({error}); give all options again, without this file"
        ) from error
