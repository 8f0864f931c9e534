import albumentations
import pytest
import torch

from johnson.data import Photographs, build_pipeline, find_photographs
from stylekit.pictures import images


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


@pytest.mark.parametrize("augment", ["none", "crop"])
def test_a_sample_is_a_square_and_a_function_of_seed_and_index(folder, augment):
    paths = find_photographs(folder)
    samples = Photographs(paths, build_pipeline(augment, 40, 32), seed=1)
    assert len(samples) == 3
    for i in range(6):
        (sample, noise), again = samples[i], Photographs(paths, build_pipeline(augment, 40, 32), seed=1)[i]
        assert sample.shape == (3, 32, 32) and sample.min() >= 0 and sample.max() <= 1
        assert noise.shape == (1, 32, 32) and abs(noise.mean()) < 0.15 and 0.9 < noise.std() < 1.1
        assert torch.equal(sample, again[0]) and torch.equal(noise, again[1])
    later = [samples[3 * epoch] for epoch in range(1, 6)]
    assert any(not torch.equal(sample, samples[0][0]) for sample, _ in later) is (augment == "crop")
    assert not any(torch.equal(noise, samples[0][1]) for _, noise in later)


def test_a_pipeline_from_a_file_crops_like_the_one_that_was_saved(folder, tmp_path):
    pipeline = build_pipeline("crop", 40, 32)
    albumentations.save(pipeline, tmp_path / "mine.json")
    paths = find_photographs(folder)
    saved, read = (Photographs(paths, p) for p in (pipeline, build_pipeline(str(tmp_path / "mine.json"), 40, 32)))
    assert all(torch.equal(saved[i][0], read[i][0]) for i in range(6))
    with pytest.raises(ValueError, match=r"--augment .*mine.json: .* expected uint8 \(24, 24, 3\)"):
        build_pipeline(str(tmp_path / "mine.json"), 40, 24)
