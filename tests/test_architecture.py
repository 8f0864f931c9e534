"""Properties of the whole library: import directions, call depth, documentation, and what the documents claim."""

import ast
import doctest
import inspect
import itertools
import json
import re
import shlex
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path
from types import FrameType

import pytest
import yaml
from conftest import ROOT, TINY, run

import app
import cyclegan.cli
import cyclegan.train
import gatys.cli
import johnson.cli
import johnson.options
import johnson.train
from stylekit import __version__, cli

METHODS = ("gatys", "johnson", "cyclegan")

PROGRAMS = {
    "gatys": gatys.cli.main,
    "johnson": johnson.cli.main,
    "cyclegan": cyclegan.cli.main,
    "train.py": cyclegan.cli.train_main,
    "app.py": app.main,
}

# A module of a method imports modules of the same layer or below, and no cli.py.
LAYERS = {
    3: ("cli",),
    2: ("train", "pretrain", "initial", "stylize", "translate", "diagnose", "evaluate", "fetch", "check"),
    1: tuple(
        "models discriminators diffaugment losses perceptual pool data optim objective regions styles".split()  # noqa: SIM905
    ),
    0: ("options", "official"),
}

# A module of stylekit imports its own folder and the layers below.
STYLEKIT_LAYERS = {
    6: ("cli",),
    5: ("notebook",),
    4: ("training",),
    3: ("measures",),
    2: ("networks", "collections"),
    1: ("pictures",),
    0: ("devices", "distributed", "atomic", "options", "startup"),
}

# Johnson et al. minimize the objective of Gatys et al.; CycleGAN's pre-training has its style loss.
ALLOWED_METHODS = {
    "johnson": {"gatys", "gatys.losses", "gatys.objective", "gatys.styles", "gatys.options"},
    "cyclegan": {"gatys", "gatys.losses"},
}

# Networks do not know files, except where VGG turns a picture into a tensor and users meet networks.
ALLOWED_PAIRS = {("stylekit.networks.vgg", "stylekit.pictures.images")}
ALLOWED_PAIRS |= {("stylekit.networks.keep_colors", "stylekit.pictures.color")}
ALLOWED_PAIRS |= {
    ("stylekit.networks.inference", f"stylekit.pictures.{name}") for name in ("inputs", "jobs", "strokes")
}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {
    module_name(path): path for package in ("stylekit", *METHODS) for path in sorted((ROOT / package).rglob("*.py"))
}
PUBLIC_MODULES = [name for name in MODULES if not name.endswith("__main__")]


