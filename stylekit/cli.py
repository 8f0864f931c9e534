"""What the command lines share: flags from dataclasses, exit codes, and reports on training and on files.

Exit codes: 0 success; 1 failed or partly failed; 2 invalid input; 128 + N stopped by signal N, as in shells.
With `-o -` or --json, standard output has nothing else; messages go to standard error.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import re
import shlex
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar, get_type_hints

import tyro

from stylekit import __version__
from stylekit.atomic import check_writable
from stylekit.options import ExportOptions, PictureOptions, RunConfig, RunName, did_you_mean, hidden, nest

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor, nn

    from stylekit.measures.table import Evaluation
    from stylekit.pictures.jobs import Job, Outcome
    from stylekit.training.run import Result

T = TypeVar("T")
C = TypeVar("C", bound=RunConfig)
N = TypeVar("N", bound="nn.Module")

Commands = Mapping[str, tuple[type, Callable[[Any], int]]]  # Options of each sub-command, and its function.
FLAGS = (tyro.conf.OmitArgPrefixes,)  # Groups of options are titled boxes in --help, not parts of the flags.
SHEET_LIMIT = 120  # Pictures on a contact sheet: JPEG is limited to 65,535 pixels per side.

# Idle OpenMP threads sleep instead of spinning. It costs nothing on an idle machine (benchmarks/README.md); on a busy
# one spinning makes two threads slower than one. It must be set before PyTorch loads OpenMP.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Huge pages for tensors: a twentieth of the page faults, of which a large picture causes millions.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


@contextmanager
def exit_on_error(prog: str) -> Iterator[None]:
    """Turn errors into one line on standard error and an exit code.

    ValueError and OSError mean invalid input. `python -X dev` also shows the traceback.
    """
    # Pillow warns about metadata that we ignore and sizes that we check ourselves.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        yield
        sys.stdout.flush()  # Otherwise a broken pipe is only noticed, and reported, when Python exits.
        return
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output has gone; keep Python from flushing it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except ChildProcessError as error:
        code, message = 1, str(error)
    except (ValueError, OSError) as error:
        code = 2
        message = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.filename else str(error)
    except (FloatingPointError, MemoryError) as error:
        code, message = 1, str(error) or "out of memory"
    if sys.flags.dev_mode:
        import traceback

        traceback.print_exc()
    line = f"{prog}: error: {printable(message)}"
    if _is_main():
        print(line, file=sys.stderr)
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):  # torchrun ends its report with what it finds there.
        Path(file).write_text(json.dumps({"message": {"message": line, "extraInfo": {"timestamp": int(time.time())}}}))
    sys.exit(code)


def printable(text: str) -> str:
    """One line without control characters, which a file name may contain and a terminal would obey; not endless."""
    line = re.sub(
        r"\S*/stdio-\w+/(standard)-(\w+)(\.\w+)?", r"\1 \2", " ".join(text.split())
    )  # See `standard_streams`.
    if len(line) > 1000:
        line = f"{line[:1000].rstrip()} ..."
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


def parse_command(
    commands: Commands, prog: str, description: str, args: Sequence[str] | None = None
) -> tuple[Callable[[Any], int], Any]:
    """Read a sub-command and its flags from `args`, or else from sys.argv; return its function and its options.

    Exits with 0 after --help and --version.

    Raises:
        ValueError: A command or a flag is wrong.
    """
    args = _arguments(prog, args)
    if args[:1] in (["-h"], ["--help"]):
        lines = [f"  {name:12}{_sentence(options.__doc__)}" for name, (options, _) in commands.items()]
        lines = [f"usage: {prog} COMMAND [OPTIONS]\n\n{description}\n", *lines]
        print("\n".join([*lines, f"\n{prog} COMMAND --help lists the options of a command."]))
        sys.exit(0)
    if not args:
        raise ValueError(f"no command: expected {', '.join(commands)}; see `{prog} --help`")
    if args[0] not in commands:
        hint = did_you_mean(args[0], commands) or f": expected {', '.join(commands)}"
        raise ValueError(f"no command {args[0]}{hint}; see `{prog} --help`")
    options, function = commands[args[0]]
    return function, parse(options, f"{prog} {args[0]}", args[1:])


def parse(options: type[T], prog: str, args: Sequence[str] | None = None) -> T:
    """Read the flags of a program without sub-commands; see `parse_command`."""
    args = _arguments(prog, args)
    explain = functools.partial(_explain, options, prog, args)
    # The hook is not public. Without it, tyro prints its own explanations.
    hooks: Any = getattr(tyro, "_errors", None)
    with hooks.on_parse_error(explain) if hasattr(hooks, "on_parse_error") else nullcontext():
        default: Any = training_defaults(options, prog, args)
        return tyro.cli(options, prog=prog, args=args, default=default, config=FLAGS, console_outputs=_is_main())


def _explain(options: type, prog: str, args: Sequence[str], event: Any) -> None:
    """Raise a ValueError with one line about wrong flags, instead of the box that tyro prints about an event."""
    kind, reason = type(event).__name__, ""
    if unknown := getattr(event, "unrecognized_tokens", None) or getattr(event, "tokens", None):
        given = next((token for token in unknown if token.startswith("-")), unknown[0])
        what = "option" if given.startswith("-") else "argument"
        flag = given.partition("=")[0].replace("_", "-")
        reason = f"unknown {what} {given}{did_you_mean(flag, flags_of(options))}"
    elif kind == "MissingArgs":
        for argument in (context.arg for context in event.missing_arguments):
            name = argument.lowered.metavar if argument.is_positional() else argument.lowered.name_or_flags[-1]
            text = argument.field.helptext
            reason += f"{' and ' * bool(reason)}{name} is missing ({_sentence(text() if callable(text) else text)})"
    elif (argument := getattr(event, "argument", None)) is not None:
        flags, kind = argument.lowered.name_or_flags, str(argument.lowered.metavar)
        kind = f"one of {', '.join(kind[1:-1].split(','))}" if kind.startswith("{") else _KINDS.get(kind, kind)
        # In args flags may have underscores, and values may follow a blank or =.
        names = [arg.partition("=")[0].replace("_", "-") for arg in args]
        at = max((i for i, name in enumerate(names) if name in flags), default=len(args))
        values = itertools.takewhile(lambda arg: not re.match(r"--?[a-zA-Z]", arg), args[at + 1 :])
        reason = " ".join([*args[at : at + 1], *values]) + f": expected {kind}"
    elif kind == "InstantiationFailure":
        reason = event.message
    if reason:
        raise ValueError(f"{reason}; see `{prog} --help`")


_KINDS = {"INT": "an integer", "FLOAT": "a number", "[FLOAT [FLOAT ...]]": "numbers"}


def flags_of(options: Any) -> list[str]:
    """All flags of a dataclass with groups, without aliases."""
    found: list[str] = []
    for name, kind in get_type_hints(options).items():
        if name.islower() and name not in hidden(options):
            found += flags_of(kind) if dataclasses.is_dataclass(kind) else [f"--{name.replace('_', '-')}"]
    return found


def _sentence(text: str | None) -> str:
    return (text or "").split("\n")[0].split(". ")[0].rstrip(".")


def training_defaults(options: type[Any], prog: str, args: Sequence[str]) -> Any:
    """The defaults of a training command: those of the preset or, with --resume, the saved options of the run."""
    if not issubclass(options, RunConfig):
        return tyro.MISSING_NONPROP
    given, _ = tyro.cli(
        RunName,
        prog=prog,
        args=list(args),
        default=RunName(preset=options.preset),
        return_unknown_args=True,
        add_help=False,
        console_outputs=_is_main(),
    )
    if not given.resume or {"-h", "--help"} & set(args):
        return options.from_preset(given.preset)
    path = given.checkpoints_dir / given.name / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"no run to resume at {path}; remove --resume, or check --name and --checkpoints-dir")
    from pydantic import TypeAdapter, ValidationError

    try:
        # The folder may have been moved or renamed.
        place = {"name": given.name, "checkpoints_dir": given.checkpoints_dir, "resume": True}
        saved = options.read_saved(json.loads(path.read_text()))
        return TypeAdapter(options).validate_python(nest(options, saved | place))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = ": ".join([*map(str, first["loc"][-1:]), first["msg"]])
        raise ValueError(f"{path}: damaged ({reason}); restore it, or start a new run with another --name") from error


def run_training(train: Callable[[C], Result], config: C, smaller: str, command: str) -> int:
    """Train or resume a run; say how to resume it if a signal stops it; return the exit code.

    Args:
        smaller: Options of a smaller network, for a message if memory runs out.
        command: The command that was given, such as "cyclegan train".
    """
    from stylekit import devices

    config = sweep_name(config)
    devices.set_threads(config.machine.threads)
    with training_hint(config, smaller):
        result = train(config)
    return report_training(result, config, command)


def sweep_name(config: C) -> C:
    """In a W&B sweep, whose trials differ only in their flags, give each run the folder of its trial's id."""
    if "WANDB_SWEEP_ID" in os.environ and config.name == RunName.name:
        return dataclasses.replace(config, name=os.environ["WANDB_RUN_ID"])
    return config


