"""Folders that are either whole or not there."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import ConfigError
from common.files import make_folder, sync


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A private (0700) folder beside `path`, renamed to it when the block ends well.

    Raises ConfigError when `path` cannot be made there, or exists and is not an empty folder; it
    is left alone then.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ConfigError(f"{path}: exists already, and nothing in it is replaced")
    try:
        make_folder(path.parent)
        beside = tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be made ({error.strerror})") from error
    with beside as around:
        draft = Path(around) / path.name
        draft.mkdir(mode=0o700)
        yield draft
        draft.replace(path)
        sync(path.parent)
