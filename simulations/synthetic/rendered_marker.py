"""The mark of rendered cells: no report may call them real."""

from pathlib import Path

VERSION = 1
"""The drawing's version: pictures of the same seed may differ between versions."""

RECORD = "RENDERED.json"


def is_rendered(folder: Path) -> bool:
    """Whether `folder` was written by `synthesize`: all of it, or one lab, wherever it lies now."""
    return (folder / RECORD).is_file()