@contextmanager
def training_hint(config: RunConfig, smaller: str) -> Iterator[None]:
    """Turn errors of training into ones that name the options that help; `smaller` are those of a smaller network."""
    from stylekit import distributed
    from stylekit.devices import memory_hint

    batch, crop = config.data.batch_size, config.data.crop_size
    hint = f"--batch-size {batch // 2}, " if batch > 1 else ""
    hint = f" with --batch-size {batch} --crop-size {crop}; try {hint}--crop-size {crop // 8 * 4}, --amp on, {smaller}"
    try:
        with memory_hint(hint):
            yield
    except RuntimeError as error:
        if distributed.is_lost_process(error):
            raise ChildProcessError("another process was killed or has failed; continue with --resume") from error
        if config.machine.compile and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            reason = str(error).strip().splitlines()[0]
            raise ValueError(
                f"--compile: PyTorch cannot compile the networks ({reason}); it needs a C++ compiler such as g++; "
                "install one, or train without --compile"
            ) from error
        raise


def report_training(result: Result, config: RunConfig, command: str) -> int:
    """Say how to resume a run of a command that a signal stopped; return the exit code."""
    if result.signal is None:
        return 0
    if _is_main():
        flags = ["--name", config.name]
        if config.checkpoints_dir != RunName.checkpoints_dir:
            flags += ["--checkpoints-dir", str(config.checkpoints_dir)]
        print(f"stopped and saved at step {result.step}; resume with\n    {command} {shlex.join(flags)} --resume")
    return 128 + result.signal


