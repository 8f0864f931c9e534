"""`translate`, `stylize` and their commands: one implementation for two kinds of networks."""

import inspect
import io
import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from conftest import exit_code, flag_error, one_error, read_video, write_video
from PIL import Image

import cyclegan.cli
import johnson.cli
from cyclegan.models import Generator
from cyclegan.options import GeneratorConfig
from cyclegan.translate import translate
from johnson.models import TransformerNet
from johnson.options import NetworkConfig
from johnson.stylize import stylize
from stylekit.networks import weights
from stylekit.networks.tiling import Smoothing
from stylekit.pictures import images

METHODS = {
    "translate": (translate, Generator, GeneratorConfig, cyclegan.cli.main),
    "stylize": (stylize, TransformerNet, NetworkConfig, johnson.cli.main),
}


@pytest.fixture(params=METHODS)
def method(request):
    """The function and a tiny network with noise; the name of the function is that of the command."""
    function, kind, config, _ = METHODS[request.param]
    return function, kind(config(4, 1, noise=0.3)).eval()


@pytest.fixture
def command(method, tmp_path, monkeypatch, pictures):
    """The command of the method with a network, in a folder with photos/a.jpg and photos/holiday/b.PNG."""
    function, network = method
    name = function.__name__
    monkeypatch.chdir(tmp_path)
    weights.save(network, Path("network"))
    images.save(pictures[0].crop((0, 0, 37, 30)), "photos/a.jpg")
    images.save(pictures[1], "photos/holiday/b.PNG")
    return lambda *args: exit_code(METHODS[name][3], name, "-w", "network", "--device", "cpu", *args)


def levels(a, b):
    """Differences in gray levels."""
    return np.abs(np.subtract(a, b, dtype=int))


def test_both_functions_have_the_same_arguments():
    ours, theirs = (list(inspect.signature(function).parameters.values()) for function in (translate, stylize))
    assert ours[2:] == theirs[2:] and ours[0] == theirs[0]
    look = ["stroke_size", "strength", "preserve_color", "draft", "mask", "keep"]
    assert [p.name for p in ours[2:]] == [*look, "tile", "smoothing"]
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in ours[2:])


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 4), (5, 64), (20, 700), (33, 47)])
def test_tensors_give_tensors_of_the_same_shape_in_range(method, size):
    function, network = method
    batch = torch.rand(2, 3, *size)
    painted = function(batch, network)
    assert painted.shape == batch.shape and painted.min() >= 0 and painted.max() <= 1
    assert torch.allclose(function(batch[0], network), painted[0], atol=1e-5)


def test_files_pil_images_and_arrays_give_the_same_pil_image(method, tmp_path, pictures):
    function, network = method
    picture = pictures[0].crop((0, 0, 30, 20))
    picture.save(tmp_path / "photo.png")
    pixels = np.asarray(picture)
    expected = images.to_image(function(images.to_tensor(picture), network))
    kinds = [picture, tmp_path / "photo.png", str(tmp_path / "photo.png"), pixels, pixels[:, ::-1][:, ::-1]]
    for given in [*kinds, pixels / 255, (pixels / 255).astype(np.float32)]:
        painted = function(given, network)
        assert isinstance(painted, Image.Image) and levels(painted, expected).max() <= 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_of_every_floating_point_type_are_accepted_and_returned(method, dtype):
    function, network = method
    photograph = torch.rand(1, 3, 20, 30).to(dtype)
    painted = function(photograph, network)
    assert painted.dtype == dtype
    assert torch.equal(painted, function(photograph.float(), network).to(dtype))


def test_a_network_in_training_paints_as_in_eval_mode_and_stays_in_training(method):
    function, network = method
    if function is translate:
        network = Generator(GeneratorConfig(4, 1, dropout=True, noise=0.3, noise_size=2)).eval()
    photograph = torch.rand(1, 3, 20, 30)
    expected = function(photograph, network)
    network.train()
    state = torch.get_rng_state()
    assert torch.equal(function(photograph, network), expected) and torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in network.modules())


@pytest.mark.parametrize(("function", "name"), [(translate, "landscape2vangogh"), (stylize, "mosaic")])
def test_a_network_can_be_given_by_name(function, name, pictures):
    assert function(pictures[0], name).size == pictures[0].size
    with pytest.raises(FileNotFoundError, match=f"no network nobody; .*{name}"):
        function(pictures[0], "nobody")


def test_networks_are_blended_by_the_weighted_mean_of_their_results(method, pictures):
    function, network = method
    other = type(network)(type(network._hub_mixin_config)(4, 1)).eval()
    photograph = images.to_tensor(pictures[0].crop((0, 0, 40, 30)))
    blended = function(photograph, {network: 3, other: 1}, stroke_size=1.0)
    expected = 0.75 * function(photograph, network) + 0.25 * function(photograph, other)
    torch.testing.assert_close(blended, expected, atol=1e-6, rtol=0)
    for wrong in ({}, {network: 0}, {network: 1, other: -1}):
        with pytest.raises(ValueError, match="weights of networks must not be negative or all 0"):
            function(photograph, wrong)


