import itertools

import av
import numpy as np
import pytest
import torch

from johnson.models import TransformerNet
from johnson.video import Smoothing, paint_video
from stylekit.blocks import InstanceNorm2d

SIZE = (64, 48)


def write_video(path, frames, sound="aac", rate=25):
    """A video of frames (H, W, 3), in [0, 255], with a tone."""
    with av.open(str(path), "w") as writer:
        codec = "libvpx-vp9" if path.suffix == ".webm" else "libx264"
        video = writer.add_stream(codec, rate, {"crf": "10"})
        video.width, video.height, video.pix_fmt = frames[0].shape[1], frames[0].shape[0], "yuv420p"
        tone = writer.add_stream(sound, 48000, layout="mono") if sound else None
        for frame in frames:
            writer.mux(video.encode(av.VideoFrame.from_ndarray(frame.astype(np.uint8), format="rgb24")))
        writer.mux(video.encode())
        if tone:
            samples = np.sin(np.arange(48000 * len(frames) // rate) * 0.05).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(0.5 * samples, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48000, 0
            resampled = av.AudioResampler(tone.format, "mono", 48000, frame_size=tone.codec_context.frame_size or 960)
            for part in (*resampled.resample(frame), *resampled.resample(None)):
                writer.mux(tone.encode(part))
            writer.mux(tone.encode())
    return path


def read_video(path):
    with av.open(str(path)) as reader:
        frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in reader.decode(video=0)]
    with av.open(str(path)) as reader:
        sound = [bytes(p) for p in reader.demux(audio=0) if p.size] if reader.streams.audio else []
    return [time for time, _ in frames], [frame for _, frame in frames], sound


@pytest.fixture
def frames(pictures):
    """Twelve different frames of 64 x 48 px."""
    return [np.asarray(picture.resize(SIZE)) for picture in pictures]


@pytest.mark.parametrize(("suffix", "sound"), [(".mp4", "aac"), (".mkv", "aac"), (".webm", "libopus"), (".mov", None)])
def test_times_sound_and_pictures_stay(frames, tmp_path, suffix, sound):
    source, target = write_video(tmp_path / f"in{suffix}", frames, sound), tmp_path / f"out{suffix}"
    before, after = paint_video(source, target, lambda frame: 1 - frame)
    times, pictures, tone = read_video(source)
    new_times, new_pictures, new_tone = read_video(target)
    assert new_times == pytest.approx(times, abs=1e-3) and len(times) == 12
    assert new_tone == tone and bool(tone) is bool(sound)
    for old, new in zip(pictures, new_pictures, strict=True):
        assert np.abs(255 - old.astype(int) - new).mean() < 12
    assert np.abs(255 - np.asarray(before, int) - np.asarray(after)).max() <= 1 and before.size == SIZE


@pytest.mark.parametrize("height", [96, 720])
def test_colours_stay_those_of_the_source(tmp_path, height):
    colours = [(200, 30, 30), (30, 160, 60), (40, 60, 200)]
    frame = np.concatenate([np.full((height, 64, 3), colour) for colour in colours], axis=1)
    source = write_video(tmp_path / "in.mp4", [frame] * 2, sound=None)
    shown, _ = paint_video(source, tmp_path / "once.mp4", lambda frame: frame)
    again, _ = paint_video(tmp_path / "once.mp4", tmp_path / "twice.mp4", lambda frame: frame)
    for i in range(3):
        patch = (slice(8, -8), slice(64 * i + 8, 64 * i + 56))
        assert np.abs(np.asarray(shown, int)[patch] - np.asarray(again)[patch]).max() <= 4
    if height < 720:  # What the encoder here takes for granted is the colours of television.
        assert np.abs(np.asarray(shown, int)[8:-8, 8:56] - colours[0]).max() <= 6


@pytest.mark.parametrize(("turn", "white"), [(90, np.s_[:, :8]), (180, np.s_[-8:]), (-90, np.s_[:, -8:])])
def test_a_video_that_is_shown_turned_comes_out_upright(tmp_path, turn, white):
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:16] = 255
    with av.open(str(tmp_path / "in.mp4"), "w") as writer:
        video = writer.add_stream("libx264", 25, {"crf": "5"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.set_display_rotation(turn)
        writer.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        writer.mux(video.encode())
    paint_video(tmp_path / "in.mp4", tmp_path / "out.mp4", lambda frame: frame)
    picture = read_video(tmp_path / "out.mp4")[1][0]
    # What is stored at the top is shown, turned counterclockwise, on the left, at the bottom, on the right.
    assert picture[white].mean() > 240 > 120 > picture.mean()
    assert picture.shape == ((48, 64, 3) if turn == 180 else (64, 48, 3))


def test_a_smaller_size_and_odd_sides(frames, tmp_path):
    source = write_video(tmp_path / "in.mp4", frames[:2], sound=None)
    paint_video(source, tmp_path / "out.mp4", lambda frame: frame, size=33)
    assert read_video(tmp_path / "out.mp4")[1][0].shape == (24, 32, 3)


@pytest.mark.parametrize("content", [b"", b"no video", b"\x00\x00\x00\x18ftypmp42" + bytes(100)])
def test_what_is_no_video_is_named(tmp_path, content):
    (tmp_path / "bad.mp4").write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.mp4: \S"):
        paint_video(tmp_path / "bad.mp4", tmp_path / "out.mp4", lambda frame: frame)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.mp4"]


def test_a_video_without_pictures_is_named(tmp_path):
    with av.open(str(tmp_path / "tone.mp4"), "w") as writer:
        tone = writer.add_stream("aac", 48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48000
        writer.mux(tone.encode(frame))
        writer.mux(tone.encode())
    with pytest.raises(ValueError, match=r"tone\.mp4: there are no pictures in it"):
        paint_video(tmp_path / "tone.mp4", tmp_path / "out.mp4", lambda frame: frame)


def test_sound_that_does_not_fit_is_named_before_anything_is_painted(frames, tmp_path):
    source = write_video(tmp_path / "in.mp4", frames)
    with pytest.raises(ValueError, match=r"out\.webm: cannot hold the sound of the source \(aac\)"):
        paint_video(source, tmp_path / "out.webm", lambda frame: pytest.fail("painted"))
    assert not (tmp_path / "out.webm").exists()


def test_an_error_on_the_way_leaves_nothing_behind(frames, tmp_path):
    source = write_video(tmp_path / "in.mp4", frames)
    painted = []

    def paint(frame):
        painted.append(frame)
        if len(painted) == 5:
            raise KeyboardInterrupt
        return frame

    with pytest.raises(KeyboardInterrupt):
        paint_video(source, tmp_path / "out.mp4", paint)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


@torch.no_grad()
def test_smoothing_reduces_the_flicker_of_what_stands_still(pictures):
    torch.manual_seed(1)
    network = TransformerNet(4, 1)
    still = torch.from_numpy(np.array(pictures[0].resize((256, 64)))).permute(2, 0, 1)[None] / 255
    frames = []
    for i in range(10):
        # A bright sign on the left goes on and off; the right half, further away than the network sees, stands still.
        frame = still.clone()
        frame[..., 8:56, 8:24] = i % 2
        frames.append(frame)

    def flicker(painted):
        right = [frame[..., 160:] for frame in painted]
        return torch.stack([(a - b).abs().mean() for a, b in itertools.pairwise(right)][2:]).mean()

    alone = [network(frame) for frame in frames]
    with Smoothing(network, 0.9) as smoothing:
        smooth = []
        for frame in frames:
            smoothing.next(frame)
            smooth.append(network(frame))
    assert torch.allclose(smooth[0], alone[0], atol=1e-5)
    assert 0 < flicker(smooth) < 0.5 * flicker(alone)


@torch.no_grad()
def test_smoothing_averages_the_statistics_and_forgets_them_at_a_cut():
    norm = InstanceNorm2d(3, affine=True)
    dark, bright = torch.rand(1, 3, 8, 8) * 0.2, torch.rand(1, 3, 8, 8) * 0.2 + 0.8
    with Smoothing(norm, 0.75) as smoothing:
        for frame in (dark, dark * 0.9):
            smoothing.next(frame)
            norm(frame)
        mean = norm.statistics[0]
        torch.testing.assert_close(mean, dark.mean((2, 3), keepdim=True) * (0.75 + 0.25 * 0.9))
        smoothing.next(bright)
        norm(bright)
        torch.testing.assert_close(norm.statistics[0], bright.mean((2, 3), keepdim=True))
    assert norm.statistics is None
    assert not norm._forward_pre_hooks
