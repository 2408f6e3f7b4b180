"""Where the marks lie that name the cells' privacy ledger; see `client.ledger.data_mark`."""

import os
import shutil
from pathlib import Path

CACHE_MARK = "ledger.json"
"""Name of the mark in a cache's folder."""
SOURCE_MARK = ".hemofed-ledger.json"
"""Name of the mark in the folder of the images, or of the CSV that names them, and in each folder
that holds some of them."""


def source_folder(source: Path) -> Path:
    """The folder of a source: the source itself, or the folder of a CSV.

    >>> source_folder(Path("cells/list.csv")).name, source_folder(Path("cells")).name
    ('cells', 'cells')
    """
    return source.parent if source.suffix.lower() == ".csv" else source


def keep_mark(old: Path, new: Path) -> None:
    """Copy the mark of the cache in `old` to the one in `new` that replaces it.

    This holds whatever the new cache is made of: otherwise cells could lose their mark to others,
    and be indexed again without one.
    """
    mark = old / CACHE_MARK
    if mark.is_file():
        shutil.copyfile(mark, new / CACHE_MARK)


def image_folders(source: Path, names: list[str]) -> list[Path]:
    """The source's folder, each folder that holds an image of it, and the folder around that one.

    names: the images' paths relative to the source's folder, with forward slashes.
    """
    base = source_folder(source)
    holding = holding_folders(base, names)
    return list(dict.fromkeys((base, *holding, *sorted({f.parent for f in holding}))))


def holding_folders(base: Path, names: list[str]) -> list[Path]:
    """The folders that hold the images of these names, relative to `base`."""
    return sorted({Path(os.path.normpath(base / name)).parent for name in names})
