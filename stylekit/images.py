"""Pictures in and out: files of many kinds, RGB in between, tensors in [0, 1].

`to_signed` and `to_unit` are the only converters between [0, 1], where users are, and [-1, 1], where CycleGAN works.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import ExifTags, Image, ImageCms, ImageDraw, ImageFont, ImageOps, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor

from stylekit.checkpoint import atomic

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
"""File suffixes that are read and written, and Pillow's names of their formats."""

_READABLE = (*dict.fromkeys(FORMATS.values()), "GIF")
"""What Pillow may find in a file, whatever its suffix says: on the web, many a GIF goes by another name."""

MAX_PIXELS = 180_000_000
"""Larger pictures are refused: a file of a few kilobytes can claim to hold gigabytes."""

_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "WEBP": {"quality": 95},
    "AVIF": {"quality": 90},
    "TIFF": {"compression": "tiff_lzw"},
}

# Pillow warns, about metadata that we do not use and about sizes that we check ourselves. This is said once for all:
# silenced around every call, in several threads, warnings of everything else would get lost.
warnings.filterwarnings("ignore", module=r"PIL\.")


def find(folder: str | Path) -> list[Path]:
    """All picture files in a folder and the folders below it, by suffix, sorted; hidden ones are left out.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in FORMATS
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def load(path: str | Path) -> Image.Image:
    """Read a picture as a person would see it: upright, in sRGB, over white, 8 bits, the first frame.

    EXIF orientation is applied; an embedded colour profile is converted to sRGB; transparency is laid over white; grey,
    CMYK, palette, 16-bit and floating-point pictures become RGB.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no picture, is damaged, or is larger than `MAX_PIXELS`; the message names it.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise FileNotFoundError(f"no picture {path}")
        with Image.open(path, formats=_READABLE) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"it has {image.width} x {image.height}")
            _check_tiff(image)
            return _to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: expected at most {MAX_PIXELS // 10**6} million pixels ({error})") from error
    except UnidentifiedImageError as error:
        kinds = " ".join(sorted(suffix[1:] for suffix in FORMATS))
        raise ValueError(f"{path}: not a picture that can be read; expected one of {kinds}") from error
    except PermissionError as error:
        raise ValueError(f"{path}: may not be read; check its permissions") from error
    except Exception as error:  # Pillow raises almost anything on damaged files.
        raise ValueError(f"{path}: a damaged or unusual picture ({_first_line(error)})") from error


def save(image: Image.Image | Tensor, path: str | Path, description: str = "", bits: Literal[8, 16] = 8) -> None:
    """Write a picture, in the format that the suffix names, whole or not at all.

    JPEG, WebP and AVIF are written with little loss (quality 95, 95 and 90), JPEG without chroma subsampling.

    Args:
        image: A picture, or a tensor that `to_image` takes.
        description: Text for the picture's metadata (ImageDescription of EXIF or TIFF); BMP has no place for it.
        bits: Of each colour. 16 is for tensors and TIFF.

    Raises:
        ValueError: The suffix is none of `FORMATS`, or its format cannot hold such a picture.
        OSError: The file cannot be written.
    """
    path = Path(path)
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path}: cannot write this kind of file; expected one of {' '.join(FORMATS)}")
    if bits == 16:
        if not isinstance(image, Tensor) or kind != "TIFF":
            raise ValueError(f"{path}: 16 bits need a tensor, and .tif or .tiff")
        import tifffile

        pixels = (_pixels(image) * 65535).round().to(torch.int32).permute(1, 2, 0).cpu().numpy().astype(np.uint16)
        with atomic(path) as file:
            tifffile.imwrite(
                file, pixels, photometric="rgb", compression="zlib", description=description, metadata=None
            )
        return
    if isinstance(image, Tensor):
        image = to_image(image)
    with atomic(path) as file:
        # Encoded in memory first: some of Pillow's encoders want to seek and write through the file's number.
        encoded = io.BytesIO()
        options = dict(_SAVE_OPTIONS.get(kind, {}))
        if description and kind != "BMP":
            options["exif"] = Image.Exif()
            options["exif"][ExifTags.Base.ImageDescription] = description
        try:
            image.save(encoded, kind, **options)
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"{path}: {kind} cannot hold this picture of {image.width} x {image.height} pixels, mode {image.mode} "
                f"({_first_line(error)}); try .png"
            ) from error
        file.write(encoded.getbuffer())


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB picture as (1, 3, H, W), float32 in [0, 1]."""
    pixels = torch.from_numpy(np.array(image.convert("RGB")))
    return pixels.permute(2, 0, 1)[None].float() / 255


def to_image(tensor: Tensor) -> Image.Image:
    """A tensor in [0, 1] as a picture; values are clamped and rounded.

    Args:
        tensor: (3, H, W) or (1, 3, H, W).

    Raises:
        ValueError: Another shape.
    """
    pixels = (_pixels(tensor) * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())


def to_signed(x: Tensor) -> Tensor:
    """[0, 1] -> [-1, 1], any shape."""
    return x * 2 - 1


def to_unit(x: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1], any shape."""
    return (x + 1) / 2


