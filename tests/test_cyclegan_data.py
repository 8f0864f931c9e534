import itertools
import json
import os

import albumentations
import numpy as np
import pytest
import torch
import yaml
from conftest import run
from PIL import Image
from torch.utils.data import DataLoader

from cyclegan.data import UnpairedImages, build_pipelines, find_domain, find_training_pictures
from stylekit.pictures import images
from stylekit.training.data import EpochBatches, check_pictures


@pytest.fixture
def photographs(dataset):
    """The files of X (6) and Y (4) of the small data set."""
    return [find_training_pictures(dataset, domain) for domain in "AB"]


@pytest.fixture
def numbered(tmp_path):
    """Files of one color: picture i of X (5) is 40 * i red, picture i of Y (3) is 40 * i blue."""
    found = []
    for folder, count, band in (("x", 5, 0), ("y", 3, 2)):
        (tmp_path / folder).mkdir()
        found.append([tmp_path / folder / f"{i}.png" for i in range(count)])
        for i, path in enumerate(found[-1]):
            Image.new("RGB", (36, 36), tuple(40 * i if j == band else 0 for j in range(3))).save(path)
    return found


@pytest.fixture
def position_map(tmp_path):
    """Writes a picture whose red is the row and whose green is the column of every pixel, in steps of 3."""

    def make(height, width):
        rows, columns = np.mgrid[:height, :width]
        pixels = np.stack([3 * rows, 3 * columns, 0 * rows], axis=-1).astype(np.uint8)
        path = tmp_path / f"{height}x{width}.png"
        Image.fromarray(pixels).save(path)
        return path

    return make


def positions(picture):
    """Row and column in the `position_map` from which every pixel of a crop comes."""
    return picture[0] * 255 / 3, picture[1] * 255 / 3


def numbers(sample):
    """The numbers of the pictures of `numbered` in a sample."""
    return round(sample.x[0, 0, 0].item() * 255 / 40), round(sample.y[2, 0, 0].item() * 255 / 40)


def take(batches, count):
    """The first batches of a loader that never ends."""
    return list(itertools.islice(batches, count))


@pytest.mark.parametrize("x, y", [("trainA", "trainB"), ("train_A", "train_B"), ("A/train", "B/train"),
                                  ("train/A", "train/B")])  # fmt: skip
def test_pictures_are_found_in_every_layout(tmp_path, pictures, x, y):
    for name, picture in ((f"{x}/b.png", 0), (f"{x}/a.jpg", 1), (f"{y}/more/c.webp", 2)):
        images.save(pictures[picture], tmp_path / name)
    assert find_training_pictures(tmp_path, "A") == [tmp_path / x / "a.jpg", tmp_path / x / "b.png"]
    assert find_training_pictures(tmp_path, "B") == [tmp_path / y / "more" / "c.webp"]
    assert find_domain(tmp_path, "test", "A") == []


def test_a_missing_folder_is_named(tmp_path, pictures):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere; --dataroot needs a folder with trainA"):
        find_training_pictures(tmp_path / "nowhere", "A")
    images.save(pictures[0], tmp_path / "trainA" / "a.png")
    (tmp_path / "trainB").mkdir()
    (tmp_path / "trainB" / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"no pictures in .*trainB; expected trainA and trainB .*avif bmp jpeg"):
        find_training_pictures(tmp_path, "B")


@pytest.mark.parametrize("augment", ["none", "paper", "strong", "detail"])
def test_samples_are_square_float_pictures_between_0_and_1(photographs, tmp_path, augment):
    odd = [tmp_path / "dot.png", tmp_path / "tower.png", tmp_path / "gray.png", tmp_path / "white.png"]
    for path, size, mode in zip(odd, ((1, 1), (5, 300), (100, 50), (36, 36)), ("RGB", "RGBA", "L", "RGB"), strict=True):
        Image.new(mode, size, "white").save(path)
    samples = UnpairedImages(photographs[0] + odd, photographs[1], build_pipelines(augment, 36, 32))
    assert len(samples) == 10
    for i in range(20):
        for picture in samples[i]:
            assert picture.shape == (3, 32, 32) and picture.dtype == torch.float32
            assert picture.min() >= 0 and picture.max() <= 1
    assert samples[len(samples) - 1].y.std() > 0.02
    white = samples[9].x
    assert white.max() == 1 if augment != "strong" else white.max() > 0.7


