"""The data sets that the authors of CycleGAN published as zip files, fetched whole and unpacked with care."""

from __future__ import annotations

import hashlib
import shutil
import stat
import sys
import zipfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tqdm import tqdm

from stylekit.collections.hub import fetch_mirror
from stylekit.collections.sources import safe_stem
from stylekit.collections.web import Failure, Unreachable, Web
from stylekit.collections.workspace import SIDES, SPLITS
from stylekit.pictures import images

AUTHORS = "https://efrosgans.eecs.berkeley.edu/cyclegan/datasets"
"""Where the authors keep the archives."""

FOLDERS = tuple(f"{split}{side}" for split in SPLITS for side in SIDES)

_LARGEST_MEMBER = 100_000_000
_LARGEST_ARCHIVE = 4_000_000_000


class Published(NamedTuple):
    """A published data set."""

    size: int
    """Bytes of the zip file; 0 if unknown."""
    a: str
    """What the pictures of A show."""
    b: str
    """What those of B show."""


_FLICKR = "landscape photographs (Flickr)"

PUBLISHED = {
    "vangogh2photo": Published(306_590_349, "paintings by Van Gogh (WikiArt)", _FLICKR),
    "monet2photo": Published(305_231_073, "paintings by Monet (WikiArt)", _FLICKR),
    "cezanne2photo": Published(279_885_071, "paintings by Cézanne (WikiArt)", _FLICKR),
    "ukiyoe2photo": Published(292_946_532, "ukiyo-e paintings and prints (WikiArt)", _FLICKR),
    "horse2zebra": Published(116_867_962, "horses (ImageNet)", "zebras (ImageNet)"),
    "apple2orange": Published(78_456_409, "apples (ImageNet)", "oranges (ImageNet)"),
    "summer2winter_yosemite": Published(132_640_856, "Yosemite in summer (Flickr)", "Yosemite in winter (Flickr)"),
    "iphone2dslr_flower": Published(339_964_458, "flowers, taken with phones (Flickr)", "with SLR cameras"),
    "maps": Published(1_476_754_427, "aerial photographs (Google Maps)", "maps (Google Maps)"),
    "facades": Published(35_135_868, "facades (CMP)", "their labels"),
    "ae_photos": Published(0, "not described by the authors", "the same"),
}

SHA256 = {
    "vangogh2photo": "362c3473e70be0944bda08d49d660eafdc2854df55d697835b8186d1d79caaff",
    "monet2photo": "88f91b00fc228f97c9411fbf1880ec1d119c98f1722e4cfcfaa2fb35fac05b04",
    "cezanne2photo": "3a6c10ca21f9485862f1cbd707744b9dc258954a04631271d23a3605eeb63cff",
    "ukiyoe2photo": "02a2a2fb5ecf425ca1bf86aca7304377da64a2a1d3b86df54eb65e4068bf3b08",
    "horse2zebra": "a74d9d392eecca9966b51287a76ca126af473d9de4f3e8fc0e9cda08fa1730a1",
    "apple2orange": "845a191e9af8926408ea597001cd03a452e3300a1f44a79fe329b3d59f6e3eb8",
    "summer2winter_yosemite": "167fe1726807a9d22bd106b4a6c0bd7953b688af924ac1bf967439c4961e49f9",
    "iphone2dslr_flower": "8fcb5e374d631b107e1d961b8c4cd0a186aa2a4ff3e279923f4c426128de7113",
    "maps": "639534f69dbf9f36bef8d6292a7698006361221f83f0285d7c9ca78afe6e8a9e",
    "facades": "9a31ebf3a31b9b5cd195dd5bf62e9308e00cb94604d1019e3889ac84248695c0",
}
"""Of the zip files of 2019, as far as it is known."""


