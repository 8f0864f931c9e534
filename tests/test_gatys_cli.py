import io
import json
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import ROOT, command, exit_code, flag_error, one_error
from PIL import Image
from sklearn.datasets import load_sample_image

import gatys.stylize
from gatys.cli import main
from gatys.stylize import build_network

COMPACT = ROOT / "weights" / "vgg-compact" / "model.safetensors"
TINY = ("--size", "40", "--min-size", "40", "--steps", "3", "--device", "cpu")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """photo.png (60 x 40), painting.png (50 x 50), mask.png: left half white."""
    Image.fromarray(load_sample_image("china.jpg")[100:140, 100:160]).save(tmp_path / "photo.png")
    Image.fromarray(load_sample_image("flower.jpg")[100:150, 300:350]).save(tmp_path / "painting.png")
    mask = np.zeros((20, 30), np.uint8)
    mask[:, :15] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args):
    return exit_code(main, *args)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_the_picture_tells_its_options_but_not_the_folders_of_its_author(folder, capsys, suffix):
    output = folder / f"out.{suffix}"
    assert run(folder / "photo.png", "painting.png", "-o", output, "--beta", "7", "--save-every", 2, *TINY) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"painted {output}, 40 x 27, in ") and not err
    assert sorted(path.name for path in folder.glob("out*")) == [f"out-0002.{suffix}", f"out.{suffix}"]
    image = Image.open(output)
    text = image.tag_v2[270] if suffix == "tif" else image.getexif()[270]
    options = json.loads(text.removeprefix("gatys "))
    assert options["beta"] == 7 and options["inputs"] == ["photo.png", "painting.png"] and str(folder) not in text
    if suffix == "tif":
        pixels = tifffile.imread(output)
        assert pixels.dtype == np.uint16 and pixels.shape == (27, 40, 3) and len(np.unique(pixels % 257)) > 100


def test_folders_and_several_photographs_become_a_folder_of_pictures(folder, capsys, monkeypatch):
    (folder / "holiday" / "sea").mkdir(parents=True)
    for name in ("holiday/a.png", "holiday/sea/b.jpg"):
        Image.open("photo.png").save(name)
    assert run("holiday", "painting.png", *TINY) == 0
    assert sorted(map(str, (folder / "out").rglob("*.*"))) == [f"{folder}/out/a.png", f"{folder}/out/sea/b.jpg"]
    capsys.readouterr()
    built = []
    monkeypatch.setattr(gatys.stylize, "build_network", lambda *args: built.append(args) or build_network(*args))
    (folder / "holiday" / "damaged.png").write_text("no picture")
    # What is there already is kept, and a damaged picture does not stop the others.
    assert run("painting.png", "--content", "holiday", "photo.png", "-o", "out", *TINY) == 1
    out, err = capsys.readouterr()
    assert "skipped results that already exist: 2" in out and "painted out/photo.png" in out
    assert len(built) == 1, "one network for all photographs"
    assert err.startswith("gatys: holiday/damaged.png: not a supported picture") and err.count("\n") == 1
    assert run("--content", "photo.png", "--style", "sunflowers", "-o", "one.png", *TINY) == 0
    assert Image.open("one.png").size == Image.open("out/photo.png").size == (40, 27)


def test_gray_and_thin_pictures_are_painted(folder):
    Image.open("photo.png").convert("L").save("gray.png")
    Image.open("photo.png").resize((300, 2)).save("thin.png")
    Image.new("RGB", (1, 1), "red").save("dot.png")
    for name, size in (("gray", (40, 27)), ("thin", (40, 1)), ("dot", (1, 1))):
        assert run(f"{name}.png", "painting.png", "-o", f"{name}-out.png", *(TINY if name != "dot" else TINY[2:])) == 0
        assert Image.open(f"{name}-out.png").size == size


def test_a_strip_of_20_x_1200_is_painted_as_it_is(folder):
    Image.open("photo.png").resize((1200, 20)).save("strip.png")
    size = ("--size", 1200, "--min-size", 1200, "--steps", 2, "--device", "cpu")
    assert run("strip.png", "painting.png", "-o", "out.png", *size) == 0
    assert Image.open("out.png").size == (1200, 20)


def test_an_output_that_cannot_be_written_is_refused_before_the_work(folder, capsys):
    photo, painting = folder / "photo.png", folder / "painting.png"
    assert run(photo, painting, "-o", photo / "out.png", *TINY, "--steps", 10**7) == 2
    assert "could not write" in one_error(capsys, "gatys")


def test_masks_of_any_size_are_taken(folder):
    assert run("photo.png", "painting.png", "-o", "a.png", "--mask", "mask.png", *TINY) == 0
    masks = ("--regions", "mask.png", "--style-regions", "mask.png")
    assert run("photo.png", "painting.png", "-o", "b.png", *masks, *TINY) == 0


def test_a_style_that_was_made_can_be_taken_by_name(folder):
    assert run("make-style", "painting.png", "-o", "mine", "--device", "cpu") == 0
    assert run("photo.png", "--style", "mine.safetensors", "-o", "out.png", *TINY) == 0
    assert run("photo.png", "painting.png=2", "--style", "sunflowers=0.5", "-o", "b.png", *TINY) == 0


