"""Images that are there twice: as the same bytes, or as the same picture."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from client.data.listing import ListedImage
from client.data.quality.findings import Finding, Instance, Severity
from client.data.quality.measurements import Measured, Records
from client.data.quality.perceptual_hash import THUMBNAIL, Pairs, near_pairs, neighbours, turn
from common.text import count

DISTANCE = 6
"""Bits of 64. Saving again as JPEG, resizing and brightening move at most 4."""
LIKENESS = 0.98
"""Correlation of the 16 x 16 colour thumbnails; other cells that hash alike stay below."""
PLAIN = 2.0
"""A thumbnail whose grey levels vary less shows nothing that could be compared."""
STAND_IN = 8
"""Pictures of a group that stand in for all of it: only its first ones are compared further."""
TRIES = 64
"""A picture that is unlike so many others of near hash is compared with no more by its own: where
all pictures of a lab hash alike, the hash says nothing. Of real cells hardly one has any."""
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
    rows = measured.readable
    digests = measured.records["digest"][rows]
    order = np.lexsort(digests.T)
    again = (digests[order[1:]] == digests[order[:-1]]).all(axis=1)
    runs = np.split(rows[order], np.flatnonzero(~again) + 1)
    return tuple(sorted(tuple(run.tolist()) for run in runs if len(run) > 1))


def same_picture(measured: Measured, exact: Sequence[Group]) -> Likeness:
    """Rows with the same picture in another file: saved again, resized, mirrored or rotated.

    Of the `exact` groups, with the same bytes, only the first takes part. Time and memory are
    linear in the rows, for which not all are compared where many hash alike (`STAND_IN`, `TRIES`,
    and the crowd of `near_pairs`).
    """
    rows = np.setdiff1d(measured.readable, [row for group in exact for row in group[1:]])
    rows = rows[~plain(measured.records, rows)]
    hashes = measured.records["hashes"][rows]
    search = _Search(measured.records["thumbnail"], rows)
    for pairs in neighbours(hashes[:, 0], DISTANCE):
        search.join(pairs, 0)
    few = search.groups.stand_ins()
    turned: set[int] = set()
    for orientation in range(8):
        for left, right in near_pairs(hashes[few, orientation], hashes[few, 0], DISTANCE):
            added = search.join((few[left], few[right]), orientation)
            turned.update(rows[added].tolist() if orientation else ())
    groups = (tuple(rows[list(group)].tolist()) for group in search.groups.all())
    return Likeness(tuple(groups), frozenset(turned))


def plain(records: Records, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the rows show nothing: an even field."""
    found = np.zeros(len(rows), dtype=bool)
    for start in range(0, len(rows), _BLOCK):
        block = records["thumbnail"][rows[start : start + _BLOCK]].astype(np.float32)
        found[start : start + _BLOCK] = block.std(axis=(1, 2)).max(axis=1) < PLAIN
    return found


def findings(entries: Sequence[ListedImage], measured: Measured) -> list[Finding]:
    """Duplicates, sorted by what they spoil: labels, then splits, then counts."""
    exact = same_bytes(measured)
    alike = same_picture(measured, exact)
    found = [
        *by_consequence(entries, exact, frozenset(), "duplicate", "file", Severity.FAILURE),
        *by_consequence(
            entries, alike.groups, alike.turned, "near-duplicate", "picture", Severity.WARNING
        ),
    ]
    return found


def by_consequence(
    entries: Sequence[ListedImage],
    groups: Iterable[Group],
    turned: frozenset[int],
    code: str,
    what: str,
    two_labels: Severity,
) -> list[Finding]:
    """Findings on groups of like rows; `what` they share, `two_labels` how bad two labels are."""
    conflicts: list[Instance] = []
    leaks: list[Instance] = []
    others: list[Instance] = []
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


