"""Splits into train, validation and test: by patient where known, stratified by class."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from client.data.store import CellCache
from common.config.study import SPLIT_FRACTIONS, Unit
from common.errors import DataError

SPLITS = ("train", "validation", "test")

_Floats = NDArray[np.float64]


def of_cache(
    cache: CellCache, *, seed: int, fractions: tuple[float, float, float] = SPLIT_FRACTIONS
) -> NDArray[np.str_]:
    """`assign` for the cells of a cache: (N,) the split of each."""
    return assign(
        cache.labels,
        cache.patients,
        cache.splits,
        seed=seed,
        fractions=fractions,
        sources=cache.sources,
    )


def assign(
    labels: NDArray[np.int64],
    patients: Sequence[str] | NDArray[np.str_],
    splits: Sequence[str] | NDArray[np.str_],
    *,
    seed: int,
    fractions: tuple[float, float, float] = SPLIT_FRACTIONS,
    sources: Sequence[str] | NDArray[np.str_] | None = None,
) -> NDArray[np.str_]:
    """(N,) "train", "validation" or "test" for each image.

    `labels`, `patients`, `splits` and `sources` have one entry for each image; an empty patient is
    unknown, an empty split is not given. `fractions` are those of train, validation and test.

    A given split stays. Of the rest, a patient's images stay together (in the patient's given
    split, if it has one), and each image of an unknown patient is a group by itself. Classes are
    spread by iterative stratification (Sechidis et al. 2011, ECML PKDD, algorithm 1): the rarest
    class first, each group to the split that lacks that class most, train on a tie; so a class's
    only image or patient trains. Groups are taken in the order of a hash of `seed` and their name
    (the patient, else `sources`), so the order of the rows changes nothing where `sources` are
    given.
    Raises DataError for lengths that differ, a split of another name, and fractions that do not sum
    to 1, are negative, or leave nothing for train.

    >>> patients = ["anna", "anna", "", "", "ben", ""]
    >>> found = assign(
    ...     np.array([0, 0, 0, 0, 1, 1]), patients, [""] * 6, seed=0, fractions=(0.5, 0.25, 0.25)
    ... )
    >>> bool(found[0] == found[1]), sorted(set(found.tolist()))
    (True, ['test', 'train', 'validation'])
    """
    names = sources if sources is not None else [str(at) for at in range(len(labels))]
    _check(len(labels), patients, splits, names, fractions)
    result = np.array(splits, dtype="U10")
    groups = _groups(patients, names, seed)
    for members in groups:
        _follow_given(result, members)
    left = [members for members in groups if result[members[0]] == ""]
    if left:
        classes, codes = np.unique(labels, return_inverse=True)
        counts = np.stack([np.bincount(codes[members], minlength=len(classes)) for members in left])
        for members, chosen in zip(left, _stratify(counts, fractions), strict=True):
            result[members] = SPLITS[chosen]
    return result


def assign_alone(
    patients: Sequence[str] | NDArray[np.str_],
    splits: Sequence[str] | NDArray[np.str_],
    sources: Sequence[str] | NDArray[np.str_],
    *,
    unit: Unit,
    seed: int,
    fractions: tuple[float, float, float] = SPLIT_FRACTIONS,
) -> NDArray[np.str_]:
    """(N,) the split of each image, decided for each unit of privacy by itself.

    This is for studies with privacy. `assign` balances the classes, and lets a patient's given
    splits decide for its other images, so one unit more can move others to another split, and the
    training sets of neighbouring data sets differ in more than that unit. Here a hash of `seed` and
    the name of the patient (of the image, where no patient is known) decides. A given split takes
    precedence where it is the unit's own: for the unit "image" it binds that image alone; for
    "patient" it counts where all of the patient's images have the same one.
    Formal guarantees: for neighbours by `unit`, each image of both has the same split in both.
    Raises DataError like `assign`.

    >>> assign_alone(["", ""], ["", "test"], ["a.png", "b.png"], unit="image", seed=0).tolist()
    ['train', 'test']
    """
    _check(len(sources), patients, splits, sources, fractions)
    result = np.array(splits, dtype="U10")
    for members in _groups(patients, sources, seed):
        patient, name = str(patients[members[0]]), str(sources[members[0]])
        drawn = _drawn(seed, patient, name, fractions)
        stated = set(result[members].tolist())
        if unit == "patient" and len(stated) > 1:
            result[members] = drawn
        else:
            result[[row for row in members if result[row] == ""]] = drawn
    return result


def _drawn(seed: int, patient: str, name: str, fractions: tuple[float, float, float]) -> str:
    """The split that the hash gives `patient`, or the image `name` where `patient` is empty."""
    draw = _hash(seed, "patient", patient) if patient else _hash(seed, "image", name)
    place = int.from_bytes(draw, "big") / 2**128
    return SPLITS[int(np.searchsorted(np.cumsum(fractions)[:2], place, side="right"))]


def _check(
    count: int,
    patients: Sequence[str] | NDArray[np.str_],
    splits: Sequence[str] | NDArray[np.str_],
    names: Sequence[str] | NDArray[np.str_],
    fractions: tuple[float, float, float],
) -> None:
    if not len(patients) == len(splits) == len(names) == count:
        raise DataError(
            f"labels, patients, splits and sources must be as many: {count}, {len(patients)}, "
            f"{len(splits)}, {len(names)}"
        )
    unknown = {str(split) for split in splits} - {"", *SPLITS}
    if unknown:
        raise DataError(f"split {min(unknown)!r}: expected one of {', '.join(SPLITS)} or none")
    if min(fractions) < 0 or fractions[0] <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise DataError(f"fractions {fractions}: expected three parts of 1, train above 0")


def _groups(
    patients: Sequence[str] | NDArray[np.str_],
    names: Sequence[str] | NDArray[np.str_],
    seed: int,
) -> list[list[int]]:
    """Row numbers of each patient, or single image, in the order of their hashes."""
    members: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, (patient, name) in enumerate(zip(patients, names, strict=True)):
        members[("patient", str(patient)) if patient else ("image", str(name))].append(row)
    return [members[key] for key in sorted(members, key=lambda key: _hash(seed, *key))]


def _hash(seed: int, kind: str, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}|{kind}|{name}".encode(), digest_size=16).digest()


def _follow_given(result: NDArray[np.str_], members: list[int]) -> None:
    """Give a patient's images without a split the one that most of its given splits are."""
    given = [str(split) for split in result[members] if split]
    if given and len(given) < len(members):
        most = max(SPLITS, key=given.count)
        result[[row for row in members if result[row] == ""]] = most


def _stratify(counts: NDArray[np.int64], fractions: tuple[float, float, float]) -> list[int]:
    """The number of each group's split, from `counts` (groups, classes) of images, none empty."""
    chosen = [-1] * len(counts)
    wanted = np.outer(fractions, counts.sum(axis=0)).astype(np.float64)
    open_groups = np.ones(len(counts), dtype=bool)
    while open_groups.any():
        remaining = counts[open_groups].sum(axis=0)
        rarest = int(np.where(remaining > 0, remaining, np.iinfo(np.int64).max).argmin())
        for group in np.flatnonzero(open_groups & (counts[:, rarest] > 0)):
            split = _neediest(wanted, rarest)
            chosen[group] = split
            wanted[split] -= counts[group]
        open_groups &= counts[:, rarest] == 0
    return chosen


def _neediest(wanted: _Floats, of_class: int) -> int:
    """The split that lacks the class most; on a tie, the one that lacks most images; then train."""
    need = [(round(float(row[of_class]), 6), round(float(row.sum()), 6)) for row in wanted]
    return max(range(len(need)), key=lambda split: (need[split], -split))