def report_evaluation(result: Evaluation[Any], about: str, baselines: Sequence[str], prog: str) -> int:
    """Write an evaluation as JSON and print it as a table; return the exit code, 1 if a picture could not be read.

    Args:
        about: What was measured.
        baselines: What the baselines `real` and `untranslated` are called.
    """
    from stylekit.measures.table import table

    result.save()
    for error in result.errors:
        print(f"{prog}: {error}", file=sys.stderr)
    print(f"{about}; weave in {result.counts['weave']}, halo in {result.counts['halo']}")
    print(f"{table(result.metrics, baselines)}\n{result.config.output}")
    return 1 if result.errors else 0


def process_pictures(
    config: PictureOptions, load: Callable[[], Mapping[Any, float]], function: Callable[..., Any], prog: str, done: str
) -> int:
    """Run a network on files and folders; report those that fail and continue; return the exit code.

    `load` loads the networks and their weights, once it is known that there is something to do; `function` is
    `translate` or `stylize`; `done` is the past participle for the summary.
    """
    from stylekit import devices, distributed
    from stylekit.networks.inference import process_with_network
    from stylekit.pictures import images
    from stylekit.pictures.jobs import describe_skipped, plan_jobs
    from stylekit.training.log import print0

    devices.set_threads(config.threads)
    device = devices.choose_device(config.device)
    with standard_streams(config, config.format) as (config, report):
        jobs = plan_jobs(config.inputs, config.output, config.format, images.VIDEOS)
        with distributed.process_group(device, distributed.PATIENT):
            jobs, sheet = select_jobs(jobs, config.output, config.sheet, config.overwrite)
            if skipped := describe_skipped(config.inputs, config.output, images.VIDEOS):
                print0(skipped)
            distributed.wait_for_all()  # Barrier: no rank may mistake another rank's new file for an old one.
            outcomes = process_with_network(distributed.share(jobs), function, load(), config, device)
            return report_outcomes(outcomes, jobs, config.output, sheet, prog, done, report)


