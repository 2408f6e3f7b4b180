"""Where cells say which privacy ledger is theirs; `client.ledger.data_mark` writes and reads it."""

import os
import shutil
from pathlib import Path

CACHE_MARK = "ledger.json"
"""In a cache's folder."""
SOURCE_MARK = ".hemofed-ledger.json"
"""In the folder of the images, or of the CSV that names them, and in each that holds some."""


def source_folder(source: Path) -> Path:
    """The folder of a source, which is one, or a CSV in it."""
    return source.parent if source.suffix.lower() == ".csv" else source


def keep_mark(old: Path, new: Path) -> None:
    """Have the cache that is made in `new` bear the mark of the one in `old` that it replaces.

    Whatever it is made of: else cells would lose their mark to others, and come back without one.
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
