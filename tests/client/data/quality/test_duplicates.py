"""Pictures that are there twice are found as by comparing all with all, in linear memory."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.quality import duplicates
from client.data.quality.duplicates import same_bytes, same_picture
from client.data.quality.measurements import RECORD, Measured


def pictures(bases: list[int], seed: int, noise: int = 3) -> Measured:
    """A picture for each number in `bases`: those of one number differ by noise alone, those of
    numbers that agree modulo 100 in their hash by a bit or two."""
    rng = np.random.default_rng(seed)
    records = np.zeros(len(bases), dtype=RECORD)
    records["digest"] = rng.integers(0, 2**63, (len(bases), 2), dtype=np.uint64)
    for row, base in enumerate(bases):
        own = np.random.default_rng(base)
        pixels = own.integers(20, 230, (16, 16, 3)) + rng.integers(-noise, noise + 1, (16, 16, 3))
        bit = np.uint64(1) << np.uint64(rng.integers(64))
        of_kind = np.random.default_rng(base % 100).integers(0, 2**63, 8, dtype=np.uint64)
        records["thumbnail"][row], records["hashes"][row] = pixels, of_kind ^ bit
    return Measured(records, {})


def by_brute_force(bases: list[int]) -> set[tuple[int, ...]]:
    groups = (tuple(row for row, one in enumerate(bases) if one == base) for base in set(bases))
    return {group for group in groups if len(group) > 1}


@settings(max_examples=40)
@given(st.lists(st.sampled_from([1, 2, 101, 201, 3, 4]), max_size=40), st.integers(0, 10**6))
def test_like_pictures_are_one_group(bases: list[int], seed: int) -> None:
    found = same_picture(pictures(bases, seed), ())
    assert set(found.groups) == by_brute_force(bases) and not found.turned


@settings(max_examples=20)
@given(st.lists(st.integers(0, 5), max_size=30))
def test_same_bytes_are_one_group(contents: list[int]) -> None:
    measured = pictures(contents, 0)
    measured.records["digest"] = np.array([[one % 2, one] for one in contents]).reshape(-1, 2)
    assert set(same_bytes(measured)) == by_brute_force(contents)


def test_a_damaged_image_is_like_none() -> None:
    measured = pictures([1] * 4, 0)
    measured.records["digest"] = 7
    assert same_bytes(Measured(measured.records, {1: "cut"})) == ((0, 2, 3),)
    assert same_picture(pictures([1] * 4, 0), ((0, 2),)).groups == ((0, 1, 3),)


@pytest.mark.parametrize("alike", [True, False])
def test_what_is_compared_grows_as_the_pictures_do(
    alike: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All hash alike, and are one picture or as many as there are."""
    compared: list[int] = []
    plain = duplicates._Search._alike

    def counted(self, left, right, orientation):  # type: ignore[no-untyped-def]
        compared.append(len(left))
        return plain(self, left, right, orientation)

    monkeypatch.setattr(duplicates._Search, "_alike", counted)
    totals = []
    for size in (300, 600):
        compared.clear()
        bases = [100] * size if alike else [100 * at for at in range(size)]
        same_picture(pictures(bases, 1), ())
        totals.append(sum(compared))
    most = 4 if alike else duplicates.TRIES + 8
    assert all(total <= most * size for total, size in zip(totals, (300, 600), strict=True))


@pytest.mark.parametrize("alike", [True, False])
def test_memory_grows_as_the_pictures_do(alike: bool) -> None:
    size = 3000
    measured = pictures([100] * size if alike else list(range(size)), 1)
    tracemalloc.start()
    try:
        same_picture(measured, same_bytes(measured))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A block of thumbnails as floats, and of pairs: no picture of all, no pair of all.
    assert peak < 80 * 2**20
