"""The files in a lab's folders, and which of them are passed over."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from client.data.marks import SOURCE_MARK
from common.errors import DataError

TABLE = "cells.csv"
"""A folder with this file is read through it."""


def visible(folder: Path, skipped: Counter[str]) -> Iterator["os.DirEntry[str]"]:
    """The entries of `folder`, sorted by name, without hidden files and what macOS leaves there.

    Counts in `skipped` what is passed over, by reason. Raises DataError when the folder cannot be
    read, or a name in it is not UTF-8.
    """
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from error
    for entry in found:
        if entry.name == "__MACOSX":
            skipped["__MACOSX"] += sum(len(files) for _, _, files in os.walk(entry.path))
        elif entry.name == SOURCE_MARK:
            continue
        elif entry.name.startswith("."):
            skipped["hidden"] += 1
        else:
            _require_utf8(entry)
            yield entry


def is_folder(entry: "os.DirEntry[str]") -> bool:
    """Whether the entry is a folder. Raises DataError for a link that leads back to itself."""
    try:
        return entry.is_dir()
    except OSError as error:
        raise DataError(
            f"{entry.path}: cannot be followed ({error.strerror}); remove it"
        ) from error


def _require_utf8(entry: "os.DirEntry[str]") -> None:
    try:
        entry.path.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{os.fsencode(entry.path)!r}: the name is not UTF-8, as one from an old archive; "
            "rename it"
        ) from None