def imports(path: Path) -> Iterator[str]:
    """Modules of the library that a file imports, also inside functions and for type checkers only."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}:{node.lineno}: expected an absolute import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if (name := full if full in MODULES else node.module) in MODULES:
                    yield name


IMPORTS = {name: set(imports(path)) for name, path in MODULES.items()}


def layer(layers: dict[int, tuple[str, ...]], module: str) -> int:
    """The layer of `package.part.more`."""
    part = module.split(".")[1]
    return next(number for number, parts in layers.items() if part in parts)


def test_imports_point_down_and_never_in_a_circle():
    assert len(MODULES) > 40 and sum(map(len, IMPORTS.values())) > 100
    for module, imported in IMPORTS.items():
        package, *parts = module.split(".")
        for other in imported:
            said = f"{module} imports {other}"
            other_package, *other_parts = other.split(".")
            if other_package != package:
                assert package != "stylekit", said
                assert other_package == "stylekit" or other in ALLOWED_METHODS.get(package, ()), said
                assert other != "stylekit.cli" or parts == ["cli"], said
            elif package == "stylekit" and parts and other_parts and parts[0] != other_parts[0]:
                assert layer(STYLEKIT_LAYERS, module) > layer(STYLEKIT_LAYERS, other), said
                if {parts[0], other_parts[0]} == {"networks", "pictures"}:
                    assert (module, other) in ALLOWED_PAIRS, said
            elif package in METHODS and parts == ["__main__"]:
                assert other_parts == ["cli"], said
            elif package in METHODS and parts and other_parts:
                assert layer(LAYERS, module) >= layer(LAYERS, other), said
                assert other_parts != ["cli"], said
                assert parts != ["losses"] or other_parts != ["models"], said

    # Every module has a place in the tables.
    for module in MODULES:
        package, *parts = module.split(".")
        if parts and parts != ["__main__"]:
            assert layer(STYLEKIT_LAYERS if package == "stylekit" else LAYERS, module) >= 0

    # Importing a module imports the packages around it.
    parents = {module: {module.rpartition(".")[0]} - {""} for module in MODULES}
    try:
        TopologicalSorter({module: IMPORTS[module] | parents[module] for module in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(f"circular imports: {' -> '.join(error.args[1])}")


def test_what_make_the_workflows_and_the_image_install_is_pinned():
    lock = (ROOT / "requirements.lock").read_text()
    assert len(re.findall(r"^[\w.-]+==.*\\\n +--hash", lock, re.MULTILINE)) == len(
        re.findall(r"^\w", lock, re.MULTILINE)
    )
    assert re.search("^uv==", lock, re.MULTILINE) and re.search("^setuptools==", lock, re.MULTILINE)
    workflows = [path.read_text() for path in (ROOT / ".github" / "workflows").iterdir()]
    for action in re.findall(r"uses: (\S+)", "".join(workflows)):
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action)
    for text in (*workflows, (ROOT / "Dockerfile").read_text(), (ROOT / "Makefile").read_text()):
        for line in re.findall(r".*pip install.*", text):
            assert re.search(r"--require-hashes|--no-deps|==|\.\[docs\]", line), line


def test_no_module_redirects_what_other_threads_print():
    for package in (*METHODS, "stylekit", "image_translation"):
        for path in (ROOT / package).rglob("*.py"):
            # A command owns its process.
            assert path.name == "cli.py" or not re.search(r"redirect_std|sys\.std(out|err) =", path.read_text()), path


def test_only_the_programs_import_a_command_line():
    importers = [*ROOT.glob("*.py"), *(ROOT / "recipes").glob("*.py")]
    for path in importers:
        for name in imports(path):
            package, *parts = name.split(".")
            if parts == ["cli"] and package in METHODS:
                assert path.name == "train.py", f"{path.name} imports {name}"
            if name == "stylekit.cli":
                assert path.name == "app.py" or path.parent.name == "recipes", f"{path.name} imports {name}"


@pytest.fixture
def frames(monkeypatch: pytest.MonkeyPatch) -> list[list[FrameType]]:
    """For each training step the frames from main() to train_step(), outermost first."""
    recorded: list[list[FrameType]] = []
    for module, main in ((cyclegan.train, cyclegan.cli.main), (johnson.train, johnson.cli.main)):

        def record(*args, original=module.train_step, code=main.__code__):
            stack = [frame := sys._getframe()]
            while frame.f_code is not code:
                assert frame.f_back is not None, "train_step was not called by main"
                stack.append(frame := frame.f_back)
            recorded.append(stack[::-1])
            return original(*args)

        monkeypatch.setattr(module, "train_step", record)
    return recorded


def names(stack: list[FrameType]) -> list[str]:
    return [f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}" for frame in stack]


def test_cyclegan_reaches_its_training_step_within_five_calls(dataset, tmp_path, frames):
    flags = ["--dataroot", dataset, "--checkpoints-dir", tmp_path, "--max-steps", 1]
    assert cyclegan.cli.main(["train", *TINY, *map(str, flags)]) == 0
    assert len(frames) == 1 and len(frames[0]) <= 5, names(frames[0])


def test_johnson_reaches_its_training_step_within_five_calls(dataset, tmp_path, frames):
    flags = ["--dataroot", dataset, "--style", "sunflowers", "--style-size", 128, "--checkpoints-dir", tmp_path]
    flags += ["--width", 4, "--n-blocks", 1, "--crop-size", 32, "--load-size", 36, "--batch-size", 1, "--amp", "off"]
    flags += ["--num-workers", 0, "--device", "cpu", "--max-steps", 1]
    assert johnson.cli.main(["train", *map(str, flags)]) == 0
    assert len(frames) == 1 and len(frames[0]) <= 5, names(frames[0])


@pytest.mark.parametrize(
    ("program", "commands"),
    [
        (
            "cyclegan.cli.main",
            ([], ["train"], ["pretrain"], ["translate"], ["evaluate"], ["export"], ["weights"], ["fetch"], ["check"]),
        ),
        ("cyclegan.cli.train_main", ([],)),
        ("johnson.cli.main", ([], ["train"], ["stylize"], ["export"], ["styles"])),
        ("gatys.cli.main", ([], ["styles"], ["make-style"])),
        ("app.main", ([],)),
    ],
)
def test_help_does_not_import_pytorch(program, commands):
    module, name = program.rsplit(".", 1)
    code = f"""
