"""Loading, saving and converting pictures: files of many formats, PIL images in RGB, tensors in [0, 1].

`to_signed` and `to_unit` are the only converters between [0, 1], which public functions use, and [-1, 1], which
CycleGAN networks use.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import os
import re
import struct
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps, TiffImagePlugin, UnidentifiedImageError, _imaging
from torch import Tensor

from stylekit.atomic import atomic_write
from stylekit.pictures.exif import add_to_tiff

FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".avif": "AVIF",
}
"""Suffixes of the formats that are read and written, with Pillow's names for them."""

READ_ONLY = {".gif": ".png", ".heic": ".jpg", ".heif": ".jpg"}
"""Suffixes of formats that are only read, with those of their results. HEIC needs the extra `heic`."""

VIDEOS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".avi": "avi"}
"""Suffixes of video files that are read and written, with FFmpeg's names of their formats."""

DEEP = ("PNG", "TIFF")
"""Pillow's names of the formats that can store 16 bits per channel, also of colors."""

_READABLE = (*dict.fromkeys(FORMATS.values()), "GIF")
"""Formats accepted in a file whatever its suffix: on the web, GIFs often have another one."""

MAX_PIXELS = 178_956_970  # What Pillow itself allows: twice its `MAX_IMAGE_PIXELS`.
MAX_SIDE = 65_535
"""Larger pictures are refused, since a file of a few kilobytes can expand to gigabytes. JPEG allows the same sides."""

_MAX_SCANS = 100
"""Scans of a progressive JPEG, of large ones 20. Usual are ten; each takes as long as the whole picture."""

_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "WEBP": {"quality": 95},
    "AVIF": {"quality": 90},
    "TIFF": {"compression": "tiff_lzw"},
}

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
"""The color profile of sRGB, which says so in a file."""

_DISPLAY_P3 = {
    b"rXYZ": struct.pack(">3i", 33759, 15807, -69),
    b"gXYZ": struct.pack(">3i", 19135, 45367, 2745),
    b"bXYZ": struct.pack(">3i", 10296, 4363, 51385),
}
"""Tags of the color profile of Display P3 that differ from sRGB."""


def find(folder: str | Path, suffixes: Collection[str] = FORMATS) -> list[Path]:
    """All picture files in a folder and its subfolders, by suffix, sorted; hidden files and folders are skipped.

    Args:
        suffixes: In lower case; empty for files of all kinds.

    Raises:
        FileNotFoundError: The folder does not exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")

    def fail(error: OSError) -> None:
        raise error  # os.walk would skip the folder, and its pictures, without a word.

    found = []
    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(parent, name) for name in names if not name.startswith("."))
        found += [path for path in paths if (not suffixes or path.suffix.lower() in suffixes) and path.is_file()]
    return sorted(found)


def load(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Load a picture as a viewer would show it: upright, in sRGB, on white, 8 bits, first frame.

    Applies the EXIF orientation, converts embedded color profiles to sRGB, blends transparency with white, and
    converts gray, CMYK, palette, 16-bit and floating-point pictures to RGB.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: Not a picture, damaged, or larger than `max_pixels`; the message names the file.
    """
    with decode(path, max_pixels) as image:
        return to_rgb(ImageOps.exif_transpose(image))


