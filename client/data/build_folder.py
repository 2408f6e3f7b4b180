"""Makes folders that are either whole or not there, in one process at a time."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common.files import sync

_LOCK = "lock"


@contextmanager
def workshop(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder` to make its content in, which this process alone holds.

    A second process waits here until the first is done. What a killed process left is removed
    first. When the block ends, what `publish` has not moved to its place is removed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.building")
    handle = _locked(temporary)
    try:
        _clear(temporary)
        yield temporary
    finally:
        if _is(handle, temporary / _LOCK):
            _clear(temporary)
            (temporary / _LOCK).unlink()
            # A process that came in since the unlink has a lock of its own in it, and keeps it.
            with suppress(OSError):
                temporary.rmdir()
        os.close(handle)


def publish(temporary: Path, folder: Path) -> None:
    """Move a workshop's content to `folder`, durably; it replaces what is there."""
    for path in (*temporary.iterdir(), temporary):
        sync(path)
    aside = folder.with_name(f".{folder.name}.replaced")
    shutil.rmtree(aside, ignore_errors=True)
    if folder.exists():
        folder.rename(aside)
    # The lock goes with it: were it removed first, another process could take the folder over.
    temporary.rename(folder)
    (folder / _LOCK).unlink()
    sync(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _clear(temporary: Path) -> None:
    for left in temporary.iterdir():
        if left.name != _LOCK:
            left.unlink()


def _locked(temporary: Path) -> int:
    """Make `temporary` and take its lock; try again if the last holder moved it away meanwhile."""
    while True:
        # Not exist_ok=True: that fails when another process removes it in between.
        with suppress(FileExistsError):
            temporary.mkdir()
        try:
            handle = os.open(temporary / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            continue
        fcntl.flock(handle, fcntl.LOCK_EX)
        if _is(handle, temporary / _LOCK):
            return handle
        os.close(handle)


def _is(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
