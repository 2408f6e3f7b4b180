"""Images that a source holds twice: as the same bytes, or as the same picture."""

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
"""Most bits, of 64, in which the hashes of like pictures differ. Saving a picture again as JPEG,
resizing or brightening it changes at most 4."""
LIKENESS = 0.98
"""Least correlation of the 16 x 16 colour thumbnails of like pictures. Different cells with near
hashes stay below."""
PLAIN = 2.0
"""A thumbnail whose levels vary less, as a standard deviation, shows nothing to compare."""
STAND_IN = 8
"""How many pictures represent a group: only the first ones are compared further."""
TRIES = 64
"""After a picture has been unlike so many others with near hashes, its own search ends: where all
pictures of a lab have near hashes, the hash says nothing. Hardly a real cell meets even one."""
_BLOCK = 4096

Group = tuple[int, ...]
"""Rows that show the same picture."""


@dataclass(frozen=True)
class Likeness:
    """Groups of like pictures."""

    groups: tuple[Group, ...]
    turned: frozenset[int]
    """The rows that match another picture of their group only mirrored or rotated."""


def same_bytes(measured: Measured) -> tuple[Group, ...]:
    """Return the groups of two and more readable rows with the same file content."""
    rows = measured.readable
    digests = measured.records["digest"][rows]
    order = np.lexsort(digests.T)
    again = (digests[order[1:]] == digests[order[:-1]]).all(axis=1)
    runs = np.split(rows[order], np.flatnonzero(~again) + 1)
    return tuple(sorted(tuple(run.tolist()) for run in runs if len(run) > 1))


def same_picture(measured: Measured, exact: Sequence[Group]) -> Likeness:
    """Find rows that show the same picture in different files.

    A picture counts as the same after it was saved again, resized, mirrored or rotated. Of each of
    the `exact` groups, which have the same bytes, only the first row takes part; rows that show
    nothing (`plain`) do not. Time and memory are linear in the rows. For this, not all pairs are
    compared where many hashes are near (`STAND_IN`, `TRIES`, and the crowd of `near_pairs`).
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
    """Which of `rows` (M,) show nothing but an even field: bool (M,)."""
    found = np.zeros(len(rows), dtype=bool)
    for start in range(0, len(rows), _BLOCK):
        block = records["thumbnail"][rows[start : start + _BLOCK]].astype(np.float32)
        found[start : start + _BLOCK] = block.std(axis=(1, 2)).max(axis=1) < PLAIN
    return found


def findings(entries: Sequence[ListedImage], measured: Measured) -> list[Finding]:
    """Findings on duplicates: first on files with the same bytes, then on like pictures.

    Each kind is sorted by what the duplicates spoil: labels, then splits, then counts.
    """
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
    """Findings on groups of like images: under two labels, in two splits, and all others.

    entries: the images, which the numbers in `groups` and `turned` index. code: prefix of the
    findings' codes. what: the noun for what the rows of a group share. two_labels: the severity of
    a group under two labels; two splits are always a failure.
    """
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
            # Only a person knows which of two labels is right; of other copies, the first stays.
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
    """Thumbnails as rows (N, D) of mean 0 and length 1, whose products are correlations."""
    flat = thumbnails.reshape(-1, 3 * THUMBNAIL**2).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.asarray(flat / np.maximum(length, 1e-6), dtype=np.float32)


class _Search:
    """Joins pictures with near hashes into groups if their thumbnails are alike too."""

    def __init__(self, thumbnails: NDArray[np.uint8], rows: NDArray[np.int64]) -> None:
        """thumbnails: those of all images. rows: the images that take part; the search numbers
        them from 0 in this order."""
        self._thumbnails, self._rows = thumbnails, rows
        self._unlike = np.zeros(len(rows), dtype=np.int64)
        self.groups = _Groups(len(rows))

    def join(self, pairs: Pairs, orientation: int) -> list[int]:
        """Join the pairs that are alike when the first of a pair is turned to `orientation`.

        Returns the second of each pair that was in two groups before.
        """
        added = []
        for start in range(0, len(pairs[0]), _BLOCK):
            left, right = self._worth(*(side[start : start + _BLOCK] for side in pairs))
            alike = self._alike(left, right, orientation)
            np.add.at(self._unlike, left[~alike], 1)
            left, right = left[alike], right[alike]
            added += right[self.groups.join(left, right)].tolist()
        return added

    def _worth(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> Pairs:
        """The pairs that are not in one group yet, as far as `TRIES` allows each first one."""
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
    """A partition of the numbers below `count` into sets, which grow by joins.

    >>> groups = _Groups(4)
    >>> groups.join(np.array([0, 2]), np.array([2, 0])).tolist()
    [True, True]
    >>> groups.join(np.array([0]), np.array([2])).tolist(), groups.all()
    ([False], ((0, 2),))
    """

    def __init__(self, count: int) -> None:
        self._first = np.arange(count)
        """Number -> the least number in its set."""

    def roots(self, members: NDArray[np.int64]) -> NDArray[np.int64]:
        """The least number in the set of each member (N,)."""
        return np.asarray(self._first[members])

    def join(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Put each pair (left[i], right[i]) into one set.

        Returns bool (N,): whether the pair was in two sets before the call.
        """
        ends = np.stack([self._first[left], self._first[right]])
        apart = np.asarray(ends[0] != ends[1])
        sets, linked = np.unique(ends[:, apart], return_inverse=True)
        one, other = linked.reshape(2, -1)
        links = coo_array((np.ones(len(one)), (one, other)), shape=(len(sets), len(sets)))
        _, component = connected_components(links, directed=False)
        # `sets` ascends, so the first number of a component is the least one.
        _, least = np.unique(component, return_index=True)
        becomes = np.arange(len(self._first))
        becomes[sets] = sets[least][component]
        self._first = becomes[self._first]
        return apart

    def all(self) -> tuple[Group, ...]:
        """The sets of two and more numbers, each in ascending order."""
        members: dict[int, list[int]] = defaultdict(list)
        for member, root in enumerate(self._first.tolist()):
            members[root].append(member)
        return tuple(tuple(found) for found in members.values() if len(found) > 1)

    def stand_ins(self) -> NDArray[np.int64]:
        """The first `STAND_IN` numbers of each set, sets of one included, in ascending order."""
        order = np.argsort(self._first, kind="stable")
        ranked = self._first[order]
        before = np.arange(len(order)) - np.searchsorted(ranked, ranked)
        return np.sort(order[before < STAND_IN])