def test_pipes_and_json(folder, capsysbinary, monkeypatch):
    content = Path("photo.png").read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert run("-", "painting.png", "-o", "-", *TINY) == 0
    out, err = capsysbinary.readouterr()
    assert Image.open(io.BytesIO(out)).size == (40, 27) and err.startswith(b"painted standard output, 40 x 27, in ")
    assert run("--content", "photo.png", "missing.png", "--style", "sunflowers", "--json", *TINY) == 2
    assert run("photo.png", "--style", "sunflowers", "--json", "-o", "json.png", *TINY) == 0
    line = json.loads(capsysbinary.readouterr().out)
    assert line.pop("seconds") > 0
    assert line == {"input": "photo.png", "output": "json.png", "width": 40, "height": 27}
    (folder / "damaged.png").write_text("no picture")
    assert run("damaged.png", "--style", "sunflowers", "--json", "-o", "x.png", *TINY) == 2
    out, err = capsysbinary.readouterr()
    assert json.loads(out)["input"] == "damaged.png" and err.count(b"\n") == 1


def test_styles_are_listed(capsys):
    assert run("styles") == 0
    assert "starry-night" in capsys.readouterr().out.split()


def test_ctrl_c_keeps_the_picture_so_far(folder):
    args = ("photo.png", "painting.png", "-o", "out.png", *TINY, "--steps", "100000", "--save-every", "1")
    process = subprocess.Popen(
        command(("-m", "gatys", *args)), cwd=folder, env=None, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        for _ in range(3000):
            if (folder / "out-0002.png").exists():
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130 and "the picture so far" in out
    assert Image.open(folder / "out.png").size == (40, 27)


@pytest.mark.parametrize(
    "args, says",
    [
        (["missing.png", "painting.png"], "no file or folder missing.png"),
        (["photo.png", "missing.png"], "no picture missing.png"),
        (["photo.png", "--style", "nobody"], "no style nobody; expected"),
        (["photo.png", "--style", "sunflowers=much"], "--style sunflowers=much: expected NAME or NAME=WEIGHT"),
        (["photo.png", "painting.png", "--style-regions", "mask.png"], "--regions needs one picture per painting"),
        (["photo.png", "--style", "sunflowers", "--init", "style"], "--init style needs a painting"),
        (["photo.png", "--style", "sunflowers", "--preserve-color", "histogram"], "a preset has no colors to change"),
        (["photo.png", "painting.png", "--output", "out.xyz"], "expected a file name ending in"),
        (["photo.png", "painting.png", "-o", "photo.png"], "never replaced"),
        (["photo.png", "painting.png", "--content-layer", "relu9_9"], "choose from conv1_1, relu1_1"),
        (["photo.png", "painting.png", "--style-layers", "relu1_1", "relu0"], "choose from conv1_1, relu1_1"),
        (["photo.png", "painting.png", "--init", "nowhere.png"], "no picture nowhere.png"),
        (["photo.png", "painting.png", "--network", "vgg19", "--vgg-weights", "photo.png"], "photo.png: "),
        (
            ["photo.png", "painting.png", "--network", "vgg19", "--vgg-weights", str(COMPACT)],
            "does not match vgg19: missing features.19.weight",
        ),
    ],
)
def test_invalid_input_gets_one_line_and_exit_code_2(folder, capsys, args, says):
    assert run(*args, *TINY) == 2
    assert says in one_error(capsys, "gatys")
    assert not (folder / "out.png").exists()


@pytest.mark.parametrize(
    "args, says",
    [
        ([], "no photograph given"),
        (["photo.png"], "no style given"),
        (["photo.png", "painting.png", "--sise", "3"], "unknown option --sise (did you mean --size?)"),
        (["photo.png", "painting.png", "--threads", "0"], "--threads must be at least 1"),
    ],
)
def test_invalid_flags_are_explained_with_exit_code_2(folder, capsys, args, says):
    assert run("stylize", *args) == 2
    assert says in flag_error(capsys)
    assert not (folder / "out.png").exists()


def test_a_misspelled_command_is_no_photograph(folder, capsys):
    assert run("stlyes") == 2
    assert "no command stlyes (did you mean styles?)" in flag_error(capsys)


def test_a_misspelled_style_is_named(folder, capsys):
    assert run("photo.png", "--style", "starry-nigt", *TINY) == 2
    assert "no style starry-nigt (did you mean starry-night?); expected a picture" in one_error(capsys, "gatys")


def test_nothing_is_overwritten_unless_asked(folder, capsys):
    (folder / "out.png").write_text("precious")
    assert run("photo.png", "painting.png", *TINY) == 2
    assert "--overwrite" in one_error(capsys, "gatys") and (folder / "out.png").read_text() == "precious"
    assert run("photo.png", "painting.png", "--overwrite", *TINY) == 0
    assert Image.open("out.png").size == (40, 27)
    (folder / "new-0002.png").write_text("precious")
    assert run("photo.png", "painting.png", "-o", "new.png", "--save-every", 2, *TINY) == 2
    assert "new-0002.png already exists" in one_error(capsys, "gatys")
    assert (folder / "new-0002.png").read_text() == "precious"


def test_help_lists_the_commands_and_their_options(capsys):
    assert run("--help") == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("stylize", "styles", "make-style"))
    assert run("stylize", "--help") == 0
    text = capsys.readouterr().out
    for option in ("--content-layer", "--preserve-color", "--mask", "--memory", "--threads"):
        assert option in text
