import errno
import io
import os
import runpy
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms, TiffImagePlugin

from stylekit.pictures import images, photographs

pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)

# From the EXIF standard: where row 0 and column 0 of the stored picture are in the upright one.
ORIENTATIONS = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def quadrants() -> Image.Image:
    """32 x 16 px: red and green in the upper half, blue and white in the lower half."""
    image = Image.new("RGB", (32, 16), WHITE)
    for color, corner in ((RED, (0, 0)), (GREEN, (16, 0)), (BLUE, (0, 8))):
        image.paste(color, (*corner, corner[0] + 16, corner[1] + 8))
    return image


def at(image: Image.Image, *sides: str) -> tuple[int, ...]:
    """The color in the middle of a quadrant."""
    x, y = image.width // 4, image.height // 4
    pixel = image.getpixel((3 * x if "right" in sides else x, 3 * y if "bottom" in sides else y))
    assert isinstance(pixel, tuple)
    return pixel


def opposite(side: str) -> str:
    return {"top": "bottom", "bottom": "top", "left": "right", "right": "left"}[side]


def profile(kind: str = "RGB") -> bytes:
    """A color profile with the primaries of sRGB and a linear transfer function, for RGB or for gray."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    curve = srgb.index(b"para")
    straight = b"para" + struct.pack(">IHH5i", 0, 3, 0, 65536, 65536, 0, 65536, 0)
    linear = srgb[:curve] + straight + srgb[curve + len(straight) :]
    return linear if kind == "RGB" else linear[:16] + b"GRAY" + linear[20:].replace(b"rTRC", b"kTRC")


def png(width: int, height: int, bits: int, kind: int, rows: bytes, *others: tuple[bytes, bytes]) -> bytes:
    """A PNG file, byte by byte: kind 0 is gray, 2 is RGB, 4 is gray with alpha."""
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    chunks = [(b"IHDR", header), *others, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def color(path, content: bytes | Image.Image, **options: object) -> tuple[int, ...]:
    """The first pixel of a file, as loaded."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content.save(path, **options)
    loaded = images.load(path)
    assert loaded.mode == "RGB"
    pixel = loaded.getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return pixel


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_load_applies_the_exif_orientation(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo{suffix}"
    quadrants().save(path, exif=exif, quality=95)
    loaded = images.load(path)
    row, column = ORIENTATIONS[orientation]
    assert loaded.size == ((32, 16) if row in ("top", "bottom") else (16, 32))
    expected = {
        (row, column): RED,
        (row, opposite(column)): GREEN,
        (opposite(row), column): BLUE,
        (opposite(row), opposite(column)): WHITE,
    }
    for sides, value in expected.items():
        assert at(loaded, *sides) == pytest.approx(value, abs=12), sides


def test_a_broken_exif_block_is_ignored(tmp_path):
    quadrants().save(tmp_path / "photo.jpg", exif=b"Exif\0\0nonsense", quality=95)
    assert at(images.load(tmp_path / "photo.jpg"), "top", "left") == pytest.approx(RED, abs=12)


def test_an_embedded_color_profile_is_converted_to_srgb(tmp_path):
    # Half of the intensity is 188 in sRGB: 255 * (1.055 * (128 / 255) ** (1 / 2.4) - 0.055).
    rgb, gray = Image.new("RGB", (4, 4), (128, 0, 255)), Image.new("L", (4, 4), 128)
    deep = Image.fromarray(np.full((4, 4), 128 * 257, np.uint16))
    assert color(tmp_path / "rgb.png", rgb, icc_profile=profile()) == pytest.approx((188, 0, 255), abs=1)
    assert color(tmp_path / "rgb.tif", rgb, icc_profile=profile()) == pytest.approx((188, 0, 255), abs=1)
    assert color(tmp_path / "gray.png", gray, icc_profile=profile("gray")) == pytest.approx((188,) * 3, abs=1)
    assert color(tmp_path / "deep.png", deep, icc_profile=profile("gray")) == pytest.approx((188,) * 3, abs=1)
    assert color(tmp_path / "palette.png", rgb.quantize(4), icc_profile=profile())[0] == pytest.approx(188, abs=1)
    half = Image.new("RGBA", (4, 4), (128, 128, 128, 0))
    half.paste((128, 128, 128, 255), (0, 0, 2, 4))
    assert color(tmp_path / "half.png", half, icc_profile=profile()) == pytest.approx((188,) * 3, abs=1)
    assert images.load(tmp_path / "half.png").getpixel((3, 0)) == WHITE


@pytest.mark.parametrize(("kind", "bits"), [(2, 8), (2, 16), (0, 8), (0, 16)])
def test_png_chunks_that_describe_colors_are_used_like_a_profile(tmp_path, kind, bits):
    """Half of the intensity is 188 in sRGB; cICP comes before gAMA, a profile too, and sRGB itself is no change."""
    row = b"\0" + b"\x80" * (bits // 8) * (3 if kind == 2 else 1)

    def gray(*chunks):
        path = tmp_path / "in.png"
        content = png(1, 1, bits, kind, row, *chunks)
        pixel = color(path, content)
        deep = photographs.load(path).deep
        assert (deep is not None) is (bits == 16)
        assert deep is None or deep[0, 0] * 255 == pytest.approx(pixel, abs=1)
        return pixel[1]

    def gamma(value):
        return b"gAMA", struct.pack(">I", round(value * 100_000))

    assert gray(gamma(1)) == pytest.approx(188, abs=1)
    assert gray(gamma(1 / 1.8)) == pytest.approx(146, abs=1)
    assert [gray(gamma(value)) for value in (0, 0.00001, 0.45455, 1 / 2.3, 21474)] == [128] * 5
    assert gray(gamma(1), (b"sRGB", b"\0")) == gray(gamma(1), (b"cICP", b"\x01\x0d\0\1")) == 128


def test_cicp_may_say_display_p3(tmp_path):
    red = png(1, 1, 8, 2, b"\0\xc8\x32\x32", (b"cICP", b"\x0c\x0d\0\1"))
    assert color(tmp_path / "in.png", red) == pytest.approx((218, 24, 40), abs=1)


def test_colors_without_a_profile_are_srgb(tmp_path):
    assert color(tmp_path / "rgb.png", Image.new("RGB", (4, 4), (10, 128, 250))) == (10, 128, 250)
    assert color(tmp_path / "gray.png", Image.new("L", (4, 4), 128)) == (128, 128, 128)
    black_by_half = Image.new("CMYK", (8, 8), (0, 0, 0, 128))
    assert color(tmp_path / "cmyk.tif", black_by_half) == pytest.approx((127, 127, 127), abs=1)
    assert color(tmp_path / "cmyk.jpg", black_by_half) == pytest.approx((127, 127, 127), abs=2)
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    assert color(tmp_path / "cyan.tif", cyan) == pytest.approx((0, 255, 255), abs=1)


@pytest.mark.parametrize("broken", [b"no profile", profile("gray"), profile()[:200]])
def test_an_unusable_profile_is_ignored_and_not_written_again(tmp_path, broken):
    assert color(tmp_path / "in.png", Image.new("RGB", (4, 4), (10, 128, 250)), icc_profile=broken) == (10, 128, 250)
    images.save(images.load(tmp_path / "in.png"), tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as written:
        assert "icc_profile" not in written.info


def test_transparency_is_blended_with_white(tmp_path):
    assert color(tmp_path / "clear.png", Image.new("RGBA", (4, 4), (255, 0, 0, 0))) == WHITE
    assert color(tmp_path / "half.png", Image.new("RGBA", (4, 4), (255, 0, 0, 128))) == pytest.approx(
        (255, 127, 127), abs=1
    )
    assert color(tmp_path / "half.webp", Image.new("RGBA", (4, 4), (0, 0, 0, 51)), lossless=True) == (204, 204, 204)
    assert color(tmp_path / "gray.png", Image.new("LA", (4, 4), (0, 128))) == pytest.approx((127,) * 3, abs=1)
    assert color(tmp_path / "gray.tif", Image.new("LA", (4, 4), (100, 0))) == WHITE
    palette = quadrants().quantize(8)
    clear = palette.getpixel((0, 0))
    assert color(tmp_path / "index.png", palette, transparency=clear) == WHITE
    assert images.load(tmp_path / "index.png").getpixel((31, 0)) == GREEN
    assert color(tmp_path / "table.png", palette, transparency=bytes([0] * 256)) == WHITE
    assert color(tmp_path / "key8.png", png(1, 1, 8, 0, b"\0\x50", (b"tRNS", b"\0\x50"))) == WHITE
    assert color(tmp_path / "key16.png", png(1, 1, 16, 0, b"\0\x80\0", (b"tRNS", b"\x80\0"))) == WHITE
    assert color(tmp_path / "other16.png", png(1, 1, 16, 0, b"\0\x80\0", (b"tRNS", b"\0\0"))) == (128, 128, 128)


def test_palettes_gray_and_black_and_white_become_rgb(tmp_path):
    colors = quadrants().quantize(8)
    assert color(tmp_path / "palette.png", colors) == RED
    assert color(tmp_path / "palette.bmp", colors) == RED
    assert color(tmp_path / "gray.jpg", Image.new("L", (8, 8), 77)) == (77, 77, 77)
    assert color(tmp_path / "bit.png", Image.new("1", (4, 4), 1)) == WHITE
    assert color(tmp_path / "bit.tif", Image.new("1", (4, 4), 0)) == BLACK
    assert color(tmp_path / "bit.bmp", Image.new("1", (4, 4), 1)) == WHITE


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize(
    ("deep", "expected"), [(65535, 255), (32768, 128), (255, 1), (200, 1), (128, 0), (1, 0), (0, 0)]
)
def test_16_bit_gray_is_scaled_by_a_constant(tmp_path, suffix, deep, expected):
    picture = Image.fromarray(np.full((4, 4), deep, np.uint16))
    assert picture.mode == "I;16"
    assert color(tmp_path / f"gray{suffix}", picture) == (expected,) * 3


def test_big_endian_16_bit_gray_is_read(tmp_path):
    picture = Image.frombytes("I;16B", (2, 1), b"\x80\0\xff\xff")
    assert color(tmp_path / "gray.tif", picture) == (128, 128, 128)


def test_32_bit_integers_are_read_as_16_bit_or_refused(tmp_path):
    assert color(tmp_path / "gray.tif", Image.new("I", (4, 4), 32768)) == (128, 128, 128)
    for value in (-5, 70000):
        Image.new("I", (4, 4), value).save(tmp_path / "other.tif")
        with pytest.raises(ValueError, match=rf"other\.tif: .*{value}.*expected 0 to 65535"):
            images.load(tmp_path / "other.tif")


def test_the_range_of_floating_point_gray_is_inferred(tmp_path):
    def first(*values: float) -> int:
        picture = Image.fromarray(np.array([values], np.float32))
        red, green, blue = color(tmp_path / "float.tif", picture)
        assert red == green == blue
        return red

    assert first(0.25, 1.0) == 64
    assert first(64.0, 255.0) == 64
    assert first(16448.0, 65535.0) == 64
    assert first(0.25, float("inf"), float("nan")) == 64
    assert first(float("inf"), 0.5) == 255
    assert first(float("nan"), -3.0) == 0


def test_16_bit_colors_are_read(tmp_path):
    row = struct.pack(">3H", 32768, 65535, 0)
    assert color(tmp_path / "rgb.png", png(1, 1, 16, 2, b"\0" + row)) == (128, 255, 0)
    assert color(tmp_path / "alpha.png", png(1, 1, 16, 4, b"\0" + struct.pack(">2H", 0, 32768))) == (127, 127, 127)


def test_kinds_of_tiff_that_pillow_misreads_are_refused(tmp_path):
    def tag(number: int, value: int) -> bytes:
        return struct.pack("<HHIH", number, 3, 1, value)

    gray = tmp_path / "white-is-zero.tif"
    Image.fromarray(np.full((4, 4), 1000, np.uint16)).save(gray)
    content = gray.read_bytes()
    assert content.count(tag(262, 1)) == 1
    gray.write_bytes(content.replace(tag(262, 1), tag(262, 0)))
    with pytest.raises(ValueError, match=r"white-is-zero\.tif: .*in which 0 is white; save it with 0 as black"):
        images.load(gray)

    planes = tmp_path / "planes.tif"
    Image.new("RGB", (4, 4), RED).save(planes, tiffinfo={284: 1})
    content, bits = planes.read_bytes(), struct.pack("<3H", 8, 8, 8)
    assert content.count(tag(284, 1)) == content.count(bits) == 1
    content = content.replace(tag(284, 1), tag(284, 2)).replace(bits, struct.pack("<3H", 16, 16, 16))
    planes.write_bytes(content + bytes(48))
    with pytest.raises(ValueError, match=r"planes\.tif: .*planar 16-bit TIFF; save it with interleaved pixels"):
        images.load(planes)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".avif", ".gif"])
def test_the_first_frame_of_an_animation_is_read(tmp_path, suffix):
    frames = [Image.new("RGB", (16, 16), color) for color in (RED, GREEN, BLUE)]
    assert color(tmp_path / f"film{suffix}", frames[0], save_all=True, append_images=frames[1:]) == pytest.approx(
        RED, abs=3
    )


def test_the_content_of_a_file_decides_its_format_and_not_the_suffix(tmp_path):
    for suffix, kind in ((".jpg", "GIF"), (".png", "JPEG"), (".webp", "GIF"), (".bmp", "PNG"), (".jpg", "MPO")):
        first = color(tmp_path / f"named{suffix}", Image.new("RGB", (16, 16), (0, 0, 255)), format=kind)
        assert first == pytest.approx(BLUE, abs=3), kind


def test_postscript_is_refused(tmp_path):
    # To read PostScript, Pillow would run Ghostscript.
    quadrants().save(tmp_path / "page.jpg", "EPS")
    with pytest.raises(ValueError, match=r"page\.jpg: not a supported picture: its content is not JPEG, PNG"):
        images.load(tmp_path / "page.jpg")


@pytest.mark.parametrize(
    ("suffix", "tolerance"),
    [(".png", 0), (".bmp", 0), (".tif", 0), (".tiff", 0), (".jpg", 3), (".jpeg", 3), (".webp", 8), (".avif", 8)],
)
def test_a_saved_picture_can_be_loaded(tmp_path, pictures, suffix, tolerance):
    for name in (f"new/folder/picture{suffix}", f"PICTURE{suffix.upper()}"):
        images.save(pictures[0], tmp_path / name)
        with Image.open(tmp_path / name) as written:
            assert written.format == images.FORMATS[suffix]
        loaded = images.load(tmp_path / name)
        assert loaded.size == pictures[0].size
        difference = np.asarray(loaded, dtype=float) - np.asarray(pictures[0], dtype=float)
        assert np.abs(difference).mean() <= tolerance


@pytest.mark.parametrize("suffix", images.FORMATS)
def test_a_picture_may_have_a_single_pixel(tmp_path, suffix):
    images.save(torch.tensor([40, 200, 90]).view(3, 1, 1) / 255, tmp_path / f"dot{suffix}")
    loaded = images.load(tmp_path / f"dot{suffix}")
    assert loaded.size == (1, 1) and loaded.getpixel((0, 0)) == pytest.approx((40, 200, 90), abs=3)
    assert images.to_tensor(loaded).shape == (1, 3, 1, 1)
    assert images.resize(loaded, 256).size == (1, 1)


def test_tensors_and_pictures_convert_without_loss():
    every = torch.arange(256.0).repeat(3, 2, 1) / 255
    picture = images.to_image(every)
    assert picture.mode == "RGB" and picture.size == (256, 2)
    assert [picture.getpixel((i, 0)) for i in range(256)] == [(i, i, i) for i in range(256)]
    back = images.to_tensor(picture)
    assert back.dtype == torch.float32 and torch.equal(back, every[None])
    assert images.to_image(every[None]).tobytes() == picture.tobytes()


def test_saved_values_are_rounded(tmp_path):
    steps = torch.arange(255.0)
    for part, expected in ((0.999, steps + 1), (0.51, steps + 1), (0.49, steps), (0.001, steps)):
        images.save(((steps + part) / 255).repeat(3, 1, 1), tmp_path / "steps.png")
        assert torch.equal(torch.tensor(np.array(images.load(tmp_path / "steps.png")))[0, :, 0], expected.byte())


def test_values_outside_the_range_are_clamped():
    picture = images.to_image(torch.tensor([-0.5, 1.5, 300.0]).view(3, 1, 1))
    assert picture.getpixel((0, 0)) == (0, 255, 255)


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 4, 4), (4, 4), (4, 4, 3)])
def test_a_tensor_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"expected a picture of shape \(3, H, W\) or \(1, 3, H, W\), got \("):
        images.to_image(torch.zeros(shape))


