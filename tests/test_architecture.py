"""What holds for the whole library: imports point downwards, help answers at once, the README tells the truth."""

import ast
import dataclasses
import inspect
import re
import shlex
import time
from pathlib import Path

import pytest
from conftest import ROOT, run

import johnson.options
from cyclegan.options import TrainConfig, TranslateConfig
from gatys.options import MakeStyleConfig, PaintConfig
from stylekit import cli

LAYERS = {
    "cyclegan": {"cli": 3, "train": 2, "translate": 2, "models": 1, "losses": 1, "pool": 1, "data": 1, "options": 1},
    "johnson": {"cli": 3, "train": 2, "stylize": 2, "video": 1, "models": 1, "losses": 1, "data": 1, "options": 1},
    "gatys": {"cli": 3, "stylize": 2, "styles": 2, "objective": 1, "lbfgs": 1, "losses": 1, "options": 1},
}


def imports(path: Path) -> set[str]:
    """Modules of the library that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in ("stylekit", "cyclegan", "gatys", "johnson")}


def test_stylekit_knows_no_method():
    files = list((ROOT / "stylekit").glob("*.py"))
    assert len(files) > 5
    for path in files:
        assert not {name for name in imports(path) if not name.startswith("stylekit")}, path


@pytest.mark.parametrize("method", LAYERS)
def test_imports_point_downwards(method):
    layers = LAYERS[method]
    files = [path for path in (ROOT / method).glob("*.py") if not path.stem.startswith("__")]
    assert {path.stem for path in files} == set(layers)
    for path in files:
        for name in imports(path):
            package, *module = name.split(".")
            # Johnson et al. minimise the objective of Gatys et al.
            allowed = ("stylekit", method, "gatys") if method == "johnson" else ("stylekit", method)
            assert package in allowed, f"{path.name} imports {name}"
            if package == method and module and module[0] in layers:
                above = layers[module[0]] > layers[path.stem]
                assert not above and module[0] != "cli", f"{path.name} imports {name}"
    assert not [name for name in imports(ROOT / method / "losses.py") if "models" in name]


@pytest.mark.parametrize(
    "command",
    [["train.py", "--help"], ["-m", "cyclegan", "--help"], ["-m", "cyclegan", "train", "--help"],
     ["-m", "cyclegan", "translate", "--help"], ["-m", "gatys", "--help"], ["-m", "gatys", "make-style", "--help"],
     ["-m", "johnson", "--help"], ["-m", "johnson", "train", "--help"], ["-m", "johnson", "stylize", "--help"]],
)  # fmt: skip
def test_help_answers_at_once(command):
    seconds = []
    for _ in range(3):
        begun = time.monotonic()
        result = run(*command)
        seconds.append(time.monotonic() - begun)
        assert result.returncode == 0 and "usage: " in result.stdout and not result.stderr
        if seconds[-1] < 1:
            return
    # Whatever else the machine does, it is not PyTorch that answers.
    loaded = run("-X", "importtime", *command).stderr
    assert not re.search(r"\| +torch$", loaded, re.MULTILINE), seconds


@pytest.mark.parametrize(
    "options",
    [TrainConfig, TranslateConfig, PaintConfig, MakeStyleConfig, johnson.options.TrainConfig,
     johnson.options.StylizeConfig],
)  # fmt: skip
def test_every_option_has_a_help_text(options):
    sources = [inspect.getsource(base) for base in options.__mro__[:-1]]
    for field in dataclasses.fields(options):
        source = next(source for source in sources if f"    {field.name}: " in source)
        after = source.split(f"    {field.name}: ")[1]
        assert after.split("\n")[1].lstrip().startswith('"""'), field.name


def test_an_unknown_command_gets_a_hint():
    result = run("-m", "cyclegan", "translte")
    assert result.returncode == 2
    assert result.stderr == "cyclegan: error: unknown command translte; did you mean translate?\n"


def readme_commands(*starts: str) -> list[str]:
    blocks = re.findall(r"```(?:bash|sh|console)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith(starts)]


def test_the_readme_shows_the_two_commands():
    assert {"make demo", "make test"} <= set(readme_commands("make"))


def test_the_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    for line in readme_commands("make"):
        assert re.search(rf"^{line.split()[1]}:", makefile, re.MULTILINE), line


def test_the_flags_in_the_readme_exist():
    lines = readme_commands("python train.py", "torchrun", "cyclegan train", "cyclegan translate")
    assert len(lines) >= 5
    for line in lines:
        words = shlex.split(line)
        options = TranslateConfig if words[1] == "translate" else TrainConfig
        start = next(i for i, word in enumerate(words) if word in ("train.py", "train", "translate")) + 1
        arguments = words[start:]
        if options is TrainConfig and "--dataroot" not in arguments:
            assert "--resume" in arguments, line
            arguments += ["--dataroot", "of the run"]
        cli.parse(options, arguments, "README")


def test_the_flags_of_gatys_in_the_readme_exist():
    lines = readme_commands("gatys")
    assert len(lines) >= 3
    for line in lines:
        words = shlex.split(line)[1:]
        if words == ["styles"]:
            continue
        options, arguments = (MakeStyleConfig, words[1:]) if words[0] == "make-style" else (PaintConfig, words)
        cli.parse(options, arguments, "README")


def test_the_flags_of_johnson_in_the_readme_exist():
    lines = readme_commands("johnson")
    assert len(lines) >= 3
    for line in lines:
        words = shlex.split(line)[1:]
        if words == ["styles"]:
            continue
        if words[0] == "train":
            arguments = [*words[1:], *(["--dataroot", "run", "--style", "run"] if "--resume" in words else [])]
            cli.parse(johnson.options.TrainConfig, arguments, "README")
        else:
            assert words[0] == "stylize", line
            cli.parse(johnson.options.StylizeConfig, words[1:], "README")


def test_links_in_the_documents_lead_somewhere():
    documents = [ROOT / "README.md", *ROOT.glob("*/README.md"), *(ROOT / "weights").glob("**/README.md")]
    assert len(documents) >= 4
    for document in documents:
        for link in re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", document.read_text()):
            target = link[0] or link[1]
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document}: {target}"
