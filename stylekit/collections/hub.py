"""Mirrors of the published data sets on the Hugging Face Hub: Parquet files with a column for each side."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from stylekit.collections.sources import safe_stem
from stylekit.collections.workspace import SIDES, SPLITS
from stylekit.pictures import images

OWNER = "huggan"
"""Owner of the mirrors."""

ENDPOINT: str | None = None
"""Address of the Hub; None for that of huggingface_hub."""


def fetch_mirror(name: str, hidden: Path, folder: Path) -> None:
    """Download the mirror of a data set and write its pictures to FOLDER/trainA and the others.

    The Hub pairs the two sides and repeats the smaller one; each picture is written once.

    Args:
        hidden: Folder for the Parquet files.

    Raises:
        ValueError: There is no such mirror, or it holds something else.
        OSError: The Hub cannot be reached, or PyArrow is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise OSError('reading it needs PyArrow: pip install ".[data]"') from error
    from huggingface_hub import HfApi

    api, repository = HfApi(endpoint=ENDPOINT), f"{OWNER}/{name}"
    try:
        files = [file for file in api.list_repo_files(repository, repo_type="dataset") if file.endswith(".parquet")]
        local = [api.hf_hub_download(repository, file, repo_type="dataset", local_dir=hidden / "hub") for file in files]
    except Exception as error:  # Its versions use different HTTP libraries, each with its own errors.
        raise OSError(f"{repository}: {' '.join(str(error).split())}") from error
    seen: set[tuple[str, str]] = set()
    for path in map(Path, local):
        if not (split := next((split for split in SPLITS if split in path.name), "")):
            continue
        try:
            for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=32):
                for side in SIDES:
                    for cell in batch.column(f"image{side}").to_pylist():
                        _write(cell, f"{split}{side}", folder, seen)
        except (pyarrow.ArrowException, KeyError, TypeError) as error:
            raise ValueError(f"{repository}: {path.name} is not as expected ({error})") from error
    if not seen:
        raise ValueError(f"{repository}: no pictures")
    shutil.rmtree(hidden / "hub")


def _write(cell: dict[str, bytes | str | None], home: str, folder: Path, seen: set[tuple[str, str]]) -> None:
    data = cell["bytes"]
    if not isinstance(data, bytes):
        raise TypeError("a cell without picture")
    digest = hashlib.sha256(data).hexdigest()
    if (home, digest) in seen:
        return
    seen.add((home, digest))
    name = Path(str(cell.get("path") or "").replace("\\", "/")).name
    suffix = Path(name).suffix.lower() if Path(name).suffix.lower() in images.FORMATS else ".jpg"
    target = folder / home / f"{safe_stem(name) if name else digest[:16]}{suffix}"
    if target.exists():
        target = target.with_name(f"{target.stem}-{digest[:8]}{suffix}")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
