import shutil

import numpy as np
import pytest
import torch
from conftest import exit_code, flag_error, one_error, read_video, write_video
from PIL import Image
from safetensors.torch import load_file, save_file

from cyclegan.cli import main
from cyclegan.models import Generator
from cyclegan.options import GeneratorConfig
from cyclegan.translate import load_generator, translate
from stylekit.networks import weights
from stylekit.pictures import images
from stylekit.pictures.jobs import plan_jobs


@pytest.fixture
def network(tmp_path):
    torch.manual_seed(0)
    weights.save(Generator(GeneratorConfig(4, 1)), tmp_path / "network")
    return tmp_path / "network"


@pytest.fixture
def photographs(tmp_path, pictures):
    folder = tmp_path / "photographs"
    (folder / "holiday").mkdir(parents=True)
    pictures[0].crop((0, 0, 37, 30)).save(folder / "a.jpg")
    pictures[1].save(folder / "holiday" / "b.PNG")
    pictures[2].save(folder / "holiday" / "c.webp")
    return folder


def run(*arguments):
    return exit_code(main, "translate", *arguments, "--device", "cpu")


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 4), (5, 64), (20, 1500), (33, 47), (64, 64)])
def test_the_output_has_the_size_and_range_of_the_picture(size):
    translated = translate(torch.rand(1, 3, *size), Generator(GeneratorConfig(4, 1)).eval())
    assert translated.shape == (1, 3, *size)
    assert translated.min() >= 0 and translated.max() <= 1


def test_a_folder_keeps_its_structure_and_names(network, photographs, tmp_path, capsys):
    assert run(photographs, "-o", tmp_path / "out", "-w", network) == 0
    written = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert written == ["a.jpg", "holiday/b.PNG", "holiday/c.webp"]
    assert Image.open(tmp_path / "out" / "a.jpg").size == (37, 30)
    assert "translated 3 pictures" in capsys.readouterr().out


def test_the_command_writes_the_output_of_translate(network, photographs, tmp_path):
    look = ["--strength", "0.8", "--stroke-size", "2", "--preserve-color"]
    assert run(photographs / "holiday" / "b.PNG", "-o", tmp_path / "out.png", "-w", network, *look) == 0
    before = images.to_tensor(images.load(photographs / "holiday" / "b.PNG"))
    look = {"strength": 0.8, "stroke_size": 2, "preserve_color": True}
    expected = images.to_image(translate(before, load_generator(network), **look))
    # The command uses another memory format, which changes rounding errors.
    difference = np.asarray(Image.open(tmp_path / "out.png"), int) - np.asarray(expected, int)
    assert np.abs(difference).max() <= 1 and np.mean(difference != 0) < 0.01


def test_a_video_is_translated_frame_by_frame(network, photographs, pictures, tmp_path, capsys):
    frames = [np.asarray(picture.resize((64, 48))) for picture in pictures[:3]]
    video = write_video(tmp_path / "clip.mp4", frames)
    assert run(photographs / "a.jpg", video, "-o", tmp_path / "out", "-w", network, "--smoothing", "0") == 0
    translated = read_video(tmp_path / "out" / "clip.mp4")[1]
    generator = load_generator(network)
    expected = [np.asarray(images.to_image(translate(images.to_tensor(Image.fromarray(f)), generator))) for f in frames]
    assert len(translated) == 3
    assert np.abs(np.stack(translated).astype(int) - np.stack(expected)).mean() < 20 < np.stack(expected).std()
    assert "translated 2 files" in capsys.readouterr().out


def test_unreadable_files_are_reported_and_the_rest_is_translated(network, photographs, tmp_path, capsys):
    (photographs / "holiday" / "broken.jpg").write_text("no picture")
    assert run(photographs, "-o", tmp_path / "out", "-w", network) == 1
    out, err = capsys.readouterr()
    assert "broken.jpg: not a supported picture" in err and "translated 3 pictures" in out
    assert not (tmp_path / "out" / "holiday" / "broken.jpg").exists()


