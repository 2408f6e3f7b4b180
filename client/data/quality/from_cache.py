"""What is wrong with indexed cells, found in their caches alone: no image file is opened."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from client.data.listing import ListedImage
from client.data.quality.check import patients, types
from client.data.quality.duplicates import Group, by_consequence
from client.data.quality.findings import Finding, Severity
from client.data.store import CellCache
from common.cell_types import CELL_TYPES


def findings(caches: Sequence[CellCache]) -> list[Finding]:
    """Find duplicates, rare types and patients in two splits, over all caches together.

    Duplicates are images with the same cached pixels. Only `check` of the source finds images that
    were saved again, turned or resized, and damaged ones, which are never indexed.
    """
    entries = [entry for cache in caches for entry in _entries(cache)]
    twice = by_consequence(
        entries, same_pixels(caches), frozenset(), "duplicate", "image", Severity.FAILURE
    )
    return [*twice, *patients(entries), *types(entries)]


def same_pixels(caches: Sequence[CellCache]) -> tuple[Group, ...]:
    """Return the groups of two and more rows with the same pixels.

    The rows are numbered from 0 through all caches in order. The function reads the middle line of
    each image, and all of an image only if another image has the same line.
    """
    alike: dict[bytes, list[int]] = defaultdict(list)
    start = 0
    for cache in caches:
        for row, line in enumerate(cache.line(cache.side // 2), start):
            alike[_digest(line)].append(row)
        start += len(cache)
    return tuple(group for rows in alike.values() if len(rows) > 1 for group in _same(caches, rows))


def _same(caches: Sequence[CellCache], rows: Sequence[int]) -> Iterator[Group]:
    """The groups of the same image among `rows`."""
    members: dict[bytes, list[int]] = defaultdict(list)
    ends = np.cumsum([len(cache) for cache in caches])
    for row in rows:
        number = int(np.searchsorted(ends, row, side="right"))
        cache = caches[number]
        members[_digest(cache.take(np.array([row - ends[number] + len(cache)])))].append(row)
    yield from (tuple(group) for group in members.values() if len(group) > 1)


def _digest(pixels: NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(pixels).tobytes(), digest_size=16).digest()


def _entries(cache: CellCache) -> Iterator[ListedImage]:
    labels = np.array([cell.name for cell in CELL_TYPES])[cache.labels]
    columns = (cache.sources, labels, cache.patients, cache.splits)
    for source, label, patient, split in zip(*(column.tolist() for column in columns), strict=True):
        yield ListedImage(
            folder=cache.folder, name=source, label=label, patient=patient, split=split
        )
