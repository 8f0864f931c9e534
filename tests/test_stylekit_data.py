import itertools
import multiprocessing
import struct
import zlib

import albumentations
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from stylekit import devices
from stylekit.options import RunConfig
from stylekit.pictures import images
from stylekit.training.data import (
    EpochBatches,
    cache_fits,
    center_crop,
    check_pictures,
    evenly_spaced,
    iterate,
    load_any_crop,
    load_crop,
    make_loader,
    random_crop,
    read_pictures,
)

CPU = torch.device("cpu")


@pytest.fixture
def photographs(tmp_path, pictures):
    """Six files."""
    paths = [tmp_path / f"{i}.png" for i in range(6)]
    for path, picture in zip(paths, pictures, strict=False):
        picture.save(path)
    return paths


def config(**changes):
    return RunConfig.from_preset("paper", dataroot="photos", **{"num_workers": 0} | changes)


def take(batches, count):
    """The first batches of a loader that never ends."""
    return list(itertools.islice(batches, count))


def flat(batches):
    return list(itertools.chain.from_iterable(batches))


def test_two_processes_see_what_one_with_twice_the_batch_sees():
    whole = EpochBatches(22, 4, seed=5)
    parts = [EpochBatches(22, 2, seed=5, rank=rank, world_size=2) for rank in (0, 1)]
    # 22 samples fill five batches of 4; two are left out.
    assert len(whole) == len(parts[0]) == len(parts[1]) == 5
    batches = take(whole, 15)
    assert [first + second for first, second in zip(*(take(part, 15) for part in parts), strict=True)] == batches
    for epoch in range(3):
        samples = flat(batches[5 * epoch : 5 * epoch + 5])
        assert len(set(samples)) == 20 and all(22 * epoch <= i < 22 * (epoch + 1) for i in samples)


def test_an_iteration_begins_exactly_at_epoch_and_start():
    every = take(EpochBatches(12, 3, seed=1), 16)
    late = EpochBatches(12, 3, seed=1)
    late.epoch, late.start = 1, 2
    assert take(late, 10) == every[6:]
    late.epoch, late.start = 0, 4
    assert take(late, 4) == every[4:8]


def test_every_epoch_and_seed_has_its_own_order():
    orders = [flat(take(EpochBatches(50, 10, seed=seed), 10)) for seed in (0, 0, 1)]
    first, second = orders[0][:50], [i - 50 for i in orders[0][50:]]
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second and first != list(range(50))
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("pipeline", [center_crop(36, 32), random_crop(36, 32)])
def test_the_same_seed_gives_the_same_crop(photographs, pipeline):
    crops = [load_crop(photographs[0], pipeline, seed) for seed in (1, 2, 3, 4, 1)]
    assert crops[0].shape == (3, 32, 32) and crops[0].min() >= 0 and crops[0].max() <= 1
    assert torch.equal(crops[0], crops[-1])


def test_a_cached_picture_gives_the_same_crop_and_stays_as_it_is(photographs):
    cache, _ = check_pictures(photographs, decode=True, progress=False)
    before = cache[photographs[0]].clone()
    pipeline = albumentations.Compose([albumentations.InvertImg(p=1), *random_crop(36, 32).transforms])
    assert torch.equal(load_crop(photographs[0], pipeline, 5, cache), load_crop(photographs[0], pipeline, 5))
    assert torch.equal(cache[photographs[0]], before)


def test_the_shorter_side_is_resized_and_the_center_is_kept(tmp_path):
    # White in the middle third of the longer side only: 60 x 20 becomes 108 x 36.
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    crop = load_crop(tmp_path / "wide.png", center_crop(36, 28), 0)
    assert crop.shape == (3, 28, 28) and crop.min() > 0.95


def test_bad_pictures_are_named_and_good_ones_decoded(photographs, tmp_path):
    good = photographs
    text, cut, missing = tmp_path / "text.jpg", tmp_path / "cut.png", tmp_path / "missing.png"
    text.write_text("no picture")
    cut.write_bytes(good[0].read_bytes()[:2000])
    decoded, bad = check_pictures([text, *good, cut, missing], decode=True, progress=False)
    assert list(bad) == [text, cut, missing]
    assert all(str(path) in reason and len(reason.splitlines()) == 1 for path, reason in bad.items())
    assert list(decoded) == good
    for path, picture in decoded.items():
        assert picture.dtype == torch.uint8
        assert np.array_equal(picture.numpy(), np.array(images.load(path)))
    assert check_pictures([text, *good], decode=False, progress=False) == ({}, {text: bad[text]})
    assert check_pictures([], decode=True, progress=False) == ({}, {})


