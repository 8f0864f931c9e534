from conftest import TINY
from PIL import Image

from cyclegan.train import PLOTS
from stylekit.notebook import show, watch


def test_pictures_are_shown_as_jpeg(pictures, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    show([pictures[:3]], ["a", "b", "c"], 32)
    assert shown[0].data[:3] == b"\xff\xd8\xff" and shown[0].format == "jpeg"


def test_a_watched_training_leaves_its_plot_and_its_exit_code(dataset, tmp_path):
    folder = tmp_path / "runs" / "watched"
    arguments = ["train.py", *TINY, "--dataroot", dataset, "--checkpoints-dir", tmp_path / "runs", "--print-freq", 1]
    assert watch([*arguments, "--name", "watched", "--max-steps", 4], folder, PLOTS, every=0.2) == 0
    assert Image.open(folder / "losses.png").width > 800


def test_a_watched_training_that_fails_shows_why(tmp_path, capsys):
    assert watch(["train.py", "--dataroot", tmp_path / "nowhere"], tmp_path, every=0.2) == 2
    assert "no folder" in capsys.readouterr().out