@contextmanager
def standard_streams(options: T, format: str | None = None) -> Iterator[tuple[T, Callable[[Outcome], None]]]:
    """Options in which files stand for each -, and a function that prints outcomes if --json is given.

    With --json and `-o -`, standard output has nothing else: what the command prints goes to standard error.
    """
    given: Any = options
    stdout, to_stdout = sys.stdout, str(given.output) == "-"
    if to_stdout and (given.json or getattr(given, "sheet", 0) or getattr(given, "save_every", 0)):
        raise ValueError("-o -: standard output takes one picture; leave out --json, --sheet and --save-every")
    if to_stdout and stdout.isatty():
        raise ValueError("-o -: standard output is a terminal; add a pipe or a file, such as > painting.png")
    is_used = to_stdout or "-" in (*given.inputs, *getattr(given, "content", ()))
    place = tempfile.TemporaryDirectory(prefix="stdio-") if is_used else nullcontext("")
    with place as folder, redirect_stdout(sys.stderr if to_stdout or given.json else stdout):
        source, target = Path(folder, "standard-input"), Path(folder, f"standard-output.{format or 'png'}")
        changed: dict[str, Any] = {"output": target} if to_stdout else {}
        for name in ("inputs", "content"):
            if "-" in (paths := getattr(given, name, ())):
                changed[name] = tuple(str(source) if path == "-" else path for path in paths)
                source.write_bytes(sys.stdin.buffer.read())
        yield dataclasses.replace(given, **changed), functools.partial(_print_json, stdout if given.json else None)
        if to_stdout and target.is_file():
            stdout.buffer.write(target.read_bytes())


def _print_json(stdout: TextIO | None, outcome: Outcome) -> None:
    source, picture = outcome.job.source, outcome.after
    line: dict[str, Any] = {"input": "-" if source.name == "standard-input" else str(source)}
    if outcome.error is not None or picture is None:
        line["error"] = outcome.error
    else:
        line |= {"output": str(outcome.job.target), "seconds": round(outcome.seconds, 3)}
        line |= {"width": picture.width, "height": picture.height}
    if stdout is not None:
        print(json.dumps(line), file=stdout, flush=True)


def select_jobs(jobs: list[Job], output: Path, sheet: bool, overwrite: bool) -> tuple[list[Job], Path | None]:
    """The jobs whose results do not exist, or all to overwrite them; and the path of the contact sheet on request."""
    from stylekit.training.log import print0

    sheet_path = None
    if sheet:
        is_file = jobs[0].target == output
        sheet_path = output.with_name(f"{output.stem}-sheet.jpg") if is_file else output / "sheet.jpg"
        if sheet_path.resolve() in {path.resolve() for job in jobs for path in (job.source, job.target)}:
            raise ValueError(f"--sheet: {sheet_path} is an input or a result; choose another --output")
    if overwrite:
        return jobs, sheet_path
    missing = [job for job in jobs if not job.target.exists()]
    if not missing:
        exist = f"and {len(jobs) - 1} more already exist" if len(jobs) > 1 else "already exists"
        raise FileExistsError(f"{jobs[0].target} {exist}; add --overwrite or choose another --output")
    if sheet_path is not None and sheet_path.exists():
        raise FileExistsError(f"{sheet_path} already exists; add --overwrite or choose another --output")
    if len(missing) < len(jobs):
        print0(f"skipped results that already exist: {len(jobs) - len(missing)} (--overwrite replaces them)")
    return missing, sheet_path


