"""Images that are there twice: as the same bytes, or as the same picture."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.data.listing import Entry
from common.data.quality.findings import Case, Finding, Severity
from common.data.quality.hashing import THUMBNAIL, near_pairs, turn
from common.data.quality.measure import Measured, Records
from common.words import count

DISTANCE = 6
"""Bits of 64. Saving again as JPEG, resizing and brightening move at most 4."""
LIKENESS = 0.98
"""Correlation of the 16 x 16 colour thumbnails; other cells that hash alike stay below."""
PLAIN = 2.0
"""A thumbnail whose grey levels vary less shows nothing that could be compared."""
_BLOCK = 4096

Group = tuple[int, ...]
"""Rows that show the same picture."""


@dataclass(frozen=True)
class Likeness:
    """Groups of like pictures; `turned` are the rows that match only mirrored or rotated."""

    groups: tuple[Group, ...]
    turned: frozenset[int]


def same_bytes(measured: Measured) -> tuple[Group, ...]:
    """Rows with the same file content."""
    members: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row in measured.readable:
        first, second = measured.records["digest"][row]
        members[int(first), int(second)].append(int(row))
    return tuple(tuple(rows) for rows in members.values() if len(rows) > 1)


def same_picture(measured: Measured) -> Likeness:
    """Rows with the same picture in another file: saved again, resized, mirrored or rotated.

    Of files with the same bytes only the first takes part.
    """
    again = {row for group in same_bytes(measured) for row in group[1:]}
    rows = np.array([r for r in measured.readable if r not in again], dtype=np.int64)
    rows = rows[~plain(measured.records[rows])]
    records = measured.records[rows]
    joined = _Groups()
    turned: set[int] = set()
    vectors = _unit(records["thumbnail"])
    for orientation in range(8):
        seen: set[tuple[int, int]] = set()
        for left, right in near_pairs(
            records["hashes"][:, orientation], records["hashes"][:, 0], DISTANCE
        ):
            for i, j in _verified(records, vectors, orientation, left, right):
                if (i, j) not in seen and joined.join(int(rows[i]), int(rows[j])) and orientation:
                    turned.add(int(rows[j]))
                seen.add((i, j))
    return Likeness(joined.all(), frozenset(turned))


def plain(records: Records) -> NDArray[np.bool_]:
    """Which rows show nothing: an even field."""
    spread = records["thumbnail"].astype(np.float32).std(axis=(1, 2))
    return np.asarray(spread.max(axis=1) < PLAIN)


def findings(entries: Sequence[Entry], measured: Measured) -> list[Finding]:
    """Duplicates, sorted by what they spoil: labels, then splits, then counts."""
    exact = same_bytes(measured)
    alike = same_picture(measured)
    found = [
        *by_consequence(entries, exact, frozenset(), "duplicate", "file", Severity.FAILURE),
        *by_consequence(
            entries, alike.groups, alike.turned, "near-duplicate", "picture", Severity.WARNING
        ),
    ]
    return found


def by_consequence(
    entries: Sequence[Entry],
    groups: Iterable[Group],
    turned: frozenset[int],
    code: str,
    what: str,
    two_labels: Severity,
) -> list[Finding]:
    """Findings on groups of like rows; `what` they share, `two_labels` how bad two labels are."""
    conflicts: list[Case] = []
    leaks: list[Case] = []
    others: list[Case] = []
    for group in groups:
        if len({entries[row].label for row in group}) > 1:
            conflicts.append(_case(entries, group, turned))
        elif len({entries[row].split for row in group} - {""}) > 1:
            leaks.append(_case(entries, group, turned))
        else:
            others.append(_case(entries, group, turned))
    makes = (
        (
            two_labels,
            f"{code}-two-labels",
            conflicts,
            f"{count(len(conflicts), what)} under two labels",
            "Ask who labelled them which is right, and keep one; training on both teaches noise.",
        ),
        (
            Severity.FAILURE,
            f"{code}-across-splits",
            leaks,
            f"{count(len(leaks), what)} in two splits",
            "Keep them in one split: a test on training cells flatters the model.",
        ),
        (
            Severity.WARNING,
            code,
            others,
            f"{count(len(others), what)} there more than once",
            "Keep one of each: copies count double, and differential privacy protects one copy, "
            "not all of them.",
        ),
    )
    return [
        Finding(
            severity=severity,
            code=name,
            what=text,
            advice=advice,
            cases=tuple(cases),
            # Of two labels nobody but a person knows the right one; of copies the first stays.
            leave_out=tuple(
                name for case in cases for name in case.files[0 if cases is conflicts else 1 :]
            ),
        )
        for severity, name, cases, text, advice in makes
        if cases
    ]


def _case(entries: Sequence[Entry], group: Group, turned: frozenset[int]) -> Case:
    labels = Counter(entries[row].label for row in group)
    splits = Counter(entries[row].split for row in group if entries[row].split)
    notes = []
    if len(labels) > 1:
        notes.append("labels: " + ", ".join(sorted(labels)))
    if len(splits) > 1:
        notes.append("splits: " + ", ".join(sorted(splits)))
    if turned.intersection(group):
        notes.append("mirrored or rotated")
    return Case(files=tuple(entries[row].name for row in group), note="; ".join(notes))


def _unit(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, D) rows of mean 0 and length 1, whose products are correlations."""
    flat = thumbnails.reshape(-1, 3 * THUMBNAIL**2).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.asarray(flat / np.maximum(length, 1e-6), dtype=np.float32)


def _verified(
    records: Records,
    vectors: NDArray[np.float32],
    orientation: int,
    left: NDArray[np.int64],
    right: NDArray[np.int64],
) -> Iterable[tuple[int, int]]:
    """The pairs whose thumbnails are alike too, in that orientation of the first."""
    for start in range(0, len(left), _BLOCK):
        i, j = left[start : start + _BLOCK], right[start : start + _BLOCK]
        turned = _unit(turn(records["thumbnail"][i], orientation)) if orientation else vectors[i]
        alike = (turned * vectors[j]).sum(axis=1) >= LIKENESS
        yield from zip(i[alike].tolist(), j[alike].tolist(), strict=True)


class _Groups:
    """Sets of rows that have been joined (union-find)."""

    def __init__(self) -> None:
        self._parent: dict[int, int] = {}

    def _root(self, row: int) -> int:
        parent = self._parent.setdefault(row, row)
        while parent != self._parent[parent]:
            self._parent[parent] = self._parent[self._parent[parent]]
            parent = self._parent[parent]
        return parent

    def join(self, one: int, other: int) -> bool:
        """Put both into one group; whether they were in two."""
        first, second = sorted((self._root(one), self._root(other)))
        self._parent[second] = first
        return first != second

    def all(self) -> tuple[Group, ...]:
        members: dict[int, list[int]] = defaultdict(list)
        for row in sorted(self._parent):
            members[self._root(row)].append(row)
        return tuple(tuple(rows) for rows in members.values())