def test_the_smoothing_of_a_video_keeps_blended_networks_apart(method, pictures):
    function, network = method
    other = type(network)(type(network._hub_mixin_config)(4, 1)).eval()
    frames = [images.to_tensor(pictures[0].crop((i, 0, 40 + i, 30))) for i in range(2)]
    shared, first, second = Smoothing(0.9), Smoothing(0.9), Smoothing(0.9)
    for frame in frames:
        blended = function(frame, {network: 1, other: 1}, smoothing=shared)
        each = function(frame, network, smoothing=first), function(frame, other, smoothing=second)
    torch.testing.assert_close(blended, (each[0] + each[1]) / 2, atol=1e-6, rtol=0)


def test_a_mask_and_faces_are_for_pictures_and_the_mask_is_for_videos_too(command, pictures, capsys):
    write_video(Path("clip.mp4"), [np.asarray(picture.resize((64, 48))) for picture in pictures[:2]])
    mask = Image.new("L", (64, 48))
    mask.paste(255, (32, 0, 64, 48))
    mask.save("mask.png")
    assert command("photos/a.jpg", "clip.mp4", "-o", "out", "--mask", "mask.png") == 0
    assert levels(Image.open("out/a.jpg"), Image.open("photos/a.jpg"))[:, :15].mean() < 3
    assert command("clip.mp4", "-o", "out2", "--keep", "faces") == 2
    assert "keep is for pictures" in capsys.readouterr().err
    assert command("photos/a.jpg", "-o", "mask.png", "--mask", "mask.png", "--overwrite") == 2
    assert "mask.png is the mask and is never replaced" in capsys.readouterr().err


def test_noise_and_tiles_do_not_change_the_result(method, pictures):
    function, network = method
    photograph = images.to_tensor(pictures[0].resize((150, 120)))
    whole = function(photograph, network)
    torch.testing.assert_close(function(photograph, network, tile=64), whole, atol=1e-5, rtol=0)
    assert torch.equal(function(photograph, network), whole)


@pytest.fixture
def standard_input(monkeypatch):
    """Bytes to be read from standard input."""
    return lambda content: monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_a_picture_goes_from_standard_input_to_standard_output_and_nothing_else(command, standard_input, capsysbinary):
    content = Path("photos/a.jpg").read_bytes()
    assert command("photos/a.jpg", "-o", "a.png") == 0
    capsysbinary.readouterr()
    for format in ("png", "webp"):
        standard_input(content)
        assert command("-", "-o", "-", *(["--format", format] if format != "png" else [])) == 0
        out, err = capsysbinary.readouterr()
        picture = Image.open(io.BytesIO(out))
        assert picture.format == format.upper() and err.endswith(b"ed 1 picture: standard output\n")
        assert format == "webp" or levels(picture, Image.open("a.png")).max() == 0
    standard_input(b"no picture")
    assert command("-", "-o", "-") == 2
    out, err = capsysbinary.readouterr()
    assert out == b"" and b": standard input: not a supported picture" in err and err.count(b"\n") == 1
    standard_input(content)
    assert command("-", "-o", "painted") == 0
    assert Image.open("painted/standard-input.png").size == (37, 30)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["photos", "-o", "-"], "standard output is a file, but there are several inputs; expected a folder"),
        (["photos/a.jpg", "-o", "-", "--json"], "-o -: standard output takes one picture; leave out --json, --sheet"),
        (["photos/a.jpg", "-o", "-", "--sheet"], "-o -: standard output takes one picture"),
    ],
)
def test_what_standard_output_cannot_hold_is_refused(command, method, capsys, args, says):
    assert command(*args) == 2
    assert says in one_error(capsys, "cyclegan" if method[0] is translate else "johnson")


def test_json_is_one_line_per_picture_on_standard_output(command, capsys):
    Path("photos/damaged.png").write_text("no picture")
    assert command("photos", "--json") == 1
    out, err = capsys.readouterr()
    a, damaged, b = map(json.loads, out.splitlines())
    assert 0 < a.pop("seconds") < 60
    assert a == {"input": "photos/a.jpg", "output": "out/a.jpg", "width": 37, "height": 30}
    assert damaged["input"] == "photos/damaged.png" and "not a supported picture" in damaged["error"]
    assert b["output"] == "out/holiday/b.PNG" and "ed 2 pictures: out" in err


def test_folders_pictures_and_videos_can_be_mixed(command, pictures, capsys):
    video = write_video(Path("clip.mp4"), [np.asarray(picture.resize((64, 48))) for picture in pictures[:3]])
    Path("photos/broken.jpg").write_text("no picture")
    assert command("photos", video, "-o", "out", "--sheet") == 1
    written = sorted(str(path.relative_to("out")) for path in Path("out").rglob("*.*"))
    assert written == ["a.jpg", "clip.mp4", "holiday/b.PNG", "sheet.jpg"]
    assert Image.open("out/a.jpg").size == (37, 30)
    assert len(read_video(Path("out/clip.mp4"))[1]) == 3
    with av.open("out/clip.mp4") as reader:  # The most compatible format.
        codec = reader.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
    out, error = capsys.readouterr()
    assert "broken.jpg: not a supported picture" in error and error.count("\n") == 1
    assert " 3 files: out\nbefore and after: out/sheet.jpg\n" in out


