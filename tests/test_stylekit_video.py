import os
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import read_video, write_video

from stylekit.pictures.jobs import Job, process_files
from stylekit.pictures.video import process_video

SIZE = (64, 48)


@pytest.fixture
def frames(pictures):
    """Twelve different frames of 64 x 48 px."""
    return [np.asarray(picture.resize(SIZE)) for picture in pictures]


@pytest.mark.parametrize(("suffix", "sound"), [(".mp4", "aac"), (".mkv", "aac"), (".webm", "libopus"), (".mov", None)])
def test_timestamps_and_audio_are_preserved_and_every_frame_is_processed(frames, tmp_path, suffix, sound):
    source, target = write_video(tmp_path / f"in{suffix}", frames, sound), tmp_path / f"out{suffix}"
    before, after = process_video(source, target, lambda frame: 1 - frame)
    times, pictures, tone = read_video(source)
    new_times, new_pictures, new_tone = read_video(target)
    assert new_times == pytest.approx(times, abs=1e-3) and len(times) == 12
    assert new_tone == tone and bool(tone) is bool(sound)
    for old, new in zip(pictures, new_pictures, strict=True):
        assert np.abs(255 - old.astype(int) - new).mean() < 12
    assert np.abs(255 - np.asarray(before, int) - np.asarray(after)).max() <= 1 and before.size == SIZE


@pytest.mark.parametrize("height", [96, 720])
def test_colors_are_preserved(tmp_path, height):
    colors = [(200, 30, 30), (30, 160, 60), (40, 60, 200)]
    frame = np.concatenate([np.full((height, 64, 3), color) for color in colors], axis=1)
    source = write_video(tmp_path / "in.mp4", [frame] * 2, sound=None)
    shown, _ = process_video(source, tmp_path / "once.mp4", lambda frame: frame)
    again, _ = process_video(tmp_path / "once.mp4", tmp_path / "twice.mp4", lambda frame: frame)
    for i in range(3):
        patch = (slice(8, -8), slice(64 * i + 8, 64 * i + 56))
        assert np.abs(np.asarray(shown, int)[patch] - np.asarray(again)[patch]).max() <= 4
    if height < 720:  # write_video encodes with BT.601.
        assert np.abs(np.asarray(shown, int)[8:-8, 8:56] - colors[0]).max() <= 6


