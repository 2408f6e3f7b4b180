"""index -> cached array: decodes each image once, and leaves a whole cache or nothing."""

import csv
import errno
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from common.data.decode import quiet, read_rgb, square
from common.data.folder import publish, workshop
from common.data.index import Index, Row, scan
from common.data.store import COLUMNS, FORMAT, IMAGES, META, ROWS, CellCache
from common.errors import DataError

__all__ = ["CellCache", "Geometry", "Progress", "build", "content_key", "default_root", "prepare"]

Progress = Callable[[int, int], None]
"""Called with the images done and the images in all."""

_CHUNK = 64
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """How an image becomes a square of `side` pixels.

    Without `um_per_px` the whole image does. With it, the centred `field_um` x `field_um` does,
    so that cells of all microscopes come at one scale (MLL23: 25 um).
    """

    side: int
    um_per_px: float | None = None
    field_um: float = 25.0

    def __post_init__(self) -> None:
        if not 1 <= self.side <= 4096:
            raise DataError(f"side is {self.side}; expected 1 to 4096 pixels")
        if self.um_per_px is not None and not 1e-3 <= self.um_per_px <= 100:
            raise DataError(f"um_per_px is {self.um_per_px}; expected 0.001 to 100 um")
        if not 0.1 <= self.field_um <= 1e4:
            raise DataError(f"field_um is {self.field_um}; expected 0.1 to 10000 um")

    def read(self, path: Path) -> bytes:
        """The pixels of the square, row by row, RGB. Raises DataError: it cannot be read."""
        if self.um_per_px is None:
            return square(read_rgb(path, draft=self.side), self.side).tobytes()
        image, field_px = read_rgb(path), self.field_um / self.um_per_px
        if not max(image.size) / 256 <= field_px <= max(image.size) * 16:
            raise DataError(
                f"{path}: at um_per_px {self.um_per_px:g} its {image.width} x {image.height} px "
                f"span {max(image.size) * self.um_per_px:.3g} um, against a field of "
                f"{self.field_um:g} um; is um_per_px right?"
            )
        return square(image, self.side, field_px).tobytes()


def prepare(
    source: Path,
    side: int,
    *,
    label_map: Mapping[str, str] | None = None,
    um_per_px: float | None = None,
    cache_root: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """The cache of `source`, made if its files, labels or geometry changed since the last time.

    It lies in `cache_root`/<key>; the root is HEMOFED_CACHE or ~/.cache/hemofed when not given.
    """
    index = scan(source, label_map)
    geometry = Geometry(side=side, um_per_px=um_per_px)
    folder = (cache_root or default_root()) / content_key(index, geometry)
    return build(index, folder, side, um_per_px, progress=progress)


def default_root() -> Path:
    """Where caches lie when nothing else is said."""
    given = os.environ.get("HEMOFED_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "hemofed"


def content_key(index: Index, geometry: Geometry) -> str:
    """Names a cache: changes when a file, a label, a patient, a split or the geometry does."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{FORMAT}|{geometry}|{index.source.resolve()}\n".encode())
    for row in index.rows:
        try:
            status = row.path.stat()
        except OSError as error:
            raise DataError(f"{row.path}: cannot be read ({error.strerror})") from error
        content = (row.name, status.st_size, status.st_mtime_ns, row.label, row.patient, row.split)
        digest.update(json.dumps(content).encode())
    return digest.hexdigest()


def build(
    index: Index,
    folder: Path,
    side: int,
    um_per_px: float | None = None,
    field_um: float = 25.0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Decode every image of `index` into a cache at `folder`, which appears whole or not at all.

    `workers` threads (None: one a core, up to 8; Pillow lets go of the interpreter while it
    decodes and resizes) change the speed and nothing else. Memory does not grow with the number of
    images. Raises DataError: an image that cannot be read, a full disk, a folder in the way.
    """
    geometry = Geometry(side=side, um_per_px=um_per_px, field_um=field_um)
    key = content_key(index, geometry)
    _refuse_foreign(folder)
    try:
        with workshop(folder) as temporary:
            if _holds(folder) == key:
                return folder
            pixels = _write_images(temporary / IMAGES, index, geometry, workers, progress)
            _write_rows(temporary / ROWS, index)
            _write_meta(temporary / META, index, geometry, key, pixels)
            publish(temporary, folder)
    except OSError as error:
        raise DataError(_unwritten(folder, len(index.rows) * side * side * 3, error)) from error
    return folder


def _holds(folder: Path) -> str | None:
    """The content key of the cache at `folder`; None where there is none that can be opened."""
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


def _write_images(
    path: Path, index: Index, geometry: Geometry, workers: int | None, progress: Progress | None
) -> str:
    """Write the .npy; the digest of its pixels, which does not depend on `workers`."""
    digest = hashlib.blake2b(digest_size=16)
    total = len(index.rows)
    with path.open("wb") as file:
        start = _reserve(file, total, geometry.side)
        chunks = [(at, index.rows[at : at + _CHUNK]) for at in range(0, total, _CHUNK)]
        work = partial(_write_chunk, file.fileno(), start, geometry)
        with quiet(), _threads(workers) as pool:
            for (at, rows), part in zip(chunks, pool.map(work, chunks), strict=True):
                digest.update(part)
                if progress:
                    progress(at + len(rows), total)
    return digest.hexdigest()


@contextmanager
def _threads(workers: int | None) -> Iterator[ThreadPoolExecutor]:
    """A pool that drops what has not begun as soon as something fails."""
    pool = ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _reserve(file: BinaryIO, count: int, side: int) -> int:
    """Write the .npy's header and take the room for all pixels; where the pixels start.

    A map of a file with holes dies of SIGBUS when the disk fills; room taken first is an error
    that can be told, before any image is decoded.
    """
    shape = (count, side, side, 3)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    file.flush()
    start = file.tell()
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, start + math.prod(shape))
    return start


def _write_chunk(
    handle: int, start: int, geometry: Geometry, chunk: tuple[int, tuple[Row, ...]]
) -> bytes:
    """Decode a run of rows and write it where it belongs; the digest of its pixels."""
    at, rows = chunk
    squares: list[bytes] = []
    faults: list[str] = []
    for row in rows:
        try:
            squares.append(geometry.read(row.path))
        except DataError as error:
            faults.append(str(error))
    if faults:
        raise DataError(
            "\n".join(faults)
            + "\nTo find all such files: hemofed data check SOURCE. Take them out, or mend them"
        )
    pixels = b"".join(squares)
    _write_all(handle, pixels, start + at * geometry.side**2 * 3)
    return hashlib.blake2b(pixels, digest_size=16).digest()


def _write_all(handle: int, content: bytes, at: int) -> None:
    left = memoryview(content)
    while left:
        written = os.pwrite(handle, left, at)
        left, at = left[written:], at + written


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