def test_augment_none_is_the_center_of_the_picture(position_map):
    path = position_map(36, 44)
    rows, columns = positions(UnpairedImages([path], [path], build_pipelines("none", 36, 32))[7].x)
    assert torch.equal(rows[:, 0].round(), torch.arange(2.0, 34)) and torch.equal(
        columns[0].round(), torch.arange(6.0, 38)
    )


def test_the_shorter_side_becomes_the_load_size_and_the_aspect_ratio_is_kept(position_map):
    path = position_map(80, 60)
    for augment in ("none", "paper"):
        rows, columns = positions(UnpairedImages([path], [path], build_pipelines(augment, 30, 24))[0].x)
        # 60 px become 30: every pixel of the crop is 2 x 2 of the photograph.
        down, across = (rows[-1] - rows[0]).mean() / 23, (columns[:, -1] - columns[:, 0]).mean() / 23
        assert down == pytest.approx(2, abs=0.05) and abs(across) == pytest.approx(2, abs=0.05)


def test_a_sample_is_a_function_of_seed_and_index(photographs):
    def samples(seed):
        return UnpairedImages(*photographs, build_pipelines("strong", 40, 32), seed=seed)

    one, other = samples(1), samples(1)
    backwards = {i: one[i] for i in reversed(range(8))}
    for i in range(8):
        assert torch.equal(other[i].x, backwards[i].x) and torch.equal(other[i].y, backwards[i].y)
    assert all(not torch.equal(samples(2)[i].x, backwards[i].x) for i in range(3))


def test_worker_processes_make_the_same_samples(photographs):
    samples = UnpairedImages(*photographs, build_pipelines("strong", 40, 32))
    loaders = [
        DataLoader(samples, batch_sampler=EpochBatches(len(samples), 2, seed=3), num_workers=workers)
        for workers in (0, 2)
    ]
    here, there = (take(loader, 6) for loader in loaders)
    assert len(here) == len(there) == 6
    for a, b in zip(here, there, strict=True):
        assert a.x.shape == (2, 3, 32, 32)
        assert torch.equal(a.x, b.x) and torch.equal(a.y, b.y)


def test_later_epochs_crop_the_same_pictures_differently(position_map, numbered):
    path = position_map(44, 44)
    samples = UnpairedImages([path], [path], build_pipelines("paper", 44, 32))
    corners = {(round(rows.min().item()), round(columns.min().item())) for rows, columns in
               (positions(samples[i].x) for i in range(30))}  # fmt: skip
    assert len(corners) > 15 and all(0 <= row <= 12 and 0 <= column <= 12 for row, column in corners)

    samples = UnpairedImages(*numbered, build_pipelines("paper", 36, 32))
    for i in range(5):
        assert numbers(samples[i])[0] == numbers(samples[i + len(samples)])[0] == i


def test_flips_and_crops_are_independent(position_map):
    path = position_map(44, 44)
    samples = UnpairedImages([path], [path], build_pipelines("paper", 44, 32))
    counts = dict.fromkeys(itertools.product((False, True), repeat=3), 0)
    for i in range(240):
        rows, columns = positions(samples[i].x)
        flipped = columns[0, 0] > columns[0, -1]
        counts[bool(flipped), bool(rows.min().round() < 6), bool(columns.min().round() < 6)] += 1
    # 30 of each are expected, more or less: the crop has 13 places, of which 6 are below 6.
    assert min(counts.values()) >= 12, counts


