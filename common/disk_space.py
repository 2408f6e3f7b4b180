"""Room on a disk: work that could not be written to its end is not begun."""

import shutil
from pathlib import Path

from common.errors import FederationError

LEAST = 64 * 2**20
"""Bytes for what a service writes beside models: databases, logs, status."""


class NoRoomError(FederationError):
    """A disk is too full for what is next."""


def lack_of_room(folder: Path, needed: int = LEAST) -> str | None:
    """What is lacking on the disk that `folder` is on; None when `needed` bytes are free."""
    free = shutil.disk_usage(folder).free
    if free >= needed:
        return None
    return (
        f"{folder}: {free / 2**20:,.0f} MiB are free on its disk, {needed / 2**20:,.0f} MiB are "
        "needed; make room there"
    )


def check_room(folder: Path, needed: int = LEAST) -> None:
    """Raise NoRoomError unless `needed` bytes are free on the disk that `folder` is on."""
    lack = lack_of_room(folder, needed)
    if lack:
        raise NoRoomError(lack)