import sys
from {module} import {name} as main
for command in {commands}:
    try:
        main([*command, "--help"])
    except SystemExit as stop:
        assert stop.code == 0, (command, stop.code)
slow = {{"torch", "numpy", "PIL", "albumentations", "matplotlib", "wandb", "huggingface_hub", "requests"}}
slow &= set(sys.modules)
assert not slow, slow
"""
    result = run("-c", code)
    assert result.returncode == 0 and not result.stderr, result.stderr
    assert result.stdout.count("usage: ") == len(commands)


def test_translating_imports_nothing_that_it_does_not_use(pictures, tmp_path):
    pictures[0].resize((32, 24)).save(tmp_path / "photo.png")
    code = f"""
import sys
from cyclegan.cli import main
assert main(["translate", {str(tmp_path / "photo.png")!r}, "-o", {str(tmp_path / "painted.png")!r}]) == 0
slow = {{"torch._dynamo", "torchvision", "albumentations", "matplotlib", "scipy", "sklearn", "wandb", "requests", "av"}}
slow &= set(sys.modules)
assert not slow, slow
"""
    result = run("-c", code)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("program", ["cyclegan", "train"])
def test_ctrl_c_while_a_program_is_imported_is_no_traceback(program):
    code = f"""
import runpy, signal, sys
class Interrupt:
    def find_spec(self, name, path, target=None):
        if name == "cyclegan.options":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
try:
    runpy.run_module("{program}", run_name="__main__")
except BaseException:
    print("caught")