@contextlib.contextmanager
def decode(path: str | Path, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Open a picture after checks that it takes neither much time nor memory; raises the errors of `load`."""
    path = Path(path)
    try:
        if not path.is_file():
            raise FileNotFoundError(f"no picture {path}")
        with Image.open(path, formats=_readable(path)) as image:
            _check(image, path, max_pixels)
            if image.format == "PNG":
                _set_png_profile(image, path)
            yield image
    except FileNotFoundError:
        raise
    except Image.DecompressionBombError as error:
        limits = f"{max_pixels // 10**6} million pixels and {MAX_SIDE:,} per side"
        raise ValueError(f"{path}: expected at most {limits} ({error})") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: not a supported picture: its content is not {', '.join(_READABLE)}") from error
    except PermissionError as error:
        raise ValueError(f"{path}: permission denied") from error
    except ModuleNotFoundError as error:
        raise ValueError(f"{path}: HEIC needs pillow-heif; install it: pip install pillow-heif") from error
    except MemoryError as error:
        raise ValueError(f"{path}: not enough memory for a picture of this size") from error
    except Exception as error:  # Pillow raises almost anything on damaged files.
        raise ValueError(f"{path}: damaged or unsupported picture ({_first_line(error)})") from error


def save(
    image: Image.Image | Tensor,
    path: str | Path,
    description: str = "",
    bits: Literal[8, 16] = 8,
    alpha: Image.Image | None = None,
    exif: Image.Exif | None = None,
    profile: bytes = b"",
) -> None:
    """Write a picture in the format of its suffix, completely or not at all.

    JPEG, WebP and AVIF use high quality (95, 95 and 90), JPEG without chroma subsampling. BMP stores no metadata.

    Args:
        image: A picture, or a tensor that `to_image` accepts.
        description: Text for the metadata (ImageDescription in EXIF or TIFF).
        bits: Bits per channel. 16 requires a tensor, and PNG or TIFF.
        alpha: Opacity, in mode L; requires PNG, WebP, TIFF or AVIF.
        exif: Metadata instead of the description.
        profile: ICC color profile.

    Raises:
        ValueError: The suffix is not in `FORMATS`, or the format cannot store the picture.
        OSError: The file cannot be written.
    """
    path = Path(path)
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path}: unsupported format; expected one of {' '.join(FORMATS)}")
    if description and exif is None:
        exif = Image.Exif()
        exif[ExifTags.Base.ImageDescription] = description
    if bits == 16:
        if not isinstance(image, Tensor) or kind not in DEEP:
            raise ValueError(f"{path}: 16 bits require a tensor and .tif, .tiff or .png")
        content = _encode_deep(_pixels(image), kind, alpha, exif, profile)
    else:
        picture = to_image(image) if isinstance(image, Tensor) else image
        if alpha is not None:
            picture = picture.copy()
            picture.putalpha(alpha)
        content = _encode(picture, path, kind, exif, profile)
    if kind == "TIFF":
        content = add_to_tiff(content, exif or Image.Exif(), profile, alpha is not None)
    with atomic_write(path) as file:
        file.write(content)


def to_tensor(image: Image.Image) -> Tensor:
    """PIL image -> (1, 3, H, W), float32 RGB in [0, 1].

    Examples:
        >>> to_tensor(Image.new("RGB", (4, 2), "white"))[0, :, 0, 0]
        tensor([1., 1., 1.])
    """
    pixels = torch.from_numpy(np.array(image.convert("RGB")))
    return pixels.permute(2, 0, 1)[None].float() / 255


def to_image(tensor: Tensor) -> Image.Image:
    """Tensor in [0, 1] -> PIL image; values are clamped and rounded.

    Args:
        tensor: (3, H, W) or (1, 3, H, W).

    Raises:
        ValueError: The tensor has another shape.
    """
    pixels = _pixels(tensor).mul_(255).round_().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())


def to_signed(x: Tensor) -> Tensor:
    """[0, 1] -> [-1, 1], any shape."""
    return x * 2 - 1


def to_unit(x: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1], any shape."""
    return (x + 1) / 2


def resize(image: Image.Image, longest: int | None) -> Image.Image:
    """Shrink a picture to a longer side of `longest` pixels, keeping its aspect ratio; never enlarges."""
    if longest is None or longest >= max(image.size):
        return image
    scale = longest / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


def _encode(image: Image.Image, path: Path, kind: str, exif: Image.Exif | None, profile: bytes) -> bytes:
    # In memory: some of Pillow's encoders seek, or write through the file descriptor.
    encoded = io.BytesIO()
    metadata = {"exif": exif} if exif is not None and kind != "BMP" else {}
    try:
        image.save(encoded, kind, icc_profile=profile or None, **_SAVE_OPTIONS.get(kind, {}), **metadata)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{path}: {kind} cannot store {image.width} x {image.height} pixels, mode {image.mode} "
            f"({_first_line(error)}); try .png"
        ) from error
    return encoded.getvalue()


