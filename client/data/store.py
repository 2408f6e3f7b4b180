"""An index's images decoded once: a folder with a memory-mapped uint8 array and its rows."""

import csv
import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from common.cell_types import CELL_TYPES, CODES
from common.errors import DataError, because_of
from common.wire.reasons import Reason

FORMAT = 2
"""Version of the cache's files, and of the rules by which a picture becomes pixels."""
IMAGES = "images.npy"
ROWS = "rows.csv"
META = "meta.json"
COLUMNS = ("source", "label", "patient", "split")

Texts = NDArray[np.str_]


@dataclass(frozen=True, eq=False, kw_only=True)
class CellCache:
    """The cells of one source, or a selection of them; arrays share the order of the rows."""

    folder: Path
    meta: dict[str, Any]
    labels: NDArray[np.int64]
    """(N,) positions in `CELL_TYPES`."""
    patients: Texts
    """(N,); "" where the patient is not known."""
    splits: Texts
    """(N,) "train", "validation", "test", or "" where the source gives none."""
    sources: Texts
    """(N,) path of each image, relative to the source."""
    fingerprint: str
    """Hex digest of the pixels, labels, patients and splits, in order; not of the file names."""
    _store: NDArray[np.uint8]
    _rows: NDArray[np.int64] | None = None

    @classmethod
    @because_of(Reason.NO_CELLS)
    def open(cls, folder: Path) -> Self:
        """Map the cache in `folder`: this reads the rows; pixels are read as they are used.

        Raises DataError when the folder is not a cache, is not whole, or has another format.
        """
        meta = _read_meta(folder)
        columns = _read_rows(folder, meta["count"])
        unknown = set(columns["label"]) - CODES.keys()
        if unknown:
            raise DataError(
                f"{folder / ROWS}: unknown label {min(unknown)!r}; index the source again"
            )
        return cls(
            folder=folder,
            meta=meta,
            labels=np.array([CODES[name] for name in columns["label"]], dtype=np.int64),
            patients=np.array(columns["patient"], dtype=np.str_),
            splits=np.array(columns["split"], dtype=np.str_),
            sources=np.array(columns["source"], dtype=np.str_),
            fingerprint=meta["fingerprint"],
            _store=_map_images(folder, meta),
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def side(self) -> int:
        """Side of the images, in pixels."""
        return int(self.meta["side"])

    @property
    def rows(self) -> NDArray[np.int64]:
        """(N,) each cell's row in the folder's cache."""
        return np.arange(len(self)) if self._rows is None else self._rows

    @property
    def images(self) -> NDArray[np.uint8]:
        """uint8 (N, side, side, 3), read-only: the map itself; for a selection a copy in memory."""
        return self._store if self._rows is None else self._store[self._rows]

    def take(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        """uint8 (len(rows), side, side, 3): a copy of these rows; no others are read."""
        taken: NDArray[np.uint8] = self._store[rows if self._rows is None else self._rows[rows]]
        return np.asarray(taken)

    def line(self, at: int) -> NDArray[np.uint8]:
        """uint8 (N, side, 3): the line of pixels at height `at` of each image; no other is read."""
        return np.asarray(self._store[slice(None) if self._rows is None else self._rows, at])

    def select(self, rows: NDArray[np.integer[Any]]) -> Self:
        """A cache of these rows, in this order; no pixel is read. Raises DataError for rows that do
        not exist."""
        chosen = np.asarray(rows, dtype=np.int64)
        if chosen.ndim != 1 or (chosen.size and not 0 <= chosen.min() <= chosen.max() < len(self)):
            raise DataError(f"rows must be one list of numbers from 0 to {len(self) - 1}")
        digest = hashlib.blake2b(self.fingerprint.encode(), digest_size=16)
        digest.update(chosen.tobytes())
        return replace(
            self,
            labels=self.labels[chosen],
            patients=self.patients[chosen],
            splits=self.splits[chosen],
            sources=self.sources[chosen],
            fingerprint=digest.hexdigest(),
            _rows=chosen if self._rows is None else self._rows[chosen],
        )

    @cached_property
    def counts(self) -> dict[str, int]:
        """Cell type -> number of images, in the order of `CELL_TYPES`, those of 0 left out."""
        found = np.bincount(self.labels, minlength=len(CELL_TYPES))
        return {
            cell.name: int(number) for cell, number in zip(CELL_TYPES, found, strict=True) if number
        }


def _read_meta(folder: Path) -> dict[str, Any]:
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
    except OSError:
        raise DataError(
            f"{folder}: is not a cell cache; make one with `hemofed data index SOURCE`, and put "
            "the folder that it prints into site.yaml"
        ) from None
    except ValueError as error:
        raise DataError(f"{folder / META}: damaged ({error}); index the source again") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise DataError(f"{folder}: is not of cache format {FORMAT}; index the source again")
    return meta


def _read_rows(folder: Path, count: int) -> dict[str, list[str]]:
    try:
        with (folder / ROWS).open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{folder / ROWS}: damaged ({error}); index the source again") from error
    wrong = any(len(row) != len(COLUMNS) for row in rows)
    if wrong or len(rows) != count + 1 or tuple(rows[0]) != COLUMNS:
        raise DataError(f"{folder / ROWS}: expected {count} rows of {COLUMNS}; index again")
    return {name: [row[at] for row in rows[1:]] for at, name in enumerate(COLUMNS)}


def _map_images(folder: Path, meta: dict[str, Any]) -> NDArray[np.uint8]:
    try:
        images: NDArray[np.uint8] = np.lib.format.open_memmap(folder / IMAGES, "r")
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / IMAGES}: damaged ({error}); index the source again") from error
    expected = (meta["count"], meta["side"], meta["side"], 3)
    if images.shape != expected or images.dtype != np.uint8:
        raise DataError(f"{folder / IMAGES}: is {images.shape}, expected {expected}; index again")
    return images