@pytest.mark.parametrize(("turn", "white"), [(90, np.s_[:, :8]), (180, np.s_[-8:]), (-90, np.s_[:, -8:])])
def test_a_rotated_video_is_written_upright(tmp_path, turn, white):
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:16] = 255
    with av.open(str(tmp_path / "in.mp4"), "w") as writer:
        video = writer.add_stream("libx264", 25, {"crf": "5"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.set_display_rotation(turn)
        writer.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        writer.mux(video.encode())
    process_video(tmp_path / "in.mp4", tmp_path / "out.mp4", lambda frame: frame)
    picture = read_video(tmp_path / "out.mp4")[1][0]
    # The counterclockwise rotation moves the top to the left, the bottom or the right.
    assert picture[white].mean() > 240 > 120 > picture.mean()
    assert picture.shape == ((48, 64, 3) if turn == 180 else (64, 48, 3))


def test_frames_are_resized_and_odd_sides_lose_a_pixel(frames, tmp_path):
    source = write_video(tmp_path / "in.mp4", frames[:2], sound=None)
    process_video(source, tmp_path / "out.mp4", lambda frame: frame, size=33)
    assert read_video(tmp_path / "out.mp4")[1][0].shape == (24, 32, 3)


@pytest.mark.parametrize("content", [b"", b"no video", b"\x00\x00\x00\x18ftypmp42" + bytes(100)])
def test_the_error_for_a_file_that_is_not_a_video_names_it(tmp_path, content):
    (tmp_path / "bad.mp4").write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.mp4: \S"):
        process_video(tmp_path / "bad.mp4", tmp_path / "out.mp4", lambda frame: frame)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.mp4"]


def test_the_error_for_a_video_without_pictures_names_it(tmp_path):
    with av.open(str(tmp_path / "tone.mp4"), "w") as writer:
        tone = writer.add_stream("aac", 48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48000
        writer.mux(tone.encode(frame))
        writer.mux(tone.encode())
    with pytest.raises(ValueError, match=r"tone\.mp4: contains no video stream"):
        process_video(tmp_path / "tone.mp4", tmp_path / "out.mp4", lambda frame: frame)


def test_an_unsupported_audio_codec_is_reported_before_any_frame_is_processed(frames, tmp_path):
    source = write_video(tmp_path / "in.mp4", frames)
    with pytest.raises(ValueError, match=r"out\.webm: does not support the audio codec of the source \(aac\)"):
        process_video(source, tmp_path / "out.webm", lambda frame: pytest.fail("processed"))
    assert not (tmp_path / "out.webm").exists()


def test_an_interruption_leaves_no_partial_file(frames, tmp_path):
    source = write_video(tmp_path / "in.mp4", frames)
    processed = []

    def process(frame):
        processed.append(frame)
        if len(processed) == 5:
            raise KeyboardInterrupt
        return frame

    with pytest.raises(KeyboardInterrupt):
        process_video(source, tmp_path / "out.mp4", process)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


@pytest.mark.parametrize("target", [".mp4", ".avi"])
@pytest.mark.parametrize("source", ["late.mkv", "dropped.avi", "ended.avi", "sound.mkv", "reordered.avi"])
def test_an_unusual_video_is_no_truncated_one_and_its_frames_stay_in_order(frames, tmp_path, source, target):
    """One that starts at 5 s, misses frames in the middle or at the end, has longer sound, or B-frames in AVI."""
    times = {
        "late": range(125, 165),
        "dropped": [i for i in range(40) if i % 4 == 0],
        "ended": [*range(9), 70],
        "sound": range(10),
        "reordered": range(40),
    }[source[:-4]]
    source = tmp_path / source
    with av.open(str(source), "w") as writer:
        options = {"bf": "3", "b-adapt": "0"} if source.stem == "reordered" else {"bf": "0"}
        video = writer.add_stream("libx264", 25, options)
        (video.width, video.height), video.pix_fmt = SIZE, "yuv420p"
        sound = writer.add_stream("aac", 48000, layout="mono") if source.stem == "sound" else None
        for time in times:
            frame = av.VideoFrame.from_ndarray(np.full_like(frames[0], 6 * (time % 40)), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 25)
            writer.mux(video.encode(frame))
        writer.mux(video.encode())
        for start in range(0, 48000 * 5 if sound else 0, 1024):
            tone = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            tone.sample_rate, tone.pts = 48000, start
            writer.mux(sound.encode(tone))
        writer.mux(sound.encode() if sound else [])
    process_video(source, tmp_path / f"out{target}", lambda x: x)
    new_times, pictures, _ = read_video(tmp_path / f"out{target}")
    assert new_times == sorted(new_times) and len(pictures) == len(times)
    if target == ".mp4":  # In AVI, times of H.264 are a guess of the reader.
        assert new_times == pytest.approx([time / 25 for time in times], abs=0.001)
    brightness = [picture.mean() for picture in pictures]
    assert brightness == pytest.approx([6 * (time % 40) for time in times], abs=6)


@pytest.mark.parametrize("suffix", [".mkv", ".webm", ".avi", ".mp4", ".mov"])
def test_a_truncated_video_is_named_before_any_frame_is_processed(tmp_path, suffix):
    noise = np.random.default_rng(0)
    frames = [noise.integers(0, 255, (48, 64, 3)) for _ in range(60)]
    whole = write_video(tmp_path / f"whole{suffix}", frames, sound=None)
    half = tmp_path / f"half{suffix}"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"half.*: truncated: has [\d,]+ of [\d,]+ bytes"):
        process_video(half, tmp_path / f"out{suffix}", lambda x: x)
    assert not (tmp_path / f"out{suffix}").exists()
    process_video(whole, tmp_path / f"out{suffix}", lambda x: x)


def test_names_that_look_like_addresses_are_files(frames, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(Path("plain.mp4"), frames).rename("Trip: day 1.mp4")
    process_video("Trip: day 1.mp4", "out.mp4", lambda x: x)
    assert Path("out.mp4").stat().st_size > 0
    os.mkfifo("pipe.mp4")
    with pytest.raises(ValueError, match=r"pipe\.mp4: not a file"):
        process_video("pipe.mp4", "other.mp4", lambda x: x)


def test_without_pyav_one_line_says_what_to_install(tmp_path, monkeypatch, frames):
    write_video(tmp_path / "in.mp4", frames[:2], sound=None)
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.delitem(sys.modules, "stylekit.pictures.video")
    jobs = [Job(tmp_path / "in.mp4", tmp_path / "out.mp4")]
    [outcome] = process_files(jobs, lambda x: x, process_frames=lambda: lambda x: x)
    needed = 'videos need PyAV; install it: pip install "image-translation[video]"'
    assert outcome.error == f"{tmp_path}/in.mp4: {needed}"
