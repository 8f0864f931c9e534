"""What a painting keeps of its photograph: transparency, 16 bits, metadata, color profile, frames."""

import builtins
import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import ExifTags, Image, ImageCms
from PIL.ExifTags import Base

from stylekit.pictures import animations, images, photographs
from stylekit.pictures.jobs import Job, process_files

pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")


def same(x):
    return x


def paint(source, target, process=same, **options):
    """The result of a file: an error, or None."""
    [outcome] = process_files([Job(source, target)], process, process_frames=lambda: process, **options)
    assert (outcome.error is None) == target.exists()
    return outcome.error


@pytest.fixture
def shaded(pictures):
    """A picture that fades from left to right."""
    picture = pictures[0].copy()
    picture.putalpha(Image.linear_gradient("L").resize(picture.size).rotate(90))
    return picture


@pytest.fixture
def deep():
    """All values of 16 bits that 48 x 32 pixels have room for, (32, 48, 4) with alpha."""
    return np.linspace(0, 65535, 32 * 48 * 4).round().astype(np.uint16).reshape(32, 48, 4)


@pytest.fixture
def metadata():
    """EXIF of a photograph that was taken in portrait format."""
    exif = Image.Exif()
    exif[Base.Make], exif[Base.Model], exif[Base.Orientation] = "Canon", "EOS 5D", 6
    exif[Base.ImageDescription] = "photos of me/secret.jpg"
    details = exif.get_ifd(ExifTags.IFD.Exif)
    details[Base.DateTimeOriginal], details[Base.LensModel] = "2020:01:02 03:04:05", "EF 50mm"
    details[Base.MakerNote], details[Base.BodySerialNumber] = b"secret" * 9, "12345"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[2] = (47.0, 30.0, 0.0)
    return exif


@pytest.mark.parametrize(("suffix", "tolerance"), [("png", 0), ("tif", 0), ("webp", 0), ("avif", 2)])
def test_transparency_is_put_back(tmp_path, shaded, suffix, tolerance):
    shaded.save(tmp_path / "in.png")
    seen = []
    paint(tmp_path / "in.png", tmp_path / f"out.{suffix}", lambda x: seen.append(x) or x)
    assert torch.equal(seen[0], images.to_tensor(images.load(tmp_path / "in.png")))  # Blended with white.
    with Image.open(tmp_path / f"out.{suffix}") as written:
        assert written.mode == "RGBA"
        difference = np.subtract(written.getchannel("A"), shaded.getchannel("A"), dtype=int)
    assert np.abs(difference).max() <= tolerance


@pytest.mark.parametrize("suffix", ["jpg", "bmp"])
def test_formats_without_transparency_stay_on_white(tmp_path, shaded, suffix):
    shaded.save(tmp_path / "in.png")
    paint(tmp_path / "in.png", tmp_path / f"out.{suffix}")
    written, expected = images.load(tmp_path / f"out.{suffix}"), images.load(tmp_path / "in.png")
    assert np.abs(np.subtract(written, expected, dtype=float)).mean() < 2


def test_transparency_is_resized_with_its_picture(tmp_path, shaded):
    shaded.save(tmp_path / "in.png")
    paint(tmp_path / "in.png", tmp_path / "out.png", size=24)
    with Image.open(tmp_path / "out.png") as written:
        alpha, expected = written.getchannel("A"), shaded.getchannel("A").resize((24, 24), Image.Resampling.LANCZOS)
    assert np.abs(np.subtract(alpha, expected, dtype=int)).max() <= 1