def test_the_range_converters_are_inverses():
    assert images.to_signed(torch.tensor([0.0, 0.25, 0.5, 1.0])).tolist() == [-1.0, -0.5, 0.0, 1.0]
    assert images.to_unit(torch.tensor([-1.0, -0.5, 0.0, 1.0])).tolist() == [0.0, 0.25, 0.5, 1.0]
    x = torch.rand(2, 3, 4, 5)
    assert torch.allclose(images.to_unit(images.to_signed(x)), x, atol=1e-6)


def test_a_small_file_that_claims_to_be_huge_is_refused(tmp_path):
    path = tmp_path / "bomb.png"
    for side in (30_000, 13_400):  # The second has 0.3 % more pixels than Pillow allows.
        path.write_bytes(png(side, side, 8, 2, bytes(1000)))
        assert path.stat().st_size < 200
        with pytest.raises(ValueError, match=r"bomb\.png: expected at most 178 million pixels"):
            images.load(path)
    assert 2 * (Image.MAX_IMAGE_PIXELS or 0) == images.MAX_PIXELS


def test_a_small_tiff_with_a_huge_tile_is_refused(tmp_path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    # 100 x 100 pixels of 8-bit gray, deflated, in one tile.
    for tag, value in {256: 100, 257: 100, 258: 8, 259: 8, 262: 1, 322: 20_000, 323: 20_000, 324: 0, 325: 0}.items():
        tags[tag] = value
    (tmp_path / "tile.tif").write_bytes(b"II*\0\x08\0\0\0" + tags.tobytes(8))
    with pytest.raises(ValueError, match=r"tile\.tif: expected at most .* \(got 20000 x 20000\)"):
        images.load(tmp_path / "tile.tif")


def test_a_picture_may_have_exactly_the_maximum_number_of_pixels(tmp_path):
    quadrants().save(tmp_path / "fits.png")
    assert images.load(tmp_path / "fits.png", 512).size == (32, 16)
    Image.new("RGB", (27, 19)).save(tmp_path / "large.png")
    with pytest.raises(ValueError, match=r"large\.png: .*27 x 19"):
        images.load(tmp_path / "large.png", 512)


@pytest.mark.parametrize("suffix", images.FORMATS)
def test_the_error_for_a_truncated_file_names_it(tmp_path, pictures, suffix):
    path = tmp_path / f"half{suffix}"
    images.save(pictures[0], path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"half\{suffix}: (damaged or unsupported picture|not a supported picture)"):
        images.load(path)


@pytest.mark.parametrize("content", [b"", b"These are my holidays.\n" * 100, b"\xff\xd8\xff", bytes(1000)])
def test_the_error_for_a_file_that_is_not_a_picture_names_it(tmp_path, content):
    (tmp_path / "holidays.jpg").write_bytes(content)
    with pytest.raises(ValueError, match=r"holidays\.jpg: not a supported picture: its content is not JPEG, PNG"):
        images.load(tmp_path / "holidays.jpg")


@pytest.mark.parametrize("name", ["missing.jpg", ".", "folder.jpg"])
def test_a_missing_file_and_a_folder_are_refused(tmp_path, name):
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(FileNotFoundError, match="no picture"):
        images.load(tmp_path / name)


def many_scans(picture: Image.Image, count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    file = io.BytesIO()
    picture.save(file, "JPEG", progressive=True)
    whole = file.getvalue()
    start, end = whole.rfind(b"\xff\xda"), whole.rfind(b"\xff\xd9")
    return whole[:start] + whole[start:end] * count + whole[end:]


def test_a_jpeg_of_so_many_scans_that_it_takes_minutes_is_refused(tmp_path, pictures):
    path = tmp_path / "slow.jpg"
    path.write_bytes(many_scans(pictures[0], 1500))
    with pytest.raises(ValueError, match=r"slow\.jpg: .*1509 scans; expected at most 100"):
        images.load(path)
    path.write_bytes(many_scans(pictures[0], 20))
    assert images.load(path).size == (48, 48)
    with pytest.raises(ValueError, match="29 scans; expected at most 20"):
        images.load(path, 48 * 48)


def test_libtiff_writes_nothing_of_its_own_to_standard_error(tmp_path, pictures, capfd):
    path = tmp_path / "broken.tiff"
    images.save(pictures[0], path)
    content = bytearray(path.read_bytes())
    directory = int.from_bytes(content[4:8], "little")
    for entry in range(directory + 2, len(content) - 11, 12):
        if int.from_bytes(content[entry : entry + 2], "little") == 258:  # BitsPerSample
            content[entry + 8 : entry + 12] = b"\xff\xff\xff\x7f"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.tiff: "):
        images.load(path)
    assert capfd.readouterr().err == ""


def test_a_picture_larger_than_the_memory_is_not_called_damaged(tmp_path, pictures, monkeypatch):
    images.save(pictures[0], tmp_path / "large.png")

    def fail(image):
        raise MemoryError

    monkeypatch.setattr(images, "to_rgb", fail)
    with pytest.raises(ValueError, match=r"large\.png: not enough memory for a picture of this size"):
        images.load(tmp_path / "large.png")


def test_neither_import_nor_threads_change_the_warning_filters(tmp_path, pictures):
    images.save(pictures[0], tmp_path / "picture.jpg")
    warnings.resetwarnings()
    before = list(warnings.filters)
    runpy.run_path(images.__file__)
    with ThreadPoolExecutor(8) as pool:
        for loaded in pool.map(images.load, [tmp_path / "picture.jpg"] * 200):
            assert loaded.size == (48, 48)
            assert warnings.filters == before
    assert warnings.filters == before


@pytest.mark.parametrize(("suffix", "size"), [(".jpg", (66_000, 1)), (".webp", (17_000, 1)), (".avif", (66_000, 1))])
def test_a_picture_too_large_for_its_format_leaves_the_old_file(tmp_path, suffix, size):
    path = tmp_path / f"panorama{suffix}"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match=rf"panorama\{suffix}: .*cannot store {size[0]} x 1 pixels.*try \.png"):
        images.save(Image.new("RGB", size), path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    images.save(quadrants(), tmp_path / "picture.png")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        images.save(Image.new("RGB", (4, 4)), tmp_path / "picture.png")
    assert list(tmp_path.iterdir()) == [tmp_path / "picture.png"]
    assert images.load(tmp_path / "picture.png").tobytes() == quadrants().tobytes()


@pytest.mark.parametrize("name", ["picture.gif", "picture", "picture.txt"])
def test_an_unknown_suffix_lists_those_that_can_be_written(tmp_path, name):
    with pytest.raises(ValueError, match=r"picture.*: unsupported format; expected one of \.jpg \.jpeg \.png"):
        images.save(quadrants(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_find_returns_the_pictures_of_a_folder_and_its_subfolders_in_order(tmp_path):
    shown = ["B.JPG", "a.png", "sub/c.WebP", "sub/deep/d.tiff", "z.avif"]
    others = [".hidden.png", ".cache/e.png", "sub/._c.jpg", "notes.txt", "jpg", "film.gif"]
    for name in shown + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [str(path.relative_to(tmp_path)) for path in images.find(tmp_path)] == shown
    assert images.find(tmp_path / "folder.png") == []
    # Files inside a hidden folder are found if the folder is named.
    assert [path.name for path in images.find(tmp_path / ".cache")] == ["e.png"]


def test_the_error_for_a_missing_folder_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        images.find(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("size", "longest", "expected"),
    [
        ((400, 300), 200, (200, 150)),
        ((300, 400), 200, (150, 200)),
        ((400, 300), 400, (400, 300)),
        ((40, 30), 200, (40, 30)),
        ((3000, 20), 100, (100, 1)),
        ((3000, 1), 100, (100, 1)),
    ],
)
def test_resize_keeps_the_aspect_ratio_and_never_enlarges(size, longest, expected):
    assert images.resize(Image.new("RGB", size), longest).size == expected


def test_resize_keeps_the_arrangement_of_a_picture():
    small = images.resize(quadrants().resize((320, 160), Image.Resampling.NEAREST), 32)
    assert small.size == (32, 16)
    assert [at(small, *sides) for sides in (("top",), ("right",), ("bottom",))] == [RED, GREEN, BLUE]


def test_16_bit_tiff_keeps_finer_steps_than_8_bits(tmp_path):
    steps = torch.arange(64.0).repeat(3, 2, 1) / 65535
    images.save(steps, tmp_path / "deep.tif", bits=16)
    assert np.array_equal(tifffile.imread(tmp_path / "deep.tif")[0, :, 0], np.arange(64))
    with pytest.raises(ValueError, match=r"deep\.jpg: 16 bits require a tensor and \.tif, \.tiff or \.png"):
        images.save(steps, tmp_path / "deep.jpg", bits=16)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
def test_a_description_is_written_into_the_metadata(tmp_path, suffix):
    images.save(quadrants(), tmp_path / f"picture{suffix}", description="steps 40")
    with Image.open(tmp_path / f"picture{suffix}") as written:
        assert written.getexif()[0x010E] == "steps 40"