def test_x_is_taken_by_index_and_y_at_random(numbered):
    samples = UnpairedImages(*numbered, build_pipelines("none", 36, 32))
    epochs = [[numbers(samples[epoch * 5 + i]) for i in range(5)] for epoch in range(12)]
    assert all([x for x, _ in epoch] == [0, 1, 2, 3, 4] for epoch in epochs)
    orders = [tuple(y for _, y in epoch) for epoch in epochs]
    assert len(set(orders)) > 6 and {y for order in orders for y in order} == {0, 1, 2}


def test_an_epoch_has_every_picture_of_x_once(numbered):
    samples = UnpairedImages(*numbered, build_pipelines("none", 36, 32))
    loader = DataLoader(samples, batch_sampler=EpochBatches(len(samples), 1))
    numbers = [round(batch.x[0, 0, 0, 0].item() * 255 / 40) for batch in take(loader, 15)]
    epochs = [numbers[:5], numbers[5:10], numbers[10:]]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert epochs[0] != epochs[1] or epochs[1] != epochs[2]


def test_augment_strong_changes_the_colors_of_x_and_never_those_of_y(tmp_path):
    path = tmp_path / "red.png"
    Image.new("RGB", (50, 40), (200, 60, 40)).save(path)
    samples = UnpairedImages([path], [path], build_pipelines("strong", 36, 32))
    expected = images.to_tensor(images.load(path))[0, :, :32, :32]
    assert all(torch.equal(samples[i].y, expected) for i in range(10))
    assert sum(not torch.equal(samples[i].x, expected) for i in range(10)) > 5


def test_augment_strong_zooms_into_wide_photographs_as_into_square_ones(position_map):
    spans = {}
    for size in ((40, 40), (40, 80)):
        path = position_map(*size)
        samples = UnpairedImages([path], [path], build_pipelines("strong", 40, 32))
        # Those of y, whose colors, which are positions here, are kept.
        crops = [positions(samples[i].y)[1] for i in range(60)]
        spans[size] = [(crop[16].min().item(), crop[16].max().item()) for crop in crops]
        widths = [right - left for left, right in spans[size]]
        assert min(widths) < 32 and max(widths) > 34 and max(widths) < 40
    lefts, rights = zip(*spans[40, 80], strict=True)
    assert min(lefts) < 8 and max(rights) > 71, "both ends of the photograph are used"


@pytest.mark.parametrize("augment", ["none", "paper", "strong", "detail"])
def test_a_strip_of_any_length_can_be_cropped(tmp_path, augment):
    # Enlarged to the load size it is longer than OpenCV can rotate.
    Image.new("RGB", (4, 4500), "red").save(tmp_path / "strip.png")
    paths = [tmp_path / "strip.png"]
    samples = UnpairedImages(paths, paths, build_pipelines(augment, 36, 32))
    assert samples[0].x.shape == (3, 32, 32)


def test_augment_detail_shrinks_pictures_of_any_size_equally_little(position_map):
    spans = []
    for size in ((60, 60), (50, 80)):
        path = position_map(*size)
        samples = UnpairedImages([path], [path], build_pipelines("detail", 36, 32))
        columns = [positions(samples[i].x)[1] for i in range(30)]
        spans += [(crop[16].max() - crop[16].min()).item() for crop in columns]
    assert min(spans) > 28 and max(spans) < 32 / 0.7 + 1 and max(spans) - min(spans) > 8


@pytest.mark.parametrize("kind", ["json", "yaml"])
@pytest.mark.parametrize("augment", ["none", "paper", "strong", "detail"])
def test_a_pipeline_from_a_file_crops_like_the_one_that_was_saved(photographs, tmp_path, kind, augment):
    pipelines = build_pipelines(augment, 40, 32)
    one, both = tmp_path / f"one.{kind}", tmp_path / f"both.{kind}"
    albumentations.save(pipelines.x, one, data_format=kind)
    both.write_text(json.dumps(pipelines.to_dict()) if kind == "json" else yaml.safe_dump(pipelines.to_dict()))
    saved = UnpairedImages(*photographs, pipelines)
    read = UnpairedImages(*photographs, build_pipelines(str(both), 40, 32))
    for i in range(4):
        assert torch.equal(read[i].x, saved[i].x) and torch.equal(read[i].y, saved[i].y)
    assert torch.equal(UnpairedImages(*photographs, build_pipelines(str(one), 40, 32))[0].x, saved[0].x)


