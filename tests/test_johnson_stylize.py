import shutil

import av
import numpy as np
import pytest
import torch
from conftest import exit_code, flag_error, official_johnson, one_error, read_video, write_video
from PIL import Image

from johnson.cli import main
from johnson.models import TransformerNet
from johnson.options import NetworkConfig
from johnson.stylize import load_network, stylize
from stylekit.networks import weights
from stylekit.pictures import images


@pytest.fixture
def network(tmp_path):
    torch.manual_seed(0)
    weights.save(TransformerNet(NetworkConfig(4, 1)), tmp_path / "network")
    return tmp_path / "network"


@pytest.fixture
def photographs(tmp_path, pictures):
    folder = tmp_path / "photographs"
    (folder / "holiday").mkdir(parents=True)
    pictures[0].crop((0, 0, 37, 30)).save(folder / "a.jpg")
    pictures[1].save(folder / "holiday" / "b.PNG")
    return folder


def run(*arguments):
    return exit_code(main, "stylize", *arguments, "--device", "cpu")


@pytest.mark.parametrize("size", [(1, 1), (5, 64), (33, 47)])
def test_the_output_has_the_size_and_range_of_the_picture(size):
    stylized = stylize(torch.rand(2, 3, *size), TransformerNet(NetworkConfig(4, 1)))
    assert stylized.shape == (2, 3, *size)
    assert stylized.min() >= 0 and stylized.max() <= 1


def test_noise_is_the_same_in_every_call_and_for_every_picture_of_a_batch():
    image = torch.full((2, 3, 64, 64), 0.5)
    torch.manual_seed(0)
    plain, noisy = (TransformerNet(NetworkConfig(4, 1, noise=noise)) for noise in (0.0, 1.0))
    assert stylize(image, plain).std((2, 3)).max() < 1e-3
    painted = stylize(image, noisy)
    assert painted.std((2, 3)).min() > 1e-2
    assert torch.equal(painted, stylize(image, noisy))
    torch.testing.assert_close(painted[0], painted[1])


def test_files_folders_and_videos_can_be_mixed(network, photographs, pictures, tmp_path, capsys):
    frames = [np.asarray(picture.resize((64, 48))) for picture in pictures[:3]]
    video = write_video(tmp_path / "clip.mp4", frames)
    out = tmp_path / "out"
    assert run(photographs, video, "-o", out, "--style", network, "--sheet") == 0
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*.*"))
    assert written == ["a.jpg", "clip.mp4", "holiday/b.PNG", "sheet.jpg"]
    assert Image.open(out / "a.jpg").size == (37, 30)
    assert len(read_video(out / "clip.mp4")[1]) == 3 and read_video(out / "clip.mp4")[2] == read_video(video)[2]
    assert "painted 3 files" in capsys.readouterr().out


def test_the_command_writes_the_output_of_stylize(network, photographs, tmp_path):
    source = photographs / "holiday" / "b.PNG"
    assert run(source, "-o", tmp_path / "out.png", "-s", network, *["--strength", "0.7", "--stroke-size", "1.5"]) == 0
    photograph = images.to_tensor(images.load(source))
    expected = images.to_image(stylize(photograph, load_network(network), 0.7, stroke_size=1.5))
    difference = np.asarray(Image.open(tmp_path / "out.png"), int) - np.asarray(expected, int)
    assert np.abs(difference).max() <= 1 and np.mean(difference != 0) < 0.01


def test_smoothing_changes_frames_after_the_first_and_can_be_disabled(network, pictures, tmp_path):
    frames = [np.array(pictures[0].resize((64, 48))) for _ in range(6)]
    for frame in frames[1::2]:
        frame[10:30, 10:30] = 255
    video = write_video(tmp_path / "clip.mp4", frames, sound=None)
    for share in ("0", "0.9"):
        assert run(video, "-o", tmp_path / f"{share}.mp4", "-s", network, "--smoothing", share) == 0
    alone, smooth = (read_video(tmp_path / f"{share}.mp4")[1] for share in ("0", "0.9"))
    # The first frames differ only by compression, which depends on later frames.
    first, second = (np.abs(alone[i].astype(int) - smooth[i]).mean() for i in (0, 1))
    assert second > 15 and second > 3 * first


