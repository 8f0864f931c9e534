"""Jobs over files and folders."""

import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from cyclegan.models import Generator
from cyclegan.options import GeneratorConfig
from cyclegan.translate import translate
from johnson.models import TransformerNet
from johnson.options import NetworkConfig
from johnson.stylize import stylize
from stylekit import cli, distributed
from stylekit.pictures import images, jobs, photographs
from stylekit.pictures.jobs import Job, describe_skipped, plan_jobs, process_files

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
VIDEOS = (".mp4", ".mov")


@pytest.fixture
def folder(tmp_path, pictures, monkeypatch):
    """The working directory: photos/a.jpg, photos/sub/b.PNG, photos/notes.txt, one.gif, clip.mp4."""
    monkeypatch.chdir(tmp_path)
    images.save(pictures[0], "photos/a.jpg")
    images.save(pictures[1], "photos/sub/b.PNG")
    (tmp_path / "photos" / "notes.txt").touch()
    pictures[2].save("one.gif")
    (tmp_path / "clip.mp4").touch()
    return tmp_path


def planned(*args, **keywords):
    return [(str(job.source), str(job.target)) for job in plan_jobs(*args, **keywords)]


def test_a_folder_keeps_its_structure_and_its_names(folder):
    assert planned(["photos"], folder / "out") == [
        ("photos/a.jpg", str(folder / "out/a.jpg")),
        ("photos/sub/b.PNG", str(folder / "out/sub/b.PNG")),
    ]


def test_a_single_picture_can_be_written_to_a_file_or_into_a_folder(folder):
    assert planned(["photos/a.jpg"], folder / "new.png") == [("photos/a.jpg", str(folder / "new.png"))]
    assert planned(["photos/a.jpg"], folder / "out") == [("photos/a.jpg", str(folder / "out/a.jpg"))]
    (folder / "folder.png").mkdir()
    assert planned(["photos/a.jpg"], folder / "folder.png") == [("photos/a.jpg", str(folder / "folder.png/a.jpg"))]


def test_the_format_replaces_the_suffix_of_pictures_but_not_of_videos(folder):
    targets = [target for _, target in planned(["photos", "clip.mp4"], folder / "out", "webp", VIDEOS)]
    assert targets == [str(folder / "out" / name) for name in ("a.webp", "sub/b.webp", "clip.mp4")]


def test_a_suffix_that_cannot_be_written_becomes_png(folder):
    assert planned(["one.gif"], folder / "out") == [("one.gif", str(folder / "out/one.png"))]


def test_results_inside_the_input_folder_are_not_inputs_of_the_next_call(folder, pictures):
    images.save(pictures[0], "photos/out/a.jpg")
    assert [source for source, _ in planned(["photos"], folder / "photos/out")] == ["photos/a.jpg", "photos/sub/b.PNG"]


@pytest.mark.parametrize(
    ("inputs", "output", "error", "message"),
    [
        (["nowhere.jpg"], "out", FileNotFoundError, "no file or folder nowhere.jpg"),
        (["empty"], "out", FileNotFoundError, "no pictures in empty; expected .avif .bmp .gif .heic"),
        (["photos/a.jpg", "one.gif"], "out.png", ValueError, "out.png is a file, but there are several inputs"),
        (["photos"], "out.png", ValueError, "out.png is a file, but there are several inputs; expected a folder"),
        (["photos"], "photos", ValueError, "photos/a.jpg is also an input and is never replaced"),
        (["photos/a.jpg"], "photos/a.jpg", ValueError, "choose another --output"),
        (["photos/a.jpg"], "a.mp4", ValueError, "cannot write a picture to a.mp4; use another suffix"),
        (["clip.mp4"], "clip.jpg", ValueError, "cannot write a video to clip.jpg; use another suffix"),
    ],
)
def test_jobs_that_cannot_be_done_are_refused_before_anything_is_written(folder, inputs, output, error, message):
    (folder / "empty").mkdir()
    before = sorted(folder.rglob("*"))
    with pytest.raises(error) as raised:
        plan_jobs(inputs, Path(output), videos=VIDEOS)
    assert message in str(raised.value)
    assert sorted(folder.rglob("*")) == before