def test_a_file_with_one_pipeline_serves_both_domains(numbered, tmp_path):
    invert = albumentations.Compose([albumentations.CenterCrop(32, 32), albumentations.InvertImg(p=1)])
    keep = albumentations.Compose([albumentations.CenterCrop(32, 32)])
    albumentations.save(invert, tmp_path / "invert.json")
    one = [[numbered[0][1]], [numbered[1][1]]]
    both = UnpairedImages(*one, build_pipelines(str(tmp_path / "invert.json"), 36, 32))
    assert both[0].x[:, 0, 0].tolist() == pytest.approx([215 / 255, 1, 1])
    assert both[0].y[:, 0, 0].tolist() == pytest.approx([1, 1, 215 / 255])

    parts = {"x": albumentations.to_dict(keep), "y": albumentations.to_dict(invert)}
    (tmp_path / "parts.yml").write_text(yaml.safe_dump(parts))
    split = UnpairedImages(*one, build_pipelines(str(tmp_path / "parts.yml"), 36, 32))
    assert split[0].x[:, 0, 0].tolist() == pytest.approx([40 / 255, 0, 0])
    assert split[0].y[:, 0, 0].tolist() == pytest.approx([1, 1, 215 / 255])


@pytest.mark.parametrize(
    ("transforms", "found"),
    [
        ([albumentations.Resize(48, 48)], r"uint8 \(48, 48, 3\)"),
        ([albumentations.HorizontalFlip()], r"uint8 \(300, 400, 3\) and uint8 \(640, 480, 3\)"),
        ([albumentations.Resize(32, 32), albumentations.Normalize()], r"float32 \(32, 32, 3\)"),
        ([albumentations.Resize(32, 32), albumentations.ToGray(1, p=1)], r"uint8 \(32, 32(, 1)?\)"),
    ],
)
def test_a_pipeline_with_another_output_is_refused(tmp_path, transforms, found):
    path = tmp_path / "mine.json"
    albumentations.save(albumentations.Compose(transforms), path)
    with pytest.raises(ValueError, match=rf"--augment .*mine\.json: .*{found}; expected uint8 \(32, 32, 3\)"):
        build_pipelines(str(path), 36, 32)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[1, 2]",
        b'{"x": 1, "y": 2}',
        b'{"transform": {}}',
        b'{"__version__": "2.0.8", "transform": {"__class_fullname__": "Compose", "transforms": 7, "p": 1.0}}',
        b'{"__version__": "2.0.8", "transform": {"__class_fullname__": "Sharpest", "p": 1.0}}',
        b'{"__version__": "2.0.8", "transform": {"__class_fullname__": "Resize", "height": -3, "width": 1, "p": 1.0}}',
        b"{",
        b"[" * 2_000,
        bytes(range(256)),
    ],
)
def test_a_file_without_a_pipeline_is_named_in_one_line(tmp_path, content):
    for suffix in ("json", "yaml"):
        path = tmp_path / f"mine.{suffix}"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"--augment .*mine\.{suffix}: \S") as caught:
            build_pipelines(str(path), 36, 32)
        assert len(str(caught.value).splitlines()) == 1


def pipeline(*transforms, **options):
    """Text of a file with a pipeline of transforms, each (class, arguments)."""
    plain = [{"__class_fullname__": name, "p": 1.0} | arguments for name, arguments in transforms]
    return {"transform": {"__class_fullname__": "Compose", "p": 1.0, "transforms": plain} | options}