@pytest.mark.parametrize(("source", "target"), [("png", "png"), ("png", "tiff"), ("tif", "png"), ("tif", "tiff")])
@pytest.mark.parametrize("channels", [3, 4])
def test_16_bits_stay_16_bits(tmp_path, deep, source, target, channels):
    pixels = deep[..., :channels].copy()
    pixels[..., 3:] = np.maximum(pixels[..., 3:], 32768)
    if source == "png":
        cv2.imwrite(str(tmp_path / "in.png"), pixels[..., [2, 1, 0, 3][:channels]])
    else:
        extra = ["unassalpha"] if channels == 4 else None
        tifffile.imwrite(tmp_path / "in.tif", pixels, photometric="rgb", compression="zlib", extrasamples=extra)
    assert paint(tmp_path / f"in.{source}", tmp_path / f"out.{target}") is None
    written = cv2.imread(str(tmp_path / f"out.{target}"), cv2.IMREAD_UNCHANGED)
    assert written.dtype == np.uint16 and written.shape == pixels.shape
    written = written[..., [2, 1, 0, 3][:channels]]
    if channels == 3:
        assert np.array_equal(written, pixels)
    else:
        assert np.abs(written[..., 3].astype(int) - pixels[..., 3]).max() <= 257  # Opacity has 8 bits.
        opacity = written[..., 3:] / 65535
        on_white = pixels[..., :3] * opacity + 65535 * (1 - opacity)
        assert np.abs(written[..., :3] - on_white).max() <= 1


