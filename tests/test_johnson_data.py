import pytest
import torch

from johnson.data import Photographs, find_photographs
from stylekit.pictures import images
from stylekit.training.data import random_crop


@pytest.fixture
def folder(tmp_path, pictures):
    for name, picture in zip(("b.png", "deep/er/a.jpg", "deep/c.webp"), pictures, strict=False):
        images.save(picture, tmp_path / "photographs" / name)
    (tmp_path / "photographs" / "notes.txt").touch()
    return tmp_path / "photographs"


def test_photographs_are_found_in_all_subfolders(folder):
    assert find_photographs(folder) == [folder / "b.png", folder / "deep" / "c.webp", folder / "deep" / "er" / "a.jpg"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere; --dataroot needs a folder with photographs"):
        find_photographs(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no pictures in .*empty; expected photographs \(avif bmp"):
        find_photographs(tmp_path / "empty")


def test_a_sample_is_a_square_and_a_function_of_seed_and_index(folder):
    samples, again = (Photographs(find_photographs(folder), random_crop(40, 32), seed=1) for _ in range(2))
    assert len(samples) == 3
    for i in range(6):
        (photograph, noise), other = samples[i], again[i]
        assert photograph.shape == (3, 32, 32) and photograph.min() >= 0 and photograph.max() <= 1
        assert noise.shape == (1, 32, 32) and abs(noise.mean()) < 0.15 and 0.9 < noise.std() < 1.1
        assert torch.equal(photograph, other[0]) and torch.equal(noise, other[1])
    # Later epochs have other crops, and other noise.
    later = [samples[3 * epoch] for epoch in range(1, 6)]
    assert any(not torch.equal(photograph, samples[0][0]) for photograph, _ in later)
    assert not any(torch.equal(noise, samples[0][1]) for _, noise in later)
