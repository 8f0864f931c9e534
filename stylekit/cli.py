"""What every command line of the library does alike: flags from a dataclass, errors as one line, exit codes.

Exit codes: 0 done; 1 failed on the way, or done in part; 2 wrong input; 128 + N stopped by signal N, as shells have it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import tyro

T = TypeVar("T")
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
