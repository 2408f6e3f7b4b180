"""Folders that are either whole or not there."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import ConfigError
from common.files import sync


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A private (0700) folder beside `path`, renamed to it when the block ends well.

    Raises ConfigError when `path` exists and is not an empty folder; it is left alone then.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ConfigError(f"{path}: exists already, and nothing in it is replaced")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as around:
        draft = Path(around) / path.name
        draft.mkdir(mode=0o700)
        yield draft
        draft.replace(path)
        sync(path.parent)