def with_luminance_of(image: Tensor, photograph: Tensor) -> Tensor:
    """The photograph's colours (its chroma, ITU-R BT.601) under the luminance of another picture.

    Args:
        image: (B, 3, H, W) in [0, 1].
        photograph: The same shape.
    """
    weights = torch.tensor([0.299, 0.587, 0.114], device=image.device).view(1, 3, 1, 1)
    difference = (image * weights).sum(1, keepdim=True) - (photograph * weights).sum(1, keepdim=True)
    return (photograph + difference).clamp(0, 1)


def resize(image: Image.Image, longest: int) -> Image.Image:
    """Shrink a picture, keeping its proportions, until its longer side is `longest`; smaller ones stay as they are."""
    if max(image.size) <= longest:
        return image
    scale = longest / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def sheet(rows: Iterable[Sequence[Image.Image]], titles: Sequence[str] = (), height: int = 256) -> Image.Image:
    """A contact sheet: one row of pictures after another, scaled to equal height, with a title over each column.

    Args:
        rows: Pictures side by side; at least one row of at least one.
        titles: What stands over the columns.
        height: Of every picture on the sheet, in pixels.

    Raises:
        ValueError: There is nothing to show.
    """
    scaled = [
        [
            picture.resize((max(1, round(picture.width * height / picture.height)), height), Image.Resampling.LANCZOS)
            for picture in row
        ]
        for row in rows
    ]
    if not scaled or not all(scaled):
        raise ValueError("a sheet needs at least one picture in every row")
    gap = max(4, height // 32)
    letters = max(10, height // 14)
    font = ImageFont.load_default(size=letters)
    widths = [max(row[i].width for row in scaled if i < len(row)) for i in range(max(map(len, scaled)))]
    for i, title in enumerate(titles[: len(widths)]):
        widths[i] = max(widths[i], math.ceil(font.getlength(title)))
    top = round(letters * 1.8) if titles else gap
    size = (sum(widths) + gap * (len(widths) + 1), top + (height + gap) * len(scaled))
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    lefts = [gap + sum(widths[:i]) + gap * i for i in range(len(widths))]
    for left, title in zip(lefts, titles, strict=False):
        draw.text((left, letters * 0.4), title, fill="black", font=font)
    for i, row in enumerate(scaled):
        for left, width, picture in zip(lefts, widths, row, strict=False):
            page.paste(picture, (left + (width - picture.width) // 2, top + (height + gap) * i))
    return page


def _pixels(tensor: Tensor) -> Tensor:
    if tensor.ndim == 4 and len(tensor) == 1:
        tensor = tensor[0]
    if tensor.ndim != 3 or len(tensor) != 3:
        raise ValueError(f"a picture is (3, H, W) or (1, 3, H, W), got {tuple(tensor.shape)}")
    return tensor.detach().float().clamp(0, 1)


def _check_tiff(image: Image.Image) -> None:
    """Refuse what Pillow reads wrongly without a word: two rare kinds of TIFF with more than 8 bits."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return
    tags = image.tag_v2
    bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
    if max(bits) <= 8:
        return
    if len(bits) > 1 and tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2 and image.info["compression"] == "raw":
        raise ValueError("colours of 16 bits in planes; save it with interleaved pixels, or compressed")
    if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:
        raise ValueError("grey of 16 bits whose 0 is white; save it with 0 as black")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    alpha = _alpha(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _from_deep_grey(image)
    elif image.mode not in ("RGB", "L", "CMYK"):
        image = image.convert("L" if image.mode in ("1", "LA") else "RGB")
    image = _to_srgb(image).convert("RGB")
    if alpha is not None:
        image = Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
    # What the file said of its colours no longer holds, and Pillow would write it into the next file.
    image.info = {}
    return image


def _alpha(image: Image.Image) -> Image.Image | None:
    """How opaque every pixel is; None if all are."""
    key = image.info.get("transparency")
    if image.mode.startswith("I") and isinstance(key, int):
        return Image.fromarray((np.asarray(image) != key).astype(np.uint8) * np.uint8(255))
    if key is not None or "A" in image.getbands():
        return image.convert("RGBA").getchannel("A")
    return None


def _to_srgb(image: Image.Image) -> Image.Image:
    """Convert with the embedded profile; a profile that is broken, or of another colour space, is left aside."""
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return image
    return converted if converted is not None else image


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """Grey of 16 bits, or of floating-point values in [0, 1], [0, 255] or [0, 65535], rounded to 8 bits."""
    values = np.asarray(image, dtype=np.float32)
    white = 65535.0
    if image.mode == "F":
        # Nothing but the values themselves says what white is.
        largest = values.max(initial=0, where=np.isfinite(values))
        white = next((end for end in (1.0, 255.0) if largest <= end), white)
    elif values.min(initial=0) < 0 or values.max(initial=0) > white:
        raise ValueError(f"grey values from {values.min():.0f} to {values.max():.0f}; expected 0 to {white:.0f}")
    grey = Image.fromarray(np.rint(np.nan_to_num(values).clip(0, white) * (255 / white)).astype(np.uint8))
    grey.info = image.info
    return grey


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