def test_two_pictures_that_would_share_a_result_are_refused(folder, pictures):
    images.save(pictures[3], "more/a.jpg")
    with pytest.raises(ValueError, match=r"photos/a\.jpg and more/a\.jpg would both be written to .*process them sep"):
        plan_jobs(["photos", "more"], folder / "out")


def test_every_picture_is_processed_and_written(folder):
    sizes = []

    def darken(image):
        sizes.append(tuple(image.shape))
        return image / 2

    outcomes = list(process_files(plan_jobs(["photos"], folder / "out", "png"), darken))
    assert sizes == [(1, 3, 48, 48)] * 2
    for outcome in outcomes:
        assert outcome.error is None and outcome.after.tobytes() == images.load(outcome.job.target).tobytes()
        before, after = (np.asarray(picture, dtype=float) for picture in (outcome.before, outcome.after))
        assert np.abs(after - before / 2).max() <= 0.5


def test_a_size_shrinks_pictures_before_they_are_processed(folder):
    [outcome] = process_files([Job(folder / "photos/a.jpg", folder / "out.png")], lambda image: image, size=20)
    assert outcome.before.size == outcome.after.size == images.load(folder / "out.png").size == (20, 20)


def test_a_picture_that_fails_does_not_end_the_work(folder):
    (folder / "photos" / "a.jpg").write_text("not a picture")
    bad, good = process_files(plan_jobs(["photos"], folder / "out"), lambda image: image)
    assert "a.jpg: not a supported picture" in bad.error and bad.after is None and not bad.job.target.exists()
    assert good.error is None and good.job.target.is_file()


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_picture_too_large_for_the_memory_is_reported_with_its_size(folder, error):
    def fail(image):
        raise error

    [outcome] = process_files([Job(folder / "photos/a.jpg", folder / "out.png")], fail)
    assert outcome.error == f"{folder / 'photos/a.jpg'}: out of memory at 48 x 48 pixels; try --size 2000"


def test_other_errors_are_not_hidden(folder):
    def fail(image):
        raise RuntimeError("expected 4 channels")

    with pytest.raises(RuntimeError, match="expected 4 channels"):
        list(process_files([Job(folder / "photos/a.jpg", folder / "out.png")], fail))


def test_a_result_that_cannot_be_written_ends_the_work(folder):
    (folder / "out").write_text("a file where the folder should be")
    with pytest.raises(OSError, match=r"could not write .*out/a\.jpg"):
        list(process_files(plan_jobs(["photos"], folder / "out"), lambda image: image))


def test_a_picture_that_vanishes_or_does_not_fit_the_format_does_not_end_the_work(folder, tmp_path):
    jobs = plan_jobs([folder], tmp_path / "out", format="webp")
    jobs[0].source.unlink()
    sizes = iter([(16_400, 1), *[(8, 8)] * len(jobs)])  # WebP allows 16,383 pixels.

    def process(x):
        return torch.zeros(1, 3, *reversed(next(sizes)))

    errors = [outcome.error for outcome in process_files(jobs, process)]
    assert "no picture" in errors[0] and "WEBP cannot store 16400 x 1" in errors[1]
    assert errors[2:] == [None] * (len(jobs) - 2)


def test_an_empty_string_is_not_the_current_folder(tmp_path):
    with pytest.raises(ValueError, match="an input is an empty string"):
        plan_jobs([""], tmp_path)


def test_hundreds_of_pictures_leave_no_open_file_no_thread_and_no_memory(folder):
    picture = images.to_tensor(images.load("photos/a.jpg"))[..., :24, :16]
    images.save(picture, "photos/a.jpg")
    generator = Generator(GeneratorConfig(ngf=4, n_blocks=1)).eval()
    transformer = TransformerNet(NetworkConfig(width=4, n_blocks=1)).eval()
    jobs = plan_jobs(["photos/a.jpg"], Path("out"))
    process, measured = psutil.Process(), []
    for i in range(330):
        if i % 2:
            assert [outcome.error for outcome in process_files(jobs, lambda x: translate(x, generator))] == [None]
        else:
            stylize(picture, transformer)
        if i in (29, 329):
            measured.append((process.num_fds(), process.num_threads(), process.memory_info().rss))
    # A leak would add 150. A thread that has ended may take a moment to vanish.
    assert all(after - before < 10 for before, after in zip(measured[0][:2], measured[1][:2], strict=True))
    assert measured[1][2] - measured[0][2] < 4 * 2**20


