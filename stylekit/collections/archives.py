"""The data sets that the authors of CycleGAN published as zip files, with a mirror on the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import shutil
import sys
import zipfile
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from stylekit.collections.sources import safe_stem
from stylekit.collections.web import Failure, Unreachable, Web
from stylekit.collections.workspace import FOLDERS, SIDES, SPLITS
from stylekit.pictures import images

AUTHORS = "https://efrosgans.eecs.berkeley.edu/cyclegan/datasets"  # Where the authors keep the archives.
MIRROR = "huggan"  # Owner of the mirrors on the Hub: Parquet files with a column for each side.
HUB: str | None = None  # Address of the Hub; None for that of huggingface_hub.

_LARGEST_MEMBER = 100_000_000
_LARGEST_ARCHIVE = 4_000_000_000

PUBLISHED = {
    "vangogh2photo": (306_590_349, "362c3473e70be0944bda08d49d660eafdc2854df55d697835b8186d1d79caaff"),
    "monet2photo": (305_231_073, "88f91b00fc228f97c9411fbf1880ec1d119c98f1722e4cfcfaa2fb35fac05b04"),
    "cezanne2photo": (279_885_071, "3a6c10ca21f9485862f1cbd707744b9dc258954a04631271d23a3605eeb63cff"),
    "ukiyoe2photo": (292_946_532, "02a2a2fb5ecf425ca1bf86aca7304377da64a2a1d3b86df54eb65e4068bf3b08"),
    "horse2zebra": (116_867_962, "a74d9d392eecca9966b51287a76ca126af473d9de4f3e8fc0e9cda08fa1730a1"),
    "apple2orange": (78_456_409, "845a191e9af8926408ea597001cd03a452e3300a1f44a79fe329b3d59f6e3eb8"),
    "summer2winter_yosemite": (132_640_856, "167fe1726807a9d22bd106b4a6c0bd7953b688af924ac1bf967439c4961e49f9"),
    "iphone2dslr_flower": (339_964_458, "8fcb5e374d631b107e1d961b8c4cd0a186aa2a4ff3e279923f4c426128de7113"),
    "maps": (1_476_754_427, "639534f69dbf9f36bef8d6292a7698006361221f83f0285d7c9ca78afe6e8a9e"),
    "facades": (35_135_868, "9a31ebf3a31b9b5cd195dd5bf62e9308e00cb94604d1019e3889ac84248695c0"),
    "ae_photos": (0, ""),
}
"""Bytes and SHA-256 of the zip files of 2019; 0 and empty if unknown. datasets/README.md says what they show."""


def fetch_archive(name: str, hidden: Path, web: Web) -> Path:
    """Download a published data set from the authors, or else from the mirror, to a folder in `hidden`; return it."""
    unpacked, partial, path = hidden / "unpacked", hidden / "unpacking", hidden / f"{name}.zip"
    if unpacked.is_dir():
        return unpacked
    size, digest = PUBLISHED[name]
    shutil.rmtree(partial, ignore_errors=True)
    # The zip file and what it holds; photographs hardly shrink when they are packed.
    _check_space(hidden, 2 * size)
    try:
        if not path.exists():
            with tqdm(unit="B", unit_scale=True, desc=name, disable=None, delay=1) as bar:
                web.file(f"{AUTHORS}/{name}.zip", path, _LARGEST_ARCHIVE, robots=False, bar=bar)
        verify(path, digest)
        unpack(path, partial)
    except (Failure, Unreachable, ValueError) as error:
        print(f"{error}\ntrying the mirror on the Hugging Face Hub", file=sys.stderr)
        shutil.rmtree(partial, ignore_errors=True)
        try:
            fetch_mirror(f"{MIRROR}/{name}", hidden / "hub", partial)
        except (OSError, ValueError) as second:
            raise OSError(f"{name}: {error}; the mirror failed too: {second}") from second
    partial.replace(unpacked)
    path.unlink(missing_ok=True)
    return unpacked


def verify(path: Path, expected: str) -> None:
    """Remove a file whose SHA-256 is not the expected one, and raise ValueError; nothing is expected if it is empty."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    if expected not in (found := digest.hexdigest(), ""):
        path.unlink()
        raise ValueError(f"{path.name}: SHA-256 is {found}, expected {expected}; the file has changed or is damaged")


def unpack(path: Path, folder: Path) -> None:
    """Unpack the pictures in trainA, trainB, testA and testB of a zip file into FOLDER/trainA and so on.

    Only the last part of a member's name is used, so nothing is written elsewhere.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_space(path.parent, sum(member.file_size for member in members))
            for member in members:
                place = PurePosixPath(member.filename)
                home = next((part for part in place.parts[:-1] if part in FOLDERS), None)
                hidden = any(part.startswith((".", "__MACOSX")) for part in place.parts)
                if home is None or hidden or place.suffix.lower() not in images.FORMATS:
                    continue
                if member.file_size > _LARGEST_MEMBER:
                    raise ValueError(
                        f"{path.name}: {member.filename!r} has {member.file_size:,} bytes, which is too many"
                    )
                target = folder / home / f"{safe_stem(place.name)}{place.suffix.lower()}"
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as packed, target.open("wb") as file:
                    shutil.copyfileobj(packed, file, 1 << 20)
    except (zipfile.BadZipFile, RuntimeError, EOFError) as error:
        path.unlink(missing_ok=True)
        raise ValueError(f"{path.name}: not a zip file, or damaged ({error})") from error
    if not folder.is_dir():
        raise ValueError(f"{path.name}: no pictures in {', '.join(FOLDERS)}")


def fetch_mirror(repository: str, hidden: Path, folder: Path) -> None:
    """Download Parquet files of the Hub to `hidden`; their columns imageA and imageB go to FOLDER/trainA and so on."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise OSError('reading it needs PyArrow: pip install ".[data]"') from error
    from huggingface_hub import HfApi

    api = HfApi(endpoint=HUB)
    try:
        files = [file for file in api.list_repo_files(repository, repo_type="dataset") if file.endswith(".parquet")]
        local = [api.hf_hub_download(repository, file, repo_type="dataset", local_dir=hidden) for file in files]
    except Exception as error:  # Its versions use different HTTP libraries, each with its own errors.
        raise OSError(f"{repository}: {' '.join(str(error).split())}") from error
    try:
        for path in map(Path, local):
            for split in (split for split in SPLITS if split in path.name):
                for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=32):
                    for side in SIDES:
                        home = folder / f"{split}{side}"
                        home.mkdir(parents=True, exist_ok=True)
                        for cell in batch.column(f"image{side}").to_pylist():
                            # Rows pair the sides and repeat the smaller one: named by content, each is kept once.
                            name = hashlib.sha256(cell["bytes"]).hexdigest()[:16]
                            (home / f"{name}.jpg").write_bytes(cell["bytes"])
    except (pyarrow.ArrowException, KeyError, TypeError) as error:
        raise ValueError(f"{repository}: not as expected ({error})") from error
    if not folder.is_dir():
        raise ValueError(f"{repository}: no pictures")
    shutil.rmtree(hidden)


def _check_space(folder: Path, needed: int) -> None:
    if needed > (free := shutil.disk_usage(folder).free):
        raise OSError(f"{folder}: needs about {needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free")