def test_a_training_run_and_an_official_file_can_be_used_as_style(network, photographs, tmp_path):
    shutil.copytree(network, tmp_path / "run" / "model")
    torch.save(official_johnson(4), tmp_path / "mosaic.pth")
    for style in (tmp_path / "run", tmp_path / "mosaic.pth"):
        assert run(photographs / "a.jpg", "-o", tmp_path / f"{style.stem}.png", "--model", style) == 0


def test_unreadable_files_are_reported_and_the_rest_is_processed(network, photographs, tmp_path, capsys):
    (photographs / "broken.jpg").write_text("no picture")
    (tmp_path / "broken.mp4").write_text("no video")
    assert run(photographs, tmp_path / "broken.mp4", "-o", tmp_path / "out", "-s", network) == 1
    out, err = capsys.readouterr()
    assert (
        "broken.jpg: not a supported picture" in err
        and "broken.mp4: damaged or not a video" in err
        and "painted 2 files" in out
    )
    assert not list((tmp_path / "out").glob("broken*"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "no input: give a picture"),
        (["p.jpg", "--strength", "1.5"], "--strength must be in [0, 1], got 1.5"),
        (["p.jpg", "--smoothing", "1"], "--smoothing must be in [0, 1), got 1"),
        (["p.jpg", "--tile", "10"], "--tile must be at least 64, got 10"),
        (["p.jpg", "--size", "0"], "--size must be at least 1, got 0"),
        (["p.jpg", "--styles", "x"], "Unrecognized options: --styles"),
    ],
)
def test_wrong_flags_are_explained_with_exit_code_2(capsys, arguments, says):
    assert run(*arguments) == 2
    assert says in flag_error(capsys)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.jpg"], "no file or folder nowhere.jpg"),
        (["PHOTO", "--style", "starry-nigth"], "no weights starry-nigth: did you mean starry-night?"),
        (["PHOTO", "--style", "EMPTY"], "no config.json and no model.safetensors in EMPTY; expected a folder with"),
        (["PHOTO", "PHOTO", "-o", "one.mp4"], "one.mp4 is a file, but there are several inputs"),
        (["PHOTO", "-o", "one.mp4"], "cannot write a picture to one.mp4"),
        (["EMPTY"], "no pictures in"),
    ],
)
def test_wrong_input_gets_one_line_and_exit_code_2(photographs, tmp_path, capsys, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    shutil.copy(photographs / "a.jpg", tmp_path / "PHOTO")
    assert run(*arguments) == 2
    assert says in one_error(capsys, "johnson")
    assert not (tmp_path / "out").exists() and not (tmp_path / "one.mp4").exists()


def test_a_video_cannot_be_written_to_a_picture_file(network, pictures, tmp_path, capsys):
    video = write_video(tmp_path / "clip.mp4", [np.asarray(pictures[0].resize((64, 48)))] * 2, sound=None)
    assert run(video, "-o", tmp_path / "out.jpg", "-s", network) == 2
    assert "cannot write a video to" in one_error(capsys, "johnson")


def test_styles_lists_the_bundled_styles(capsys):
    assert exit_code(main, "styles") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "mosaic", "starry-night", "sunflowers", "van-gogh", "wheat-field-with-cypresses",
    ]  # fmt: skip
    assert all(len(line.split()) > 3 for line in lines)


@pytest.mark.parametrize("name", ["mosaic", "starry-night", "sunflowers", "van-gogh", "wheat-field-with-cypresses"])
def test_a_bundled_style_changes_a_photograph(name, pictures):
    photograph = images.to_tensor(pictures[0].resize((128, 128)))
    network = load_network(name)
    assert sum(p.numel() for p in network.parameters()) == 1_681_833
    stylized = stylize(photograph, network)
    assert (stylized - photograph).abs().mean() > 0.05 and stylized.std() > 0.05


def test_a_video_is_written_in_the_most_compatible_format(network, pictures, tmp_path):
    video = write_video(tmp_path / "clip.mp4", [np.asarray(pictures[0].resize((64, 48)))] * 3)
    assert run(video, "-o", tmp_path / "out", "-s", network) == 0
    with av.open(str(tmp_path / "out" / "clip.mp4")) as reader:
        assert reader.streams.video[0].codec_context.name == "h264"
        assert reader.streams.video[0].codec_context.pix_fmt == "yuv420p"
