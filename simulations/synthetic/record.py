"""The mark of rendered cells: no report may call them real."""

from pathlib import Path

VERSION = 1
"""Of the drawing: pictures of the same seed may differ between versions."""

RECORD = "RENDERED.json"


def is_rendered(folder: Path) -> bool:
    """Whether `folder`, or the folder that it lies in, was written by `synthesize`."""
    return (folder / RECORD).is_file() or (folder.parent / RECORD).is_file()