def _encode_deep(
    picture: Tensor, kind: str, alpha: Image.Image | None, exif: Image.Exif | None, profile: bytes
) -> bytes:
    """A PNG or TIFF file with 16 bits per channel, which Pillow cannot write; a TIFF without metadata."""
    import cv2

    channels = [(picture * 65535).round().to(torch.int32).permute(1, 2, 0).cpu().numpy()[..., ::-1]]
    channels += [] if alpha is None else [np.asarray(alpha, dtype=np.int32)[..., None] * 257]
    options = [cv2.IMWRITE_TIFF_COMPRESSION, 8] if kind == "TIFF" else []  # Deflate.
    _, encoded = cv2.imencode(f".{kind.lower()}", np.concatenate(channels, 2).astype(np.uint16), options)
    content = encoded.tobytes()
    if kind == "TIFF":
        return content  # See `add_to_tiff`.
    chunks = {b"iCCP": b"ICC Profile\0\0" + zlib.compress(profile)} if profile else {}
    chunks |= {b"eXIf": exif.tobytes().removeprefix(b"Exif\0\0")} if exif is not None else {}
    added = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks.items()
    ]
    header = 33  # Signature and IHDR.
    return b"".join([content[:header], *added, content[header:]])


def _readable(path: Path) -> tuple[str, ...]:
    """Pillow's names of the formats that a file may have: HEIF if it looks like that, otherwise all others."""
    with path.open("rb") as file:
        head = file.read(64)
    if head[4:8] != b"ftyp" or not any(brand in head for brand in (b"heic", b"heix", b"hevc", b"heim", b"heis")):
        return _READABLE
    import pillow_heif

    pillow_heif.register_heif_opener(thumbnails=False)
    return ("HEIF",)


def _pixels(tensor: Tensor) -> Tensor:
    if tensor.ndim == 4 and len(tensor) == 1:
        tensor = tensor[0]
    if tensor.ndim != 3 or len(tensor) != 3:
        raise ValueError(f"expected a picture of shape (3, H, W) or (1, 3, H, W), got {tuple(tensor.shape)}")
    return tensor.detach().float().clamp(0, 1)