def test_one_bad_picture_is_skipped_and_named(photographs, capsys):
    photographs[2].write_text("no picture")
    (good,), cache = read_pictures([photographs], [" in photos"])
    assert good == [path for path in photographs if path != photographs[2]] == list(cache)
    assert "skipped: " in (out := capsys.readouterr().out) and "2.png" in out


def test_many_bad_pictures_are_an_error(photographs):
    for path in photographs[:2]:
        path.write_text("no picture")
    with pytest.raises(
        ValueError, match=r"^2 of 6 pictures of domain A cannot be read, for example .*0\.png; at most 1 %"
    ):
        read_pictures([photographs, photographs[2:]], [" of domain A", " of domain B"])
    with pytest.raises(ValueError, match=r"^1 of 1 pictures of domain B"):
        read_pictures([photographs[2:], photographs[:1]], [" of domain A", " of domain B"])


def test_pictures_are_cached_if_they_fit_in_a_quarter_of_the_free_memory(photographs, monkeypatch):
    needed = 6 * 48 * 48 * 3
    for free, copies, fits in ((4 * needed + 4, 1, True), (4 * needed, 1, False), (4 * needed + 4, 2, False)):
        monkeypatch.setattr(devices, "free_memory", lambda device, free=free: free)
        assert cache_fits(photographs, copies) is fits
        if copies == 1:
            assert bool(read_pictures([photographs], [""])[1]) is fits


def test_damaged_pictures_do_not_keep_others_from_being_counted(photographs, tmp_path):
    damaged = tmp_path / "damaged.png"
    header = b"IHDR" + bytes(5)
    damaged.write_bytes(
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 5) + header + struct.pack(">I", zlib.crc32(header)) + bytes(100)
    )
    assert cache_fits([damaged, *photographs])
    assert not cache_fits([damaged, *photographs], copies=10**12)


class Numbers(Dataset):
    """The index itself."""

    def __getitem__(self, index):
        return torch.tensor(index)


def test_a_loader_gives_each_process_its_part_of_every_batch(monkeypatch):
    whole = [batch.tolist() for batch in take(make_loader(Numbers(), 8, config(batch_size=4), CPU), 3)]
    monkeypatch.setenv("WORLD_SIZE", "2")
    batches = []
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        loader = make_loader(Numbers(), 8, config(batch_size=2), CPU)
        batches.append([batch.tolist() for batch in take(loader, 3)])
    assert [first + second for first, second in zip(*batches, strict=True)] == whole


def test_too_few_pictures_for_a_batch_are_an_error(monkeypatch):
    with pytest.raises(ValueError, match=r"^6 pictures do not fill one batch of --batch-size 7; try --batch-size 6$"):
        make_loader(Numbers(), 6, config(batch_size=7), CPU)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"one batch of --batch-size 4 on 2 processes; try --batch-size 3$"):
        make_loader(Numbers(), 6, config(batch_size=4), CPU)


def test_there_are_no_more_workers_than_cores(recwarn):
    assert make_loader(Numbers(), 6, config(num_workers=1000), CPU).num_workers == devices.cores()
    assert make_loader(Numbers(), 6, config(), CPU).num_workers == 0
    assert not recwarn.list


def test_workers_are_gone_after_an_iteration_even_after_an_error():
    before = set(multiprocessing.active_children())
    loader = make_loader(Numbers(), 8, config(num_workers=1), CPU)
    with pytest.raises(RuntimeError, match="halfway"), iterate(loader) as batches:
        assert next(batches).shape == (1,)
        assert len(set(multiprocessing.active_children()) - before) == 1
        raise RuntimeError("halfway")
    assert set(multiprocessing.active_children()) == before


def test_evenly_spaced_files_come_from_the_whole_list():
    assert evenly_spaced(list("abcdefgh"), 3) == ["a", "c", "f"]
    assert evenly_spaced(list("ab"), 4) == ["a", "b"]
    assert evenly_spaced([], 4) == evenly_spaced(list("ab"), 0) == []


def test_a_picture_that_vanishes_during_training_is_replaced_by_the_next_one(photographs, capsys):
    pipeline = center_crop(36, 32)
    before = [load_any_crop(photographs, i, pipeline, 1) for i in range(2)]
    photographs[0].unlink()
    after = [load_any_crop(photographs, i, pipeline, 1) for i in range(2)]
    assert torch.equal(after[0], before[1]) and torch.equal(after[1], before[1])
    assert f"skipped: no picture {photographs[0]}" in capsys.readouterr().err
    for path in photographs[1:]:
        path.unlink()
    with pytest.raises(FileNotFoundError):
        load_any_crop(photographs, 0, pipeline, 1)