RESIZE = ("Resize", {"height": 32, "width": 32})
# Nine aliases of nine aliases ...: a few hundred bytes of YAML that stand for three thousand million values.
LAUGHS = "".join(f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in itertools.pairwise("abcdefghij"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            f"a: &a [x]\n{LAUGHS}"
            + yaml.safe_dump(pipeline(("Resize", {"height": "HEIGHT", "width": 32}))).replace("HEIGHT", "*j"),
            "more than 10,000 values",
        ),
        ("transform: &a {__class_fullname__: Compose, p: 1.0, transforms: [*a]}", "more than 10,000 values"),
        (
            yaml.safe_dump(pipeline(("Resize", {"height": 10**6, "width": 10**6}))),
            "a number is 1000000; ",
        ),
        (yaml.safe_dump(pipeline(RESIZE, p=float("inf"))), "a number is inf"),
        (f"# {'a' * 100_000}", "longer than 100,000 characters"),
        (yaml.safe_dump(pipeline(("Resize", {"height": 32, "width": 32, "heigth": 3}))), "'heigth' are not valid"),
        ("!!int ''", "mine.yaml: "),
        ("!!bool maybe", "mine.yaml: "),
        ("!!timestamp never", "mine.yaml: "),
    ],
)
def test_a_hostile_pipeline_is_refused_at_once_in_one_line(tmp_path, recwarn, content, says):
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"--augment .*{says}") as caught:
        build_pipelines(str(path), 36, 32)
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 500 and not recwarn.list


def test_aliases_and_what_albumentations_writes_itself_are_accepted(tmp_path, recwarn):
    # It warns of an argument of PadIfNeeded that its own files have.
    pad = albumentations.Compose([albumentations.PadIfNeeded(48, 48), albumentations.CenterCrop(32, 32)], seed=2**31)
    plain = json.loads(json.dumps(albumentations.to_dict(pad)))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"x": plain, "y": plain}))
    assert "&id" in (tmp_path / "mine.yaml").read_text()
    assert build_pipelines(str(tmp_path / "mine.yaml"), 36, 32) and not recwarn.list


def test_an_unknown_augmentation_is_named_with_the_known_ones():
    with pytest.raises(FileNotFoundError, match=r"--augment stronk: expected none, paper, strong, detail, or a file"):
        build_pipelines("stronk", 36, 32)


def test_cached_pictures_give_the_same_samples_and_are_not_modified(photographs):
    x, y = photographs
    cache, bad = check_pictures(x + y, decode=True, progress=False)
    assert len(cache) == 10 and not bad
    before = {path: picture.clone() for path, picture in cache.items()}
    for path in x:
        path.rename(path.with_suffix(".moved"))
    cached = UnpairedImages(x, y, build_pipelines("strong", 40, 32), cache=cache)
    samples = [cached[i] for i in range(12)]
    for path in x:
        path.with_suffix(".moved").rename(path)
    plain = UnpairedImages(x, y, build_pipelines("strong", 40, 32))
    for i in range(12):
        assert torch.equal(samples[i].x, plain[i].x) and torch.equal(samples[i].y, plain[i].y)
    assert all(torch.equal(picture, before[path]) for path, picture in cache.items())


def test_importing_does_not_query_pypi():
    script = """if True:
        import socket
        asked = []
        def refuse(*arguments, **options):
            asked.append(arguments)
            raise OSError("no network")
        socket.getaddrinfo = socket.socket.connect = refuse
        import cyclegan.data, os
        assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"
        print("at import:", len(asked))
        from albumentations.check_version import check_for_updates
        check_for_updates()
        print("otherwise:", len(asked) > 0)
    """
    environment = {name: value for name, value in os.environ.items() if name != "NO_ALBUMENTATIONS_UPDATE"}
    result = run("-c", script, env=environment)
    assert result.stdout.splitlines() == ["at import: 0", "otherwise: True"], result.stderr
