"""What every command line of the library does alike: flags from a dataclass, errors as one line, exit codes.

Exit codes: 0 done; 1 failed on the way, or done in part; 2 wrong input; 128 + N stopped by signal N, as shells have it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import io
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import tyro

from stylekit.options import RunConfig

if TYPE_CHECKING:
    from PIL import Image

    from stylekit.files import Job, Outcome
    from stylekit.run import Result

T = TypeVar("T")
C = TypeVar("C", bound=RunConfig)
SHEET_LIMIT = 120
"""Pictures on a sheet: JPEG ends at 65,535 pixels."""

Command = Callable[[Sequence[str]], int]


def parse(options: type[T], args: Sequence[str], prog: str, default: T | None = None) -> T:
    """Read flags into a dataclass. `--help` prints and exits with 0.

    Args:
        options: The dataclass; its docstrings are the help.
        default: Values of flags that are not given, instead of those of the dataclass.

    Raises:
        ValueError: An unknown flag (the message names the nearest known one), a wrong value, a contradiction.
    """
    keywords: dict[str, Any] = {} if default is None else {"default": default}
    # tyro draws a box around an error; logs and scripts want a line.
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            parsed, unknown = tyro.cli(options, prog=prog, args=list(args), return_unknown_args=True, **keywords)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(_first_paragraph(box.getvalue())) from None
    if unknown:
        flag = unknown[0].split("=")[0]
        known = [f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(cast(Any, options))]
        near = difflib.get_close_matches(flag.replace("_", "-"), known, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; `{prog} --help` lists all"
        raise ValueError(f"unknown option {flag}{hint}")
    return parsed


def run(command: Callable[[], int], prog: str) -> int:
    """Run a command and return its exit code; an error becomes one line on standard error.

    Wrong input is what the library raises as ValueError or OSError. `python -X dev` shows the traceback as well.
    """
    try:
        return command()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has had enough; Python must not try to flush it once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError) as error:
        code = 2
        message = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.filename else str(error)
    except (FloatingPointError, MemoryError) as error:
        code, message = 1, str(error)
    if sys.flags.dev_mode:
        import traceback

        traceback.print_exc()
    if os.environ.get("RANK", "0") == "0":
        print(f"{prog}: error: {' '.join(message.split())}", file=sys.stderr)
    return code


def dispatch(commands: Mapping[str, tuple[Command, str]], args: Sequence[str], prog: str, about: str) -> int:
    """Run the sub-command that the first argument names.

    Args:
        commands: By name, what to call with the remaining arguments, and one line of help.
        about: What stands at the top of `--help`.
    """
    if not args or args[0] in ("-h", "--help"):
        width = max(map(len, commands))
        print(f"usage: {prog} COMMAND [OPTIONS]\n\n{about}\n")
        for name, (_, summary) in commands.items():
            print(f"  {name:{width}}  {summary}")
        print(f"\n`{prog} COMMAND --help` lists the options of a command.")
        return 0 if args else 2
    if args[0] in commands:
        return run(lambda: commands[args[0]][0](args[1:]), f"{prog} {args[0]}")

    def unknown() -> int:
        near = difflib.get_close_matches(args[0], commands, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; expected one of {', '.join(commands)}"
        raise ValueError(f"unknown command {args[0]}{hint}")

    return run(unknown, prog)


def train(
    options: type[C],
    args: Sequence[str],
    prog: str,
    again: str,
    start: Callable[[C], Result],
    smaller: Callable[[C], str],
) -> int:
    """A `train` command: train, or go on with --resume; a signal saves first.

    Args:
        options: The dataclass of its flags.
        again: The command to go on with, for the message after a signal.
        start: Trains.
        smaller: What else saves memory, for the message if there is too little.

    Raises:
        ValueError, OSError, FloatingPointError: What `parse` and `start` raise.
        MemoryError: There is too little memory.
    """
    config = parse(options, args, prog, _saved_options(options, args))
    if "WANDB_SWEEP_ID" in os.environ and config.name == options.name:
        # The trials of a sweep differ in their flags only: each needs a folder of its own.
        config = dataclasses.replace(config, name=os.environ["WANDB_RUN_ID"])
    try:
        result = start(config)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryError(
            f"out of memory with --batch-size {config.batch_size} --crop-size {config.crop_size}; try "
            + (f"--batch-size {config.batch_size // 2}, " if config.batch_size > 1 else "")
            + f"--crop-size {config.crop_size // 8 * 4}, --amp on, {smaller(config)}"
        ) from error
    if result.signal is None:
        return 0
    if os.environ.get("RANK", "0") == "0":
        where = "" if config.checkpoints_dir == Path("checkpoints") else f" --checkpoints-dir {config.checkpoints_dir}"
        print(f"stopped and saved at step {result.step}; go on with\n    {again} --name {config.name}{where} --resume")
    return 128 + result.signal


def paint(
    jobs: list[Job],
    start: Callable[[list[Job]], Iterable[Outcome]],
    output: Path,
    sheet: bool,
    overwrite: bool,
    prog: str,
    done: str,
) -> int:
    """The rest of a command that paints files: a bar, a line for each file that fails, a sheet of before and after.

    Args:
        jobs: What `stylekit.files.plan` returns.
        start: Begins the work on those whose result is not there yet.
        output: As the user gave it.
        sheet: Also write sheet.jpg.
        overwrite: Replace what is there already.
        done: What files are then: "translated", "painted".

    Raises:
        FileExistsError: All results are there already, or the sheet is.
        ValueError: The sheet would replace a picture.
    """
    from tqdm import tqdm

    from stylekit import images

    sheet_path = None
    if sheet:
        sheet_path = output / "sheet.jpg"
        if jobs[0].target == output:
            sheet_path = output.with_name(f"{output.stem}-sheet.jpg")
        if any(sheet_path.resolve() in (job.source.resolve(), job.target.resolve()) for job in jobs):
            raise ValueError(f"--sheet: {sheet_path} is a picture of its own here; choose another --output")
    if not overwrite:
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

    failed = 0
    pairs: list[list[Image.Image]] = []
    height = 480 if len(jobs) == 1 else 256
    for outcome in tqdm(start(jobs), total=len(jobs), unit="picture", disable=None, delay=1):
        if outcome.error is not None:
            failed += 1
            tqdm.write(f"{prog}: {outcome.error}", file=sys.stderr)
        elif sheet_path is not None and len(pairs) < SHEET_LIMIT and outcome.before and outcome.after:
            pairs.append([images.resize(picture, 2 * height) for picture in (outcome.before, outcome.after)])
    count = len(jobs) - failed
    noun = "picture" if all(job.target.suffix.lower() in images.FORMATS for job in jobs) else "file"
    if count:
        where = jobs[0].target if len(jobs) == 1 else output
        print(f"{done} {count} {noun}{'s' if count > 1 else ''}: {where}")
    if pairs and sheet_path is not None:
        across = 1 if len(pairs) <= 4 else 3
        rows = [list(itertools.chain(*pairs[i : i + across])) for i in range(0, len(pairs), across)]
        images.save(images.sheet(rows, ("before", "after") * across, height), sheet_path)
        print(f"before and after{f' (the first {SHEET_LIMIT})' if count > SHEET_LIMIT else ''}: {sheet_path}")
    return 1 if failed else 0


def list_networks(args: Sequence[str], prog: str, about: str, kind: str = "") -> int:
    """A command that lists the networks of a kind that come with the library, each with the title of its model card."""
    if args:
        print(f"usage: {prog}\n\n{about}")
        return 0 if args[0] in ("-h", "--help") else 2
    from stylekit.weights import shipped

    for name, folder in shipped(kind).items():
        card = folder / "README.md"
        lines = card.read_text(encoding="utf-8").splitlines() if card.is_file() else []
        title = next((line.lstrip("# ") for line in lines if line.startswith("# ")), "")
        print(f"{name:28} {title}")
    return 0


def _saved_options(options: type[C], args: Sequence[str]) -> C | None:
    """With --resume, the options of the run that is gone on with: they are the defaults then."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--resume", "--continue-train", "--continue_train", action="store_true")
    parser.add_argument("--name", default=options.name)
    parser.add_argument("--checkpoints-dir", "--checkpoints_dir", type=Path, default=options.checkpoints_dir)
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
        known = {field.name for field in dataclasses.fields(options)}
        saved = {k: tuple(v) if isinstance(v, list) else v for k, v in saved.items() if k in known}
        # The folder may have been moved or renamed since.
        return options(**{**saved, "name": given.name, "checkpoints_dir": given.checkpoints_dir, "resume": True})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path}: not the options of a run ({error}); give all options again, without this file"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is short: PyTorch has a class of its own for CUDA only."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def _first_paragraph(box: str) -> str:
    """The text of tyro's box up to its first rule, as one line."""
    lines = []
    for line in box.splitlines()[1:]:
        text = line.strip(" │")
        if not text.strip("─╰╯"):
            break
        lines.append(text)
    return re.sub(r"^Error parsing \w+: ", "", " ".join(lines))
