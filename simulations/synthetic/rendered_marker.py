"""The mark of rendered cells, so that no report calls them real."""

from pathlib import Path

VERSION = 1
"""The version of the renderer: pictures of the same seed may differ between versions."""

RECORD = "RENDERED.json"
"""The file that marks a folder of rendered cells."""


def is_rendered(folder: Path) -> bool:
    """Return whether `synthesize` wrote the folder: its whole output or one site, even if moved."""
    return (folder / RECORD).is_file()
