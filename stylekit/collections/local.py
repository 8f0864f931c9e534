"""Pictures on this machine as a source: the user's own folder, or an archive that has been unpacked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from stylekit.collections.records import Remote, file_name
from stylekit.pictures import images


class Folder:
    """The pictures of a folder and its subfolders, sorted by name.

    Args:
        folder: Where they are.
        keep_names: Keep the names of the files, which are then unique already; else the path within the folder becomes
            the name.
        license: License of all pictures.
        author: Author of all pictures.
        page: Where a person can read about them.
        split: train or test if the folder is one side of a split.
    """

    def __init__(
        self,
        folder: Path,
        keep_names: bool = False,
        license: str = "",
        author: str = "",
        page: str = "",
        split: str = "",
    ) -> None:
        self.folder = folder
        self.keep_names = keep_names
        self.license = license
        self.author = author
        self.page = page
        self.split = split

    def list(self, limit: int) -> Iterator[Remote]:
        """See `Source`. Nothing is read but names."""
        paths = images.find(self.folder)
        if not paths:
            raise FileNotFoundError(f"no pictures in {self.folder}; expected {' '.join(sorted(images.FORMATS))}")
        for path in islice(paths, limit):
            inner = path.relative_to(self.folder).with_suffix("").as_posix()
            yield Remote(
                url=str(path),
                name=safe_stem(path.name) if self.keep_names else file_name(inner, path.name),
                title=path.stem,
                author=self.author,
                license=self.license,
                page=self.page,
                split=self.split,
            )


def safe_stem(name: str) -> str:
    """The name of a file without suffix, free of characters that some file systems refuse."""
    stem = re.sub(r"[^\w .()-]", "_", Path(name).stem).strip(". ")
    return stem[:120] or "picture"