def _check(image: Image.Image, path: Path, max_pixels: int) -> None:
    """Refuse what takes too long or too much memory to decode, and two rare kinds of TIFF that Pillow misreads."""
    sizes = [image.size]
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # A tile is decoded whole, however small the picture.
        sizes += [(image.tag_v2.get(TiffImagePlugin.TILEWIDTH, 0), image.tag_v2.get(TiffImagePlugin.TILELENGTH, 0))]
    for width, height in sizes:
        if width * height > max_pixels or max(width, height) > MAX_SIDE:
            raise Image.DecompressionBombError(f"got {width} x {height}")
    if image.format in ("JPEG", "MPO"):
        scans = path.read_bytes().count(b"\xff\xda")  # Never in compressed data, where 00 follows ff.
        most = min(_MAX_SCANS, 20 * max_pixels // (image.width * image.height))
        if scans > most:
            raise ValueError(f"{scans} scans; expected at most {most}")
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _silence_libtiff()
        tags = image.tag_v2
        bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
        planar = len(bits) > 1 and tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2
        if max(bits) > 8 and planar and image.info["compression"] == "raw":
            raise ValueError("uncompressed planar 16-bit TIFF; save it with interleaved pixels or compressed")
        if max(bits) > 8 and tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:
            raise ValueError("16-bit gray TIFF in which 0 is white; save it with 0 as black")


def _set_png_profile(image: Image.Image, path: Path) -> None:
    """Make a profile of the numbers by which a PNG may describe its colors: cICP (sRGB, Display P3), else gAMA."""
    with path.open("rb") as file:
        code = re.search(rb"\x00\x00\x00\x04cICP([\x01\x0c])\x0d\x00\x01", file.read(4096))
    gamma = image.info.get("gamma", 0)
    if code:
        image.info["icc_profile"] = _srgb_with({} if code[1] == b"\x01" else _DISPLAY_P3)
    # libpng, too, takes 5 % about the gamma of sRGB for sRGB.
    elif {"icc_profile", "srgb"}.isdisjoint(image.info) and 0.1 < gamma < 10 and abs(gamma * 2.2 - 1) > 0.05:
        profile = _srgb_with({b"rTRC": struct.pack(">2H5i", 3, 0, round(65536 / gamma), 65536, 0, 65536, 0)})
        if is_gray(image):
            profile = profile[:16] + b"GRAY" + profile[20:].replace(b"rTRC", b"kTRC")
        image.info["icc_profile"] = profile


def _srgb_with(tags: dict[bytes, bytes]) -> bytes:
    """The profile of sRGB with other values of some tags; the three transfer functions are stored once."""
    profile = SRGB
    for name, value in tags.items():
        start = int.from_bytes(profile[profile.index(name) + 4 :][:4], "big") + 8
        profile = profile[:start] + value + profile[start + len(value) :]
    return profile


@functools.cache
def _silence_libtiff() -> None:
    """Stop libtiff from writing about damaged files to standard error, besides Pillow's exception."""
    with contextlib.suppress(AttributeError, OSError):  # On Windows the symbol is hidden.
        ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a picture of any mode to RGB in sRGB, on white."""
    alpha = alpha_of(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _from_deep_gray(image)
    elif image.mode not in ("RGB", "L", "CMYK"):
        image = image.convert("L" if image.mode in ("1", "LA") else "RGB")
    image = _to_srgb(image).convert("RGB")
    if alpha is not None:
        image = Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
    # The color metadata no longer applies, and Pillow would write it into the next file.
    image.info = {}
    return image


def is_gray(image: Image.Image) -> bool:
    """Whether a picture has no colors, by its mode."""
    return image.mode.startswith("I") or image.mode in ("1", "L", "LA")


def alpha_of(image: Image.Image) -> Image.Image | None:
    """The alpha channel, in mode L; None for an opaque picture."""
    key = image.info.get("transparency")
    if image.mode.startswith("I") and isinstance(key, int):
        return Image.fromarray((np.asarray(image) != key).astype(np.uint8) * np.uint8(255))
    return image.convert("RGBA").getchannel("A") if key is not None or "A" in image.getbands() else None


def _to_srgb(image: Image.Image) -> Image.Image:
    """Apply the embedded profile; a broken one, or one for another color space, is ignored."""
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    gray = image.mode == "L"
    # LittleCMS changes grays by a rough table unless told otherwise, which is slow; so convert 256 of them.
    colors = Image.fromarray(np.arange(256, dtype=np.uint8)[None]) if gray else image
    flags = ImageCms.Flags.NOOPTIMIZE if gray else ImageCms.Flags.NONE
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(colors, source, target, outputMode="RGB", flags=flags)
    except (ImageCms.PyCMSError, OSError):
        return image
    if converted is None:
        return image
    return image.point(list(converted.getchannel("R").tobytes())) if gray else converted


def _from_deep_gray(image: Image.Image) -> Image.Image:
    """Convert 16-bit gray, or floating-point gray in [0, 1], [0, 255] or [0, 65535], to 8 bits."""
    values = np.asarray(image, dtype=np.float32)
    white = 65535.0
    if image.mode == "F":
        # The file does not say which value is white; infer it from the data.
        largest = values.max(initial=0, where=np.isfinite(values))
        white = next((end for end in (1.0, 255.0) if largest <= end), white)
    elif values.min(initial=0) < 0 or values.max(initial=0) > white:
        raise ValueError(f"gray values from {values.min():.0f} to {values.max():.0f}; expected 0 to {white:.0f}")
    gray = Image.fromarray(np.rint(np.nan_to_num(values).clip(0, white) * (255 / white)).astype(np.uint8))
    gray.info = image.info
    return gray


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
