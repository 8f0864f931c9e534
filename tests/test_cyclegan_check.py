"""`cyclegan check` finds what a person would find, and moves it away without losing anything."""

import hashlib
from pathlib import Path

import pytest
from conftest import exit_code, one_error
from picture_server import picture
from PIL import Image

from cyclegan.check import Finding, check, compare_details, expect, find_harms
from cyclegan.cli import main
from cyclegan.options import CheckConfig
from stylekit.collections.manifest import read_manifest
from stylekit.collections.survey import Facts


@pytest.fixture
def flawed(tmp_path):
    """A data set with one of everything, and what should be found in it."""
    root = tmp_path / "set"
    for folder, start, count in (("trainA", 0, 9), ("trainB", 100, 9), ("testA", 200, 2), ("testB", 300, 2)):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            picture(start + i, 96, 72).save(root / folder / f"{i}.png")
    framed = Image.new("RGB", (120, 100), "black")
    framed.paste(picture(400, 100, 76), (10, 12))
    framed.save(root / "trainA" / "framed.png")
    picture(401, 96, 72).convert("L").save(root / "trainA" / "gray.png")
    picture(402, 40, 30).save(root / "trainA" / "small.png")
    picture(403, 96, 72).convert("CMYK").save(root / "trainA" / "cmyk.jpg")
    turned = Image.Exif()
    turned[274] = 6
    picture(404, 72, 96).save(root / "trainA" / "turned.jpg", exif=turned)
    data = (root / "trainA" / "cmyk.jpg").read_bytes()
    (root / "trainA" / "truncated.jpg").write_bytes(data[: len(data) // 2])
    (root / "trainA" / "text.jpg").write_text("not a picture")
    # Larger, recompressed and brighter copies.
    picture(3, 96, 72).resize((120, 90)).save(root / "trainA" / "copy.jpg", quality=60)
    picture(105, 96, 72).point(lambda v: min(255, v + 12)).save(root / "testB" / "leak.jpg", quality=80)
    picture(200, 96, 72).save(root / "trainB" / "shared.webp", quality=90)
    return root


EXPECTED = {
    ("framed", "trainA/framed.png"),
    ("gray", "trainA/gray.png"),
    ("small", "trainA/small.png"),
    ("CMYK", "trainA/cmyk.jpg"),
    ("rotated", "trainA/turned.jpg"),
    ("unreadable", "trainA/truncated.jpg"),
    ("unreadable", "trainA/text.jpg"),
    ("repeated", "trainA/3.png"),
    ("leaking", "testB/leak.jpg"),
    ("in both X and Y", "trainB/shared.webp"),
    ("in both X and Y", "testA/0.png"),
}


def hashes(root):
    return sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*.*") if path.suffix != ".csv")


@pytest.mark.plots
def test_every_flaw_is_found_and_moved_away(flawed, tmp_path, capsys):
    (flawed / "manifest.csv").write_text(
        "file,title,author,license,page,url,width,height,bytes,sha256,source_sha256,phash,preparation\n"
        "trainA/0.png,,,,,,,,,,,,\ntrainA/gray.png,,,,,,,,,,,,\n"
    )
    flags = [flawed, "--min-size", 48, "-o", tmp_path / "sheet.png"]
    assert exit_code(main, "check", *flags) == 1
    out = capsys.readouterr().out
    said = {tuple(line.split(" (")[0].split(": ")) for line in out.splitlines() if "/" in line.split(" (")[0]}
    kinds = {kind for kind, _ in EXPECTED}
    assert {found for found in said if found[0] in kinds} == EXPECTED
    assert "trainA: 17 pictures (PNG 12, JPEG 3), shorter side 30 to 100 px, median 72" in out
    assert "repeated: trainA/3.png (like trainA/copy.jpg)" in out
    assert "unreadable: trainA/truncated.jpg (damaged or unsupported picture (image file is truncated" in out
    assert "few pictures: 15 in trainA, 10 in trainB, and" in out and "`johnson train`" in out
    assert "2 pictures are unreadable; 1 picture is leaking" in out and "--fix` moves these pictures away" in out
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width == 1248 and sheet.height > 700

    before = hashes(flawed)
    assert exit_code(main, "check", *flags, "--fix") == 0
    out = capsys.readouterr().out
    assert "moved 9 pictures" in out and "ready for training" in out and hashes(flawed) == before
    assert (flawed / "rejected/leaking/testB/leak.jpg").is_file()
    assert [row["file"] for row in read_manifest(flawed)] == ["trainA/0.png"]


def test_pictures_of_another_scale_get_a_size(flawed, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    for i in range(3):
        picture(500 + i, 600, 450).save(tmp_path / "photos" / f"{i}.jpg")
    options = {"photos": tmp_path / "photos", "output": tmp_path / "sheet.png", "load_size": 72, "min_size": 1}
    report = check(CheckConfig(str(flawed), **options))
    hint = report.hint
    ratio = float(hint.partition(" are ")[2].split()[0])
    assert ratio == pytest.approx(450 / 72, rel=0.3)
    size = int(hint.partition("--size ")[2].split()[0])
    assert size == pytest.approx(96, rel=0.3)
    photos = options["photos"]
    assert not compare_details(CheckConfig(str(flawed), size=size, **options), report.folders, photos)
    tiny = compare_details(CheckConfig(str(flawed), size=20, **options), report.folders, photos)
    assert "enlarge these pictures, or train with --load-size" in tiny


def test_few_flaws_in_a_large_set_do_no_harm_except_the_serious_ones():
    folders = {f"train{side}": [Facts(Path(f"{i}.png")) for i in range(200)] for side in "AB"}
    gray = [Finding("gray", Path(f"{i}.png"), "A", "") for i in range(3)]
    assert find_harms(folders, gray[:2]) == []
    assert find_harms(folders, gray) == ["3 of 200 pictures of A are gray"]
    assert find_harms(folders, [Finding("leaking", Path("0.png"), "A", "")]) == ["1 picture is leaking"]


def test_few_pictures_get_a_line_on_what_to_expect():
    def said(x, y):
        return expect({"trainA": [Facts(Path("x.png"))] * x, "trainB": [Facts(Path("y.png"))] * y})

    assert said(400, 6287) == "" and said(0, 400) == ""
    assert "97 in trainA, 75 in trainB" in said(97, 75) and "enough for `cyclegan pretrain`" in said(97, 75)
    assert said(1600, 49).startswith("few pictures: 49 in trainB, ") and "Add pictures" in said(1600, 49)


def test_mistakes_get_one_line(tmp_path, capsys):
    assert exit_code(main, "check", tmp_path / "none") == 2
    assert "no folder" in one_error(capsys, "cyclegan")
    assert exit_code(main, "check", tmp_path) == 2
    assert "no pictures in" in one_error(capsys, "cyclegan")
    (tmp_path / "trainA").mkdir()
    picture(1).save(tmp_path / "trainA" / "1.png")
    flags = [tmp_path, "-o", tmp_path / "sheet.png", "--min-size", 1]
    assert exit_code(main, "check", *flags) == 1
    assert "no training pictures in trainB" in capsys.readouterr().out
    assert exit_code(main, "check", *flags, "--photos", tmp_path / "nowhere") == 2
    assert "no folder" in one_error(capsys, "cyclegan")
    assert exit_code(main, "check", tmp_path, "-o", tmp_path / "sheet.docx") == 2
    assert "unsupported format" in one_error(capsys, "cyclegan")
