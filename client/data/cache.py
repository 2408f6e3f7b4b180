"""Makes a cache from an index: decodes each image once, and leaves a whole cache or nothing."""

import csv
import errno
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from client.data.build_folder import publish, workshop
from client.data.decoding.array import Progress, write_images
from client.data.decoding.chunk import Geometry
from client.data.index import Index, scan
from client.data.marks import keep_mark
from client.data.store import COLUMNS, FORMAT, IMAGES, META, ROWS, CellCache
from common.errors import ConfigError, DataError
from common.field_of_view import FIELD_UM

__all__ = [
    "CellCache",
    "Geometry",
    "Progress",
    "build",
    "content_key",
    "default_root",
    "keep",
    "prepare",
]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def prepare(
    source: Path,
    side: int,
    *,
    label_map: Mapping[str, str] | None = None,
    um_per_px: float | None = None,
    field_um: float = FIELD_UM,
    cache_root: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """The folder of the cache of `source`, made anew if files, labels or geometry have changed.

    It is `cache_root`/<key>; the root is HEMOFED_CACHE or ~/.cache/hemofed when not given. `side`
    is in pixels, `um_per_px` in micrometres per pixel, and `field_um` in micrometres. Raises
    DataError like `scan` and `build`.
    """
    geometry = Geometry(side=side, um_per_px=um_per_px, field_um=field_um)
    return keep(scan(source, label_map), geometry, cache_root, progress)


def keep(
    index: Index,
    geometry: Geometry,
    cache_root: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """`prepare` for a source that is scanned already."""
    key = content_key(index, geometry)
    return _make(index, geometry, key, (cache_root or default_root()) / key, None, progress)


def default_root() -> Path:
    """Where caches lie unless another folder is given: HEMOFED_CACHE or ~/.cache/hemofed.

    Raises ConfigError when the user has no home folder, as in some containers.
    """
    given = os.environ.get("HEMOFED_CACHE")
    try:
        return Path(given) if given else Path.home() / ".cache" / "hemofed"
    except RuntimeError as error:
        raise ConfigError(
            f"this user ({os.getuid()}) has no home folder to keep caches in: HOME is not set, and "
            "the system does not know the user; set HEMOFED_CACHE to a folder"
        ) from error


def content_key(index: Index, geometry: Geometry) -> str:
    """Names a cache: changes when a file, a label, a patient, a split or the geometry does.

    A file counts as unchanged when its size, its modification time and its change time are the
    same; the system itself sets the last, so a file that was overwritten cannot keep it. Raises
    DataError for a file that cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{FORMAT}|{geometry}|{index.source.resolve()}\n".encode())
    for row in index.rows:
        try:
            status = row.path.stat()
        except OSError as error:
            raise DataError(f"{row.path}: cannot be read ({error.strerror})") from error
        times = status.st_mtime_ns, status.st_ctime_ns
        content = (row.name, status.st_size, *times, row.label, row.patient, row.split)
        digest.update(json.dumps(content).encode())
    return digest.hexdigest()


def build(
    index: Index,
    folder: Path,
    side: int,
    um_per_px: float | None = None,
    field_um: float = FIELD_UM,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Decode every image of `index` into a cache at `folder`, which appears whole or not at all.

    An existing cache is kept when it has the same content, else replaced. `workers` (None: one for
    each core, up to 8) affect speed alone; memory does not grow with the number of images. Raises
    DataError for an image that cannot be read, a full disk, or a folder that is in the way.
    """
    geometry = Geometry(side=side, um_per_px=um_per_px, field_um=field_um)
    return _make(index, geometry, content_key(index, geometry), folder, workers, progress)


def _make(
    index: Index,
    geometry: Geometry,
    key: str,
    folder: Path,
    workers: int | None,
    progress: Progress | None,
) -> Path:
    _refuse_foreign(folder)
    sources = [row.path for row in index.rows]
    try:
        with workshop(folder) as temporary:
            if _holds(folder) == key:
                return folder
            pixels = write_images(temporary / IMAGES, sources, geometry, workers, progress)
            _write_rows(temporary / ROWS, index)
            _write_meta(temporary / META, index, geometry, key, pixels)
            keep_mark(folder, temporary)
            publish(temporary, folder)
    except OSError as error:
        raise DataError(_unwritten(folder, len(sources) * geometry.side**2 * 3, error)) from error
    return folder


def _holds(folder: Path) -> str | None:
    """The content key of the cache at `folder`; None where no cache can be opened there."""
    try:
        return str(CellCache.open(folder).meta["key"])
    except (DataError, KeyError):
        return None


def _refuse_foreign(folder: Path) -> None:
    if folder.exists() and not (folder / META).is_file() and any(folder.iterdir()):
        raise DataError(f"{folder}: holds something else than a cell cache; name another folder")


def _unwritten(folder: Path, size: int, error: OSError) -> str:
    if error.errno not in _FULL:
        return f"{folder}: cannot be written ({error.strerror or error})"
    return (
        f"{folder}: the disk is full ({error.strerror}); the cache needs {size / 1e6:,.0f} MB. "
        "Nothing was left behind. Make room, or set HEMOFED_CACHE to a larger disk"
    )


def _write_rows(path: Path, index: Index) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows((row.name, row.label, row.patient, row.split) for row in index.rows)


def _write_meta(path: Path, index: Index, geometry: Geometry, key: str, pixels: str) -> None:
    rows = [(row.label, row.patient, row.split) for row in index.rows]
    content = json.dumps([pixels, geometry.side, rows]).encode()
    meta = {
        "format": FORMAT,
        "key": key,
        "fingerprint": hashlib.blake2b(content, digest_size=16).hexdigest(),
        "source": str(index.source.resolve()),
        **asdict(geometry),
        "count": len(rows),
        "counts": index.counts(),
        "skipped": dict(index.skipped),
    }
    path.write_text(json.dumps(meta, indent=2), encoding="utf-8")