def report_outcomes(
    outcomes: Iterable[Outcome],
    jobs: Sequence[Job],
    output: Path,
    sheet: Path | None,
    prog: str,
    done: str,
    report: Callable[[Outcome], None] = lambda outcome: None,
) -> int:
    """Run jobs under a progress bar, print a line for each failure, write the contact sheet; return the exit code.

    Under torchrun the main process reports on all `jobs`, and the others return 0. Iterating over `outcomes` runs the
    jobs of this process.
    """
    from tqdm import tqdm

    from stylekit import distributed
    from stylekit.pictures import images
    from stylekit.pictures.sheet import contact_sheet

    failed = 0
    pairs: list[list[Image.Image]] = []
    height = 480 if len(jobs) == 1 else 256
    hidden = None if _is_main() else True
    for outcome in tqdm(outcomes, total=len(distributed.share(jobs)), unit="picture", disable=hidden):
        report(outcome)
        if outcome.error is not None:
            failed += 1
            tqdm.write(f"{prog}: {printable(outcome.error)}", file=sys.stderr)
        elif sheet is not None and len(pairs) < SHEET_LIMIT and outcome.before and outcome.after:
            pairs.append([images.resize(picture, 2 * height) for picture in (outcome.before, outcome.after)])
    reports = distributed.gather((failed, pairs))
    if not reports:
        return 0
    failed = sum(number for number, _ in reports)
    in_order = itertools.chain(*itertools.zip_longest(*(theirs for _, theirs in reports)))
    pairs = [pair for pair in in_order if pair is not None][:SHEET_LIMIT]
    if count := len(jobs) - failed:
        noun = "picture" if all(job.target.suffix.lower() in images.FORMATS for job in jobs) else "file"
        place = printable(str(jobs[0].target if len(jobs) == 1 else output))
        print(f"{done} {count} {noun}{'s' if count > 1 else ''}: {place}")
    if pairs and sheet is not None:
        across = 1 if len(pairs) <= 4 else 3
        rows = [list(itertools.chain(*pairs[i : i + across])) for i in range(0, len(pairs), across)]
        images.save(contact_sheet(rows, ("before", "after") * across, height), sheet)
        print(f"before and after{f' (the first {SHEET_LIMIT})' if count > SHEET_LIMIT else ''}: {sheet}")
    if failed == len(jobs) == 1:
        return 2  # As for any other invalid input.
    return 1 if failed else 0


def export_network(
    network: N,
    forward: Callable[[Tensor, N], Tensor],
    reference: Callable[[Tensor, N], Tensor],
    config: ExportOptions,
    prog: str,
) -> int:
    """Export `forward`, then print how far the file is from `reference`, what the library does, on a photograph.

    Returns the exit code: 1 if a value differs by more than one gray level.
    """
    from stylekit import devices
    from stylekit.networks import export

    devices.set_threads(config.threads)
    export.check_packages(config.output.suffix)
    check_writable(config.output)
    properties = {"producer": f"{prog} {__version__}", "pixels": config.pixels}
    print("exporting; this takes up to a minute", flush=True)
    export.export(network, forward, config.output, config.pixels, properties)

    import torch
    from PIL import Image
    from sklearn.datasets import load_sample_image

    from stylekit.pictures import images

    exported = export.load_exported(config.output, config.pixels)
    photograph = Image.fromarray(load_sample_image("china.jpg"))
    largest = 0.0
    print(f"{config.output}: {config.output.stat().st_size / 1e6:.1f} MB, {config.pixels} in and out")
    for longest in (320, 229):  # One gives odd sides.
        image = images.to_tensor(images.resize(photograph, longest))
        with torch.inference_mode():
            painted, expected = exported(image), reference(image, network)
        if config.pixels == "uint8":
            expected = (expected * 255).round() / 255
        difference = float((painted - expected).abs().max()) * 255
        largest = max(largest, difference)
        height, width = image.shape[2:]
        print(f"largest difference from PyTorch in gray levels, at {width} x {height} px: {difference:.2g}")
    if largest > 1.001:  # Bytes that differ by one differ by slightly more as floating-point numbers.
        print(f"{prog}: the file differs from PyTorch by more than one gray level", file=sys.stderr)
        return 1
    return 0


def list_networks(kind: str = "") -> int:
    """Print the bundled networks of a kind, each with the title of its model card; return the exit code."""
    from stylekit.networks.weights import bundled

    for name, folder in bundled(kind).items():
        card = folder / "README.md"
        lines = card.read_text(encoding="utf-8").splitlines() if card.is_file() else []
        titles = [line.removeprefix("# ") for line in lines if line.startswith("# ")]
        print(f"{name:28} {''.join(titles[:1])}")
    return 0


def _arguments(prog: str, args: Sequence[str] | None) -> list[str]:
    """The command line; --version ends the program."""
    args = list(sys.argv[1:] if args is None else args)
    if args == ["--version"]:
        print(f"{prog} {__version__}")
        sys.exit(0)
    return args


def _is_main() -> bool:
    """As `stylekit.distributed.is_main`, without importing PyTorch."""
    return os.environ.get("RANK", "0") == "0"