def test_heic_files_and_gifs_of_a_folder_are_inputs(folder):
    for name in ("c.HEIC", "d.heif", "e.gif"):
        (folder / "photos" / name).touch()
    targets = [target for _, target in planned(["photos"], folder / "out")]
    assert targets == [str(folder / "out" / name) for name in ("a.jpg", "c.jpg", "d.jpg", "e.png", "sub/b.PNG")]
    assert planned(["photos/c.HEIC"], folder / "out", "webp") == [("photos/c.HEIC", str(folder / "out/c.webp"))]


def test_files_that_are_no_pictures_are_counted_in_one_line(folder):
    assert describe_skipped(["photos"], folder / "out") == "skipped 1 file that is no picture: 1 .txt"
    assert describe_skipped(["photos/a.jpg", "photos/sub"], folder / "out") == ""
    for name in ("photos/b.txt", "photos/README", "photos/clip.MP4", "photos/.hidden", "photos/out/log.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    assert describe_skipped(["photos"], folder / "photos/out", VIDEOS) == (
        "skipped 4 files that are no pictures: 2 .txt, 1 without a suffix, 1 .mp4; name videos to process them"
    )


@pytest.fixture
def many(folder, pictures):
    """Jobs for ten pictures, of which one is damaged."""
    for i, picture in enumerate(pictures[:10]):
        images.save(picture, folder / "many" / f"{i}.png")
    (folder / "many" / "4.png").write_text("no picture")
    return plan_jobs(["many"], folder / "out")


def test_loading_and_writing_ahead_changes_neither_results_nor_their_order(folder, many):
    outcomes = list(process_files(many, lambda image: image.flip(3) * 0.7))
    assert [outcome.job for outcome in outcomes] == list(many)
    assert [outcome.error is None for outcome in outcomes] == [i != 4 for i in range(10)]
    for job in many[:4] + many[5:]:
        photograph = photographs.load(job.source)
        photographs.save(photograph.to_tensor().flip(3) * 0.7, folder / "alone.png", photograph)
        assert (folder / "alone.png").read_bytes() == job.target.read_bytes()


def test_the_next_pictures_are_loaded_while_one_is_processed_but_not_all(many, monkeypatch):
    loaded = []
    load = photographs.load
    monkeypatch.setattr(photographs, "load", lambda path, size: loaded.append(path) or load(path, size))
    outcomes = process_files(many, lambda image: image)
    first = next(outcomes)
    deadline = time.monotonic() + 60
    while len(loaded) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert first.job == many[0] and 3 <= len(loaded) <= 2 * jobs._AHEAD + 2


@pytest.mark.parametrize("after", [0, 1, 3])
def test_ctrl_c_leaves_whole_results_and_nothing_else(folder, many, after):
    calls = []

    def process(image):
        calls.append(image)
        if len(calls) > after:
            raise KeyboardInterrupt
        return image

    with pytest.raises(KeyboardInterrupt):
        list(process_files(many, process))
    written = sorted((folder / "out").iterdir()) if after else []
    assert written == [job.target for job in many[:after]]
    assert all(images.load(path).size == (48, 48) for path in written)


def test_each_process_of_torchrun_takes_its_share_and_the_main_one_reports(many, folder, monkeypatch, capsys):
    reports = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(distributed, "gather", lambda report: reports.append(report) or (reports if ended() else []))

    def ended():
        return len(reports) == 2

    codes = []
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        outcomes = process_files(distributed.share(many), lambda image: image)
        codes.append(cli.report_outcomes(outcomes, many, folder / "out", folder / "sheet.jpg", "johnson", "painted"))
    out, err = capsys.readouterr()
    assert codes == [0, 1] and err.count("4.png: not a supported picture") == 1
    assert out == f"painted 9 pictures: {folder / 'out'}\nbefore and after: {folder / 'sheet.jpg'}\n"
    assert len(list((folder / "out").iterdir())) == 9