def fetch_archive(name: str, hidden: Path, web: Web) -> Path:
    """Download a published data set and unpack it; a folder with trainA and the others.

    The authors' server is asked first, then the mirror on the Hugging Face Hub.

    Args:
        hidden: Folder for all files.

    Raises:
        OSError: No server can be reached or has the right file, or the disk is full.
    """
    unpacked, partial, path = hidden / "unpacked", hidden / "unpacking", hidden / f"{name}.zip"
    if unpacked.is_dir():
        return unpacked
    shutil.rmtree(partial, ignore_errors=True)
    # The zip file and what it holds; photographs hardly shrink when they are packed.
    _check_space(hidden, 2 * PUBLISHED[name].size)
    try:
        if not path.exists():
            with tqdm(unit="B", unit_scale=True, desc=name, disable=None, delay=1) as bar:
                web.file(f"{AUTHORS}/{name}.zip", path, _LARGEST_ARCHIVE, robots=False, bar=bar)
        verify(path, SHA256.get(name, ""))
        unpack(path, partial)
    except (Failure, Unreachable, ValueError) as error:
        print(f"{error}\ntrying the mirror on the Hugging Face Hub", file=sys.stderr)
        shutil.rmtree(partial, ignore_errors=True)
        try:
            fetch_mirror(name, hidden, partial)
        except (OSError, ValueError) as second:
            raise OSError(f"{name}: {error}; the mirror failed too: {second}") from second
    partial.replace(unpacked)
    path.unlink(missing_ok=True)
    return unpacked


def verify(path: Path, expected: str) -> None:
    """Compare a file's SHA-256 with the expected one, if there is one. A wrong file is removed.

    Raises:
        ValueError: It differs.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    if expected not in (found := digest.hexdigest(), ""):
        path.unlink()
        raise ValueError(f"{path.name}: SHA-256 is {found}, expected {expected}; the file has changed or is damaged")


def unpack(path: Path, folder: Path) -> None:
    """Unpack the pictures in trainA, trainB, testA and testB of a zip file into FOLDER/trainA and so on.

    Raises:
        ValueError: Not a zip file, damaged, without such pictures, or made to write or fill what it should not.
    """
    count = 0
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir()]
            for member in members:
                _check_member(member, path)
            _check_space(folder, sum(member.file_size for member in members))
            for member in members:
                place = PurePosixPath(member.filename)
                home = next((part for part in place.parts[:-1] if part in FOLDERS), None)
                hidden = any(part.startswith((".", "__MACOSX")) for part in place.parts)
                if home is None or hidden or place.suffix.lower() not in images.FORMATS:
                    continue
                target = folder / home / f"{safe_stem(place.name)}{place.suffix.lower()}"
                if target.exists():  # Two names that differ only in characters that were replaced.
                    target = target.with_name(f"{target.stem}-{count}{target.suffix}")
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as packed, target.open("xb") as file:
                    shutil.copyfileobj(packed, file, 1 << 20)
                count += 1
    except (zipfile.BadZipFile, RuntimeError, EOFError) as error:
        path.unlink(missing_ok=True)
        raise ValueError(f"{path.name}: not a zip file, or damaged ({error})") from error
    if not count:
        raise ValueError(f"{path.name}: no pictures in {', '.join(FOLDERS)}")


def _check_member(member: zipfile.ZipInfo, path: Path) -> None:
    name = member.orig_filename
    place = PurePosixPath(name.replace("\\", "/"))
    if place.is_absolute() or ".." in place.parts or place.parts[0].endswith(":") or "\0" in name:
        raise ValueError(f"{path.name}: refused, since it holds {name!r}, a file outside the data set")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise ValueError(f"{path.name}: refused, since {name!r} is a link")
    if member.file_size > _LARGEST_MEMBER:
        raise ValueError(f"{path.name}: refused, since {name!r} has {member.file_size:,} bytes")


def _check_space(folder: Path, needed: int) -> None:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if needed > (free := shutil.disk_usage(existing).free):
        raise OSError(f"{folder}: needs about {needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free")
