"""A disk that is full as far as anybody asks: no mount, no right to make one, nothing written."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

_Usage = namedtuple("_Usage", "total used free")


def fill(patch: pytest.MonkeyPatch, free: int = 0) -> None:
    """From here on every disk says that it has `free` bytes left."""

    def usage(_: Path) -> _Usage:
        return _Usage(2**40, 2**40 - free, free)

    patch.setattr(shutil, "disk_usage", usage)