def test_the_command_writes_the_output_of_the_function(command, method):
    function, network = method
    flags = ["--strength", "0.8", "--stroke-size", "2", "--preserve-color", "--size", 40, "--threads", 1]
    assert command("photos/holiday/b.PNG", "-o", "out.png", *flags) == 0
    photograph = images.resize(images.load("photos/holiday/b.PNG"), 40)
    expected = function(photograph, network, strength=0.8, stroke_size=2, preserve_color=True)
    # The command may use another memory format, which changes rounding errors.
    difference = levels(Image.open("out.png"), expected)
    assert difference.max() <= 1 and np.mean(difference != 0) < 0.01


def test_a_draft_is_for_pictures(command, method, capsys, pictures):
    function, network = method
    video = write_video(Path("clip.mp4"), [np.asarray(pictures[0].resize((64, 48)))])
    assert command("photos/a.jpg", video, "-o", "out", "--draft", "on", "--format", "png") == 1
    assert "draft is for pictures, not for videos" in capsys.readouterr().err
    expected = function("photos/a.jpg", network, draft=True)
    assert levels(Image.open("out/a.png"), expected).max() <= 1 and not Path("out/clip.mp4").exists()


def test_existing_results_are_kept_and_noticed_before_a_network_is_loaded(command, capsys):
    Path("out").mkdir()
    Path("out/a.jpg").write_bytes(b"mine")
    assert command("photos/a.jpg", "-o", "out", "-w", "missing") == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert command("photos", "-o", "out", "--format", "jpg") == 0
    assert "skipped results that already exist: 1" in capsys.readouterr().out
    assert Path("out/a.jpg").read_bytes() == b"mine" and Path("out/holiday/b.jpg").is_file()
    assert command("photos", "-o", "out", "--overwrite") == 0
    assert Image.open("out/a.jpg").size == (37, 30)


@pytest.mark.parametrize("method", ["stylize"], indirect=True)
def test_smoothing_changes_frames_after_the_first_and_can_be_disabled(command, pictures):
    frames = [np.array(pictures[0].resize((64, 48))) for _ in range(6)]
    for frame in frames[1::2]:
        frame[10:30, 10:30] = 255
    video = write_video(Path("clip.mp4"), frames, sound=None)
    for share in ("0", "0.9"):
        assert command(video, "-o", f"{share}.mp4", "--smoothing", share) == 0
    alone, smooth = (read_video(Path(f"{share}.mp4"))[1] for share in ("0", "0.9"))
    # The first frames differ only by compression, which depends on later frames.
    first, second = (levels(alone[i], smooth[i]).mean() for i in (0, 1))
    assert second > 10 and second > 3 * first


@pytest.mark.parametrize("method", ["translate"], indirect=True)
@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["nowhere.jpg"], "no file or folder nowhere.jpg"),
        (["photos/a.jpg", "-o", "photos/a.jpg/out"], "photos/a.jpg"),
        (["photos/a.jpg", "-o", "photos/a.jpg"], "photos/a.jpg is also an input and is never replaced"),
        (["photos/a.jpg", "-o", "x.gif"], "x.gif: GIF is not written; expected .jpg .jpeg .png"),
        (["photos/a.jpg", "-o", "x.pdf"], "x.pdf: PDF is not written; expected .jpg .jpeg .png"),
        (["photos/a.jpg", "--device", "toaster"], "--device toaster: expected auto, cpu, cuda, cuda:N or mps"),
    ],
)
def test_wrong_input_gets_one_line_and_exit_code_2(command, capsys, args, says):
    assert command(*args) == 2
    assert says in one_error(capsys, "cyclegan") and not Path("x.gif").exists()


@pytest.mark.parametrize("method", ["stylize"], indirect=True)
@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "no input: give a picture, a folder or a video, such as photo.jpg"),
        (["p.jpg", "--strength", "1.5"], "--strength must be in [0, 1], got 1.5"),
        (["p.jpg", "--smoothing", "1"], "--smoothing must be in [0, 1), got 1"),
        (["p.jpg", "--tile", "10"], "--tile must be at least 64, got 10"),
        (["p.jpg", "--threads", "0"], "--threads must be at least 1, got 0"),
        (["p.jpg", "--size", "0"], "--size must be at least 1, got 0"),
        (["p.jpg", "--styles", "x"], "unknown option --styles (did you mean --style?)"),
    ],
)
def test_wrong_flags_are_explained_with_exit_code_2(command, capsys, args, says):
    assert command(*args) == 2
    assert says in flag_error(capsys)