"""
    result = run("-c", code)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


def test_the_installed_programs_are_those_of_python_m():
    assert "console_scripts" in (text := (ROOT / "setup.py").read_text())
    for method in METHODS:
        assert f'"{method}"' in text and callable(import_module(f"{method}.__main__").main)


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_prints_its_version(program, capsys):
    with pytest.raises(SystemExit) as stop:
        PROGRAMS[program](["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"{program} {__version__}\n"


def test_the_package_has_the_version_of_the_library():
    # Whether setup.py repeats the version or reads it.
    assert run("setup.py", "--version").stdout.split()[-1] == __version__


def test_every_option_has_a_help_text():
    checked = 0
    for path in (ROOT / package / "options.py" for package in ("stylekit", *METHODS)):
        for definition in ast.walk(ast.parse(path.read_text())):
            if not isinstance(definition, ast.ClassDef):
                continue
            for statement, following in zip(definition.body, [*definition.body[1:], None], strict=True):
                # The title of a group is the docstring of its class.
                group = isinstance(kind := getattr(statement, "annotation", None), ast.Name) and (
                    kind.id == "ClassVar"
                    or kind.id.endswith(("Data", "Config", "Losses", "Schedule", "Machine", "Output"))
                )
                if isinstance(statement, ast.AnnAssign) and not group:
                    text = following.value if isinstance(following, ast.Expr) else None
                    documented = isinstance(text, ast.Constant) and isinstance(text.value, str)
                    assert documented, f"{definition.name}.{ast.unparse(statement.target)}"
                    checked += 1
    assert checked > 100


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_every_public_definition_has_a_docstring(name):
    module = import_module(name)
    assert module.__doc__, name
    for member, value in vars(module).items():
        defined_here = getattr(value, "__module__", None) == name
        if defined_here and not member.startswith("_") and (inspect.isclass(value) or inspect.isfunction(value)):
            # A dataclass without a docstring gets its signature as one.
            assert value.__doc__ and not value.__doc__.startswith(f"{member}("), f"{name}.{member}"


DOCUMENTS = [ROOT / "README.md", *ROOT.glob("[A-Z]*.md"), *ROOT.glob("[a-z]*/README.md"), *ROOT.glob("docs/*.md")]
DOCUMENTS += sorted((ROOT / "weights").glob("*/**/README.md"))
DOCUMENTS = [*dict.fromkeys(DOCUMENTS), *sorted(ROOT.glob("*.ipynb"))]
README = ROOT / "README.md"
GUIDES = [README, *sorted((ROOT / "docs").glob("*.md"))]


def text_of(document: Path) -> str:
    """The Markdown of a document or notebook."""
    if document.suffix == ".md":
        return document.read_text()
    cells = json.loads(document.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def blocks(document: Path, *languages: str) -> list[str]:
    """The code blocks of a document in one of the languages."""
    return re.findall(rf"```(?:{'|'.join(languages)})\n(.*?)```", text_of(document), re.DOTALL)


def shell_commands(document: Path) -> list[list[str]]:
    """The commands of a document, split into words, without variables that are set for them."""
    lines = "\n".join(blocks(document, "bash", "sh", "console")).replace("\\\n", " ").splitlines()
    commands = [shlex.split(re.sub(r"^([A-Z_]+=\S+ )+", "", line), comments=True) for line in lines]
    return [words for words in commands if words]


def program_calls(document: Path) -> list[tuple[str, list[str]]]:
    """The calls of the library's programs in a document: program and arguments."""
    calls = []
    for words in shell_commands(document):
        starts = [i for i, word in enumerate(words) if word in PROGRAMS]
        if starts and (starts[0] == 0 or words[0] in ("python", "torchrun", "docker")):
            args = itertools.takewhile(lambda word: word not in ("<", ">"), words[starts[0] + 1 :])
            calls.append((words[starts[0]], list(args)))
    return calls


class Parsed(Exception):  # noqa: N818
    """Ends a command as soon as its flags have been read."""