def _case(entries: Sequence[ListedImage], group: Group, turned: frozenset[int]) -> Instance:
    labels = Counter(entries[row].label for row in group)
    splits = Counter(entries[row].split for row in group if entries[row].split)
    notes = []
    if len(labels) > 1:
        notes.append("labels: " + ", ".join(sorted(labels)))
    if len(splits) > 1:
        notes.append("splits: " + ", ".join(sorted(splits)))
    if turned.intersection(group):
        notes.append("mirrored or rotated")
    return Instance(files=tuple(entries[row].name for row in group), note="; ".join(notes))


def _unit(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, D) rows of mean 0 and length 1, whose products are correlations."""
    flat = thumbnails.reshape(-1, 3 * THUMBNAIL**2).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.asarray(flat / np.maximum(length, 1e-6), dtype=np.float32)


class _Search:
    """Joins pictures whose hashes are near into groups, where their thumbnails are alike too."""

    def __init__(self, thumbnails: NDArray[np.uint8], rows: NDArray[np.int64]) -> None:
        """thumbnails: of all images. rows: those that take part, in whose order they are numbered
        here."""
        self._thumbnails, self._rows = thumbnails, rows
        self._unlike = np.zeros(len(rows), dtype=np.int64)
        self.groups = _Groups(len(rows))

    def join(self, pairs: Pairs, orientation: int) -> list[int]:
        """Join the pairs that are alike, in that orientation of the first; those of the second
        that came to another group by it."""
        added = []
        for start in range(0, len(pairs[0]), _BLOCK):
            left, right = self._worth(*(side[start : start + _BLOCK] for side in pairs))
            alike = self._alike(left, right, orientation)
            np.add.at(self._unlike, left[~alike], 1)
            left, right = left[alike], right[alike]
            added += right[self.groups.join(left, right)].tolist()
        return added

    def _worth(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> Pairs:
        """The pairs that are not in one group yet, up to the `TRIES` of the first."""
        apart = self.groups.roots(left) != self.groups.roots(right)
        left, right = left[apart], right[apart]
        order = np.argsort(left, kind="stable")
        left, right = left[order], right[order]
        before = np.arange(len(left)) - np.searchsorted(left, left)
        few = self._unlike[left] + before < TRIES
        return left[few], right[few]

    def _alike(
        self, left: NDArray[np.int64], right: NDArray[np.int64], orientation: int
    ) -> NDArray[np.bool_]:
        turned = _unit(turn(self._thumbnails[self._rows[left]], orientation))
        here = _unit(self._thumbnails[self._rows[right]])
        return np.asarray(np.einsum("nd,nd->n", turned, here) >= LIKENESS)


class _Groups:
    """Sets of the numbers below `count` that have been joined."""

    def __init__(self, count: int) -> None:
        self._first = np.arange(count)
        """The least number of each one's set."""

    def roots(self, members: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first of each one's set."""
        return np.asarray(self._first[members])

    def join(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Put each pair into one set; which of them were in two."""
        ends = np.stack([self._first[left], self._first[right]])
        apart = np.asarray(ends[0] != ends[1])
        sets, linked = np.unique(ends[:, apart], return_inverse=True)
        one, other = linked.reshape(2, -1)
        links = coo_array((np.ones(len(one)), (one, other)), shape=(len(sets), len(sets)))
        _, component = connected_components(links, directed=False)
        # `sets` ascends, so the first of a component is its least.
        _, least = np.unique(component, return_index=True)
        becomes = np.arange(len(self._first))
        becomes[sets] = sets[least][component]
        self._first = becomes[self._first]
        return apart

    def all(self) -> tuple[Group, ...]:
        """The sets of two and more, each in order."""
        members: dict[int, list[int]] = defaultdict(list)
        for member, root in enumerate(self._first.tolist()):
            members[root].append(member)
        return tuple(tuple(found) for found in members.values() if len(found) > 1)

    def stand_ins(self) -> NDArray[np.int64]:
        """The numbers of no set, and the first `STAND_IN` of each."""
        order = np.argsort(self._first, kind="stable")
        ranked = self._first[order]
        before = np.arange(len(order)) - np.searchsorted(ranked, ranked)
        return np.sort(order[before < STAND_IN])
