import itertools
import os
import struct
import zlib

import numpy as np
import pytest
import torch

from stylekit import data, images
from stylekit.data import EpochBatches, check_pictures, some_of


@pytest.fixture
def photographs(tmp_path, pictures):
    """Six files."""
    paths = [tmp_path / f"{i}.png" for i in range(6)]
    for path, picture in zip(paths, pictures, strict=False):
        picture.save(path)
    return paths


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
        seen = flat(batches[5 * epoch : 5 * epoch + 5])
        assert len(set(seen)) == 20 and all(22 * epoch <= i < 22 * (epoch + 1) for i in seen)


@pytest.mark.parametrize("serial", [False, True])
def test_an_iteration_begins_exactly_at_epoch_and_start(serial):
    every = take(EpochBatches(12, 3, seed=1, serial=serial), 16)
    late = EpochBatches(12, 3, seed=1, serial=serial)
    late.epoch, late.start = 1, 2
    assert take(late, 10) == every[6:]
    late.epoch, late.start = 0, 4
    assert take(late, 4) == every[4:8]


def test_serial_batches_keep_the_order_and_others_do_not():
    assert take(EpochBatches(6, 2, serial=True), 4) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    orders = [flat(take(EpochBatches(50, 10, seed=seed), 10)) for seed in (0, 0, 1)]
    first, second = orders[0][:50], [i - 50 for i in orders[0][50:]]
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second and first != list(range(50))
    assert orders[0] == orders[1] != orders[2]


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


def test_pictures_fit_in_a_quarter_of_the_free_memory(photographs, monkeypatch):
    paths = photographs
    needed = 6 * 48 * 48 * 3
    free = {"SC_PAGE_SIZE": 1}
    monkeypatch.setattr(os, "sysconf", free.__getitem__)
    for pages, copies, fits in ((4 * needed + 4, 1, True), (4 * needed, 1, False), (4 * needed + 4, 2, False)):
        free["SC_AVPHYS_PAGES"] = pages
        assert data.cache_fits(paths, copies) is fits


def test_damaged_pictures_do_not_keep_others_from_being_counted(photographs, tmp_path):
    damaged = tmp_path / "damaged.png"
    header = b"IHDR" + bytes(5)
    damaged.write_bytes(
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 5) + header + struct.pack(">I", zlib.crc32(header)) + bytes(100)
    )
    assert data.cache_fits([damaged, *photographs])
    assert not data.cache_fits([damaged, *photographs], copies=10**12)


def test_some_are_from_all_over_a_list():
    assert some_of(list("abcdefgh"), 3) == ["a", "c", "f"]
    assert some_of(list("ab"), 4) == ["a", "b"] and some_of([], 4) == [] and some_of(list("ab"), 0) == []