def test_16_bit_gray_becomes_16_bit_color_and_shrinks(tmp_path, deep):
    Image.fromarray(deep[..., 0]).save(tmp_path / "gray.png")
    assert paint(tmp_path / "gray.png", tmp_path / "out.png") is None
    written = cv2.imread(str(tmp_path / "out.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(written, np.stack([deep[..., 0]] * 3, 2))
    paint(tmp_path / "gray.png", tmp_path / "small.png", size=24)
    small = cv2.imread(str(tmp_path / "small.png"), cv2.IMREAD_UNCHANGED)
    assert small.shape == (16, 24, 3) and small.dtype == np.uint16 and len(np.unique(small)) > 256


def test_8_bits_stay_8_bits_and_other_formats_get_them(tmp_path, deep, pictures):
    images.save(pictures[0], tmp_path / "in.png")
    paint(tmp_path / "in.png", tmp_path / "out.png")
    assert cv2.imread(str(tmp_path / "out.png"), cv2.IMREAD_UNCHANGED).dtype == np.uint8
    cv2.imwrite(str(tmp_path / "deep.png"), deep[..., :3])
    assert paint(tmp_path / "deep.png", tmp_path / "out.jpg") is None


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_pictures_are_turned_as_pictures_of_8_bits(tmp_path, deep, suffix):
    pixels = torch.from_numpy(deep[..., :3] / np.float32(65535)).permute(2, 0, 1)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[Base.Orientation] = orientation
        images.save(pixels, tmp_path / f"in.{suffix}", bits=16, exif=exif)
        photograph = photographs.load(tmp_path / f"in.{suffix}")
        assert photograph.deep is not None, orientation
        assert photograph.deep.shape[:2] == ((32, 48) if orientation < 5 else (48, 32))
        assert np.abs(photograph.deep * 255 - np.asarray(photograph.image)).max() <= 1


def fixed(*numbers):
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def rgb_profile(gamma, *primaries):
    """A color profile with these primaries (XYZ) and a gamma, or a curve of ten points."""
    tags = {name: fixed(*color) for name, color in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)}
    profile = images._srgb_with(tags | {b"rTRC": struct.pack(">2H", 3, 0) + fixed(gamma, 1, 0, 1, 0)})
    points = struct.pack(">I10H", 10, *(round((i / 9) ** gamma * 65535) for i in range(10)))
    return profile, profile.replace(profile[profile.index(b"para") :][:32], b"curv\0\0\0\0" + points)


def table_profile():
    """A color profile that is a table of two points per side: Lab colors of black, blue, green and so on."""
    corners = bytes.fromhex("008080 52cf14 e02ad3 e85072 88d0c3 99e244 f76ede ff8080")
    table = b"mft1\0\0\0\0\3\3\2\0" + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + bytes(range(256)) * 3
    table += corners + bytes(range(256)) * 3
    srgb = images.SRGB[:20] + b"Lab " + images.SRGB[24:]
    entry = srgb.index(b"chrm")
    directory = b"A2B0" + struct.pack(">II", len(srgb), len(table))
    profile = srgb[:entry] + directory + srgb[entry + 12 :] + table
    return struct.pack(">I", len(profile)) + profile[4:]


ADOBE = rgb_profile(2.2, (0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
PROPHOTO = rgb_profile(1.8, (0.79767, 0.28804, 0), (0.13519, 0.71188, 0), (0.03134, 0.00009, 0.82491))
GRAY = [profile[:16] + b"GRAY" + profile[20:].replace(b"rTRC", b"kTRC") for profile in PROPHOTO]


@pytest.mark.parametrize("profile", [images.SRGB, *ADOBE, *PROPHOTO, *GRAY, table_profile()])
def test_a_color_profile_is_applied_to_16_bits_as_by_littlecms_to_8(tmp_path, profile):
    shape = (200, 300) if profile in GRAY else (200, 300, 3)
    coarse = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    coarse[:100] //= 8
    kind = "minisblack" if profile in GRAY else "rgb"
    options = {"photometric": kind, "compression": "zlib", "iccprofile": profile}
    tifffile.imwrite(tmp_path / "in.tif", coarse.astype(np.uint16) * 257, **options)
    photograph = photographs.load(tmp_path / "in.tif")
    Image.fromarray(coarse).save(tmp_path / "in.png", icc_profile=profile)
    expected = np.asarray(images.load(tmp_path / "in.png"), float)
    change = np.abs(expected[..., 0] - coarse.reshape(200, 300, -1)[..., 0]).max()
    assert change > 2 or profile == images.SRGB
    assert photograph.deep is not None and np.abs(photograph.deep * 255 - expected).max() < 1

    steps = np.linspace(20000, 40000, 300).astype(np.uint16).reshape(1, 300, *[1] * (len(shape) - 2))
    tifffile.imwrite(tmp_path / "in.tif", np.broadcast_to(steps, shape), **options)
    fine = photographs.load(tmp_path / "in.tif").deep
    assert fine is not None and len(np.unique(fine[0, :, 1])) > 290


def test_a_damaged_profile_is_ignored(tmp_path, deep):
    for profile in (ADOBE[0][:200], ADOBE[0].replace(b"para", b"none"), ADOBE[0].replace(b"rXYZ", b"none")):
        options = {"photometric": "rgb", "compression": "zlib", "iccprofile": profile}
        tifffile.imwrite(tmp_path / "in.tif", deep[..., :3], **options)
        photograph = photographs.load(tmp_path / "in.tif")
        assert photograph.deep is not None and np.abs(photograph.deep * 65535 - deep[..., :3]).max() < 0.1


def test_libpng_writes_nothing_of_its_own_to_standard_error(tmp_path, deep, capfd):
    images.save(torch.from_numpy(deep[..., :3] / np.float32(65535)).permute(2, 0, 1), tmp_path / "in.png", bits=16)
    content = (tmp_path / "in.png").read_bytes()
    chunk = b"tIME" + b"\xff" * 7
    chunk = b"\0\0\0\7" + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "in.png").write_bytes(content[:33] + chunk + content[33:])
    assert photographs.load(tmp_path / "in.png").deep is not None
    assert capfd.readouterr().err == ""


def details_of(path):
    with Image.open(path) as image:
        exif = image.getexif()
        return {**exif, **exif.get_ifd(ExifTags.IFD.Exif)}, exif.get_ifd(ExifTags.IFD.GPSInfo), image.info


@pytest.mark.parametrize(
    ("suffix", "bits"),
    [("jpg", 8), ("png", 8), ("webp", 8), ("tif", 8), ("avif", 8), ("png", 16), ("tif", 16)],
)
def test_date_camera_and_lens_are_kept_and_everything_private_is_dropped(tmp_path, pictures, metadata, suffix, bits):
    pictures[0].resize((32, 24)).save(tmp_path / "in.jpg", exif=metadata)
    source = tmp_path / "in.jpg"
    if bits == 16:
        source = tmp_path / "in.png"
        pixels = images.to_tensor(Image.open(tmp_path / "in.jpg"))
        images.save(pixels, source, bits=16, exif=metadata)
    paint(source, tmp_path / f"out.{suffix}")
    kept, position, info = details_of(tmp_path / f"out.{suffix}")
    assert (kept[Base.Make], kept[Base.Model]) == ("Canon", "EOS 5D")
    assert (kept[Base.DateTimeOriginal], kept[Base.LensModel]) == ("2020:01:02 03:04:05", "EF 50mm")
    assert kept.get(Base.Orientation, 1) == 1 and images.load(tmp_path / f"out.{suffix}").size == (24, 32)
    assert not position and not {Base.MakerNote, Base.BodySerialNumber, Base.ImageDescription} & set(kept)
    profile = ImageCms.ImageCmsProfile(io.BytesIO(info["icc_profile"]))
    assert "sRGB" in ImageCms.getProfileDescription(profile)
    content = (tmp_path / f"out.{suffix}").read_bytes()
    assert b"secret" not in content and str(tmp_path).encode() not in content


def test_damaged_metadata_counts_as_none(tmp_path, pictures):
    pictures[0].save(tmp_path / "in.jpg", exif=b"Exif\0\0nonsense")
    assert paint(tmp_path / "in.jpg", tmp_path / "out.tif") is None
    assert details_of(tmp_path / "out.tif")[0][Base.Orientation] == 1


def test_heic_is_read(tmp_path, pictures, monkeypatch):
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    pictures[0].save(tmp_path / "photo.heic", quality=95)
    assert paint(tmp_path / "photo.heic", tmp_path / "out.jpg") is None
    difference = np.subtract(images.load(tmp_path / "out.jpg"), pictures[0], dtype=float)
    assert np.abs(difference).mean() < 8

    # Also under another name; and without pillow-heif one line says what to install.
    (tmp_path / "photo.heic").rename(tmp_path / "photo.jpg")
    assert images.load(tmp_path / "photo.jpg").size == (48, 48)
    importing = builtins.__import__

    def missing(name, *args, **keywords):
        if name == "pillow_heif":
            raise ModuleNotFoundError(name)
        return importing(name, *args, **keywords)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ValueError, match=r"photo\.jpg: HEIC needs pillow-heif; install it: pip install"):
        images.load(tmp_path / "photo.jpg")


@pytest.mark.parametrize("source", ["gif", "webp", "png"])
@pytest.mark.parametrize("target", ["webp", "png"])
def test_an_animation_is_painted_frame_by_frame(tmp_path, pictures, source, target):
    times, frames = [50, 100, 250], [picture.resize((24, 16)) for picture in pictures[3:6]]
    frames[0].save(
        tmp_path / f"in.{source}", save_all=True, append_images=frames[1:], duration=times, loop=2, lossless=True
    )
    assert paint(tmp_path / f"in.{source}", tmp_path / f"out.{target}", lambda x: x / 2) is None
    painted = animations.load(tmp_path / f"out.{target}")
    assert painted.durations == times and painted.plays == (3 if source == "gif" else 2)  # GIF counts repetitions.
    for frame, original in zip(painted.frames, animations.load(tmp_path / f"in.{source}").frames, strict=True):
        assert np.abs(np.asarray(frame, float) - np.asarray(original, float) / 2).mean() < 6


def test_transparent_frames_stay_transparent(tmp_path, shaded):
    frames = [shaded, shaded.rotate(90)]
    frames[0].save(tmp_path / "in.png", save_all=True, append_images=frames[1:], duration=80)
    paint(tmp_path / "in.png", tmp_path / "out.png", size=24)
    painted = animations.load(tmp_path / "out.png")
    assert painted.plays == 0 and [frame.size for frame in painted.frames] == [(24, 24)] * 2
    for mask, original in zip(painted.masks, frames, strict=True):
        expected = images.resize(original.getchannel("A"), 24)
        assert mask is not None and np.abs(np.subtract(mask, expected, dtype=int)).max() <= 1


def test_an_animation_in_a_format_without_frames_and_a_huge_one_are_refused(tmp_path, pictures, monkeypatch):
    pictures[0].save(tmp_path / "in.gif", save_all=True, append_images=pictures[1:3])
    assert "in.gif: .jpg cannot store an animation; use --format webp or png" in (
        paint(tmp_path / "in.gif", tmp_path / "out.jpg") or ""
    )
    monkeypatch.setattr(images, "MAX_PIXELS", 48 * 48 * 2)
    assert "got 3 frames of 48 x 48" in (paint(tmp_path / "in.gif", tmp_path / "out.png") or "")