def test_existing_files_are_kept_without_overwrite(network, photographs, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.jpg").write_bytes(b"mine")
    assert run(photographs / "a.jpg", "-o", out, "-w", network) == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert run(photographs, "-o", out, "-w", network) == 0
    assert "skipped results that already exist: 1" in capsys.readouterr().out
    assert (out / "a.jpg").read_bytes() == b"mine"
    assert run(photographs, "-o", out, "-w", network, "--overwrite") == 0
    assert Image.open(out / "a.jpg").size == (37, 30)


def test_an_input_is_never_overwritten(network, photographs, capsys):
    before = (photographs / "a.jpg").read_bytes()
    assert run(photographs, "-o", photographs, "-w", network, "--overwrite") == 2
    assert "is also an input" in capsys.readouterr().err
    assert (photographs / "a.jpg").read_bytes() == before


def test_results_inside_the_input_folder_are_not_translated_again(photographs):
    (photographs / "out").mkdir()
    shutil.copy(photographs / "a.jpg", photographs / "out" / "a.jpg")
    assert len(plan_jobs([photographs], photographs / "out")) == 3


def test_two_pictures_with_the_same_name_are_rejected(network, photographs, capsys, tmp_path):
    shutil.copy(photographs / "a.jpg", tmp_path / "a.jpg")
    assert run(photographs / "a.jpg", tmp_path / "a.jpg", "-o", tmp_path / "out", "-w", network) == 2
    assert "would both be written to" in capsys.readouterr().err


@pytest.mark.parametrize("extra", [[], ["--format", "png"]])
def test_a_contact_sheet_shows_pictures_before_and_after(network, photographs, tmp_path, extra):
    assert run(photographs, "-o", tmp_path / "out", "-w", network, "--sheet", *extra) == 0
    sheet = np.asarray(Image.open(tmp_path / "out" / "sheet.jpg"))
    assert sheet.shape[0] > 3 * 256 and sheet.shape[1] > 2 * 256
    names = {path.suffix for path in (tmp_path / "out").rglob("*.*")} - {".jpg"}
    assert names == ({".png"} if extra else {".PNG", ".webp"})


def test_size_shrinks_pictures(network, photographs, tmp_path):
    assert run(photographs / "a.jpg", "-o", tmp_path / "out.png", "-w", network, "--size", 20) == 0
    assert Image.open(tmp_path / "out.png").size == (20, 16)


def test_a_training_run_provides_both_directions(tmp_path):
    torch.manual_seed(0)
    for name in ("G", "F"):
        weights.save(Generator(GeneratorConfig(4, 1)), tmp_path / "run" / name)
    forward, backward = (load_generator(tmp_path / "run", direction).state_dict() for direction in ("x2y", "y2x"))
    assert torch.equal(forward["model.1.weight"], load_generator(tmp_path / "run" / "G").state_dict()["model.1.weight"])
    assert not torch.equal(forward["model.1.weight"], backward["model.1.weight"])


def test_official_files_are_loaded(tmp_path, photographs):
    torch.save(Generator(GeneratorConfig(4, 1, "transposed")).state_dict(), tmp_path / "latest_net_G.pth")
    assert run(photographs / "a.jpg", "-o", tmp_path / "out.png", "-w", tmp_path / "latest_net_G.pth") == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.jpg"], "no file or folder nowhere.jpg"),
        (["PHOTO", "--weights", "landscape2vangog"], "landscape2vangogh"),
        (["PHOTO", "--weights", "NETWORK", "--direction", "y2x"], "single network"),
        (["PHOTO", "PHOTO", "-o", "one.png"], "several inputs; expected a folder"),
        (["EMPTY"], "no pictures in"),
        (["PHOTO", "-o", "PHOTO/out", "--weights", "NETWORK"], "PHOTO"),
    ],
)
def test_wrong_input_gets_one_line_and_exit_code_2(network, photographs, tmp_path, capsys, arguments, says):
    (tmp_path / "empty").mkdir()
    places = {"PHOTO": str(photographs / "a.jpg"), "NETWORK": str(network), "EMPTY": str(tmp_path / "empty")}
    for word, place in places.items():
        arguments = [argument.replace(word, place) for argument in arguments]
        says = says.replace(word, place)
    assert run(*arguments) == 2
    assert says in one_error(capsys, "cyclegan")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [([], "no input: give a picture"), (["p.jpg", "--wieghts", "x"], "Unrecognized options: --wieghts")],
)
def test_wrong_flags_are_explained_with_exit_code_2(capsys, arguments, says):
    assert run(*arguments) == 2
    assert says in flag_error(capsys)


def break_config(folder):
    (folder / "config.json").write_text("{")


def break_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def change_shape(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.1.bias"] = torch.zeros(9)
    save_file(tensors, folder / "model.safetensors")


def drop_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.1.bias"]
    save_file(tensors, folder / "model.safetensors")


def remove_weights(folder):
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (break_config, "config.json does not describe a generator"),
        (break_weights, "truncated or damaged"),
        (change_shape, "does not match config.json (size mismatch for model.1.bias"),
        (drop_tensor, 'does not match config.json (Missing key(s) in state_dict: "model.1.bias"'),
        (remove_weights, "no model.safetensors in"),
    ],
)
def test_the_error_for_damaged_weights_names_the_file(network, photographs, tmp_path, capsys, damage, says):
    damage(network)
    assert run(photographs / "a.jpg", "-o", tmp_path / "out", "-w", network) == 2
    assert says in one_error(capsys, "cyclegan")
    assert not (tmp_path / "out").exists()


def test_tiles_do_not_change_the_result_of_an_antialiased_network_with_noise(pictures):
    torch.manual_seed(0)
    network = Generator(GeneratorConfig(4, 1, antialias=True, noise=0.3)).eval()
    photograph = images.to_tensor(pictures[0].resize((150, 120)))
    whole = translate(photograph, network)
    torch.testing.assert_close(translate(photograph, network, tile=64), whole, atol=1e-5, rtol=0)
    assert torch.equal(translate(photograph, network), whole)