@pytest.fixture
def only_parse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Commands stop after parsing; the runs that documents resume exist."""
    monkeypatch.chdir(tmp_path)

    def ending(parse):
        def wrapper(*args, **keywords):
            parse(*args, **keywords)
            raise Parsed

        return wrapper

    defaults = cli.training_defaults

    def resumed(options, prog, args):
        if "--resume" not in args:
            return defaults(options, prog, args)
        style = {"style": ("painting.jpg",)} if options is johnson.options.TrainConfig else {}
        return options.from_preset("paper", dataroot="photographs", **style)

    monkeypatch.setattr(cli, "training_defaults", resumed)
    for name in ("parse", "parse_command"):
        monkeypatch.setattr(cli, name, ending(getattr(cli, name)))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_commands_in_the_documents_exist(document, only_parse, capsys):
    for program, args in program_calls(document):
        try:
            PROGRAMS[program](args)
        except Parsed:
            continue
        except SystemExit:
            pytest.fail(f"{program} {shlex.join(args)}: {capsys.readouterr().err}")
        pytest.fail(f"{program} {shlex.join(args)} did not parse its flags with stylekit.cli")


def test_the_readme_is_short_and_the_guides_show_every_program():
    assert len(README.read_text().split()) <= 900
    assert "\\\n" not in "".join(blocks(README, "bash"))
    assert {program for guide in GUIDES for program, _ in program_calls(guide)} == set(PROGRAMS)


def test_the_flags_of_the_sweep_exist(only_parse):
    sweep = yaml.safe_load((ROOT / "sweep.yaml").read_text())
    choices = {name: entry.get("values", [entry.get("value")]) for name, entry in sweep["parameters"].items()}
    assert sweep["program"] == "train.py" and len(choices) > 3
    for i in range(max(map(len, choices.values()))):
        flags = [f"--{name}={values[i % len(values)]}" for name, values in choices.items()]
        with pytest.raises(Parsed):
            cyclegan.cli.train_main(["--wandb", *flags])


def test_the_imports_in_the_guides_exist():
    imported = [
        node
        for guide in GUIDES
        for block in blocks(guide, "python")
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.ImportFrom)
    ]
    assert len(imported) > 4
    for node in imported:
        for alias in node.names:
            assert hasattr(import_module(node.module), alias.name), ast.unparse(node)


@pytest.mark.parametrize("guide", GUIDES[1:], ids=lambda path: path.stem)
def test_a_guide_begins_with_a_command_and_its_picture(guide):
    heading, *paragraphs = guide.read_text().split("\n\n")[:4]
    first = 0 if paragraphs[0].startswith("```bash") else 1
    assert heading.startswith("# ") and paragraphs[first].startswith("```bash")
    assert paragraphs[first + 1].startswith("![") or guide.stem == "reliability"


def test_a_search_for_train_my_own_finds_the_guides():
    for guide in ("own-style", "training"):
        assert "train my own" in (ROOT / "docs" / f"{guide}.md").read_text()[:200]


def test_the_readme_shows_the_two_commands():
    assert {("make", "demo"), ("make", "test")} <= {tuple(words[:2]) for words in shell_commands(README)}


def anchors(document: Path) -> set[str]:
    """What links to the headings of a document end with."""
    prose = re.sub(r"^```.*?^```", "", text_of(document), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_links_files_and_make_targets_in_the_documents_exist(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(document)):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            linked = document.parent / path if path else document
            assert linked.exists(), target
            assert not anchor or anchor in anchors(linked), target
    makefile, setup = (ROOT / "Makefile").read_text(), (ROOT / "setup.py").read_text()
    for extra in re.findall(r"\.\[(\w+)\]", text_of(document)):
        assert f'"{extra}": [' in setup, extra
    for words in shell_commands(document):
        if words[0] == "make":
            targets = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
            missing = [t for t in targets if not re.search(rf"^{t}:", makefile, re.MULTILINE)]
            assert not missing, shlex.join(words)
        if words[0] == "python" and words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), shlex.join(words)


def test_no_test_module_imports_another():
    files = sorted((ROOT / "tests").glob("test_*.py"))
    assert len(files) > 20
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom | ast.Import):
                modules = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                assert not [name for name in modules if name and name.startswith("test_")], f"{path.name}:{node.lineno}"


# The documentation.

API = {path.stem: path.read_text() for path in (ROOT / "docs" / "api").glob("*.md")}


def test_the_api_pages_have_every_module_once():
    listed = [module for text in API.values() for module in re.findall(r"^::: (\S+)$", text, re.MULTILINE)]
    assert sorted(listed) == sorted(set(PUBLIC_MODULES) - {"stylekit", "gatys", "johnson", "cyclegan"} - PACKAGES)


PACKAGES = {name for name in PUBLIC_MODULES if (ROOT / name.replace(".", "/")).is_dir()}


def test_every_page_can_be_reached():
    text = re.sub(r"!!python/\S+", "", (ROOT / "mkdocs.yml").read_text())
    pages = re.findall(r"\S+\.md", str(yaml.safe_load(text)["nav"]))
    written = [str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(page.strip("'") for page in pages) == sorted(written)
    text = "".join(path.read_text() for path in [*DOCUMENTS, *(ROOT / "report").glob("*.tex")])
    unused = [path.name for path in (ROOT / "docs").glob("*.jpg") if path.stem not in text]
    assert not unused


def test_links_between_names_lead_somewhere():
    names = re.findall(r"\]\[([\w.]+)\]", API["image_translation"])
    assert len(names) > 8
    for name in names:
        module, _, attribute = name.rpartition(".")
        if name not in PUBLIC_MODULES:
            assert hasattr(import_module(module), attribute), name


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_examples_in_docstrings_work(name):
    assert doctest.testmod(import_module(name)).failed == 0


def test_there_are_examples():
    texts = [(ROOT / f"{name.replace('.', '/')}.py") for name in PUBLIC_MODULES if name not in PACKAGES]
    assert sum(path.read_text().count(">>> ") for path in texts) >= 8
