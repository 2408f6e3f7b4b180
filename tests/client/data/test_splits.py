"""Patients stay whole, given splits stay, classes are spread, and order changes nothing."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.data import splits as module
from client.data.splits import SPLITS, assign, assign_alone, of_cache
from common.errors import DataError


@st.composite
def cells(
    draw: st.DrawFn,
) -> tuple[NDArray[np.int64], NDArray[np.str_], NDArray[np.str_], NDArray[np.str_]]:
    """Labels, patients, given splits and sources of 1 to 120 cells; half the patients unknown."""
    count = draw(st.integers(1, 120))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    labels = np.minimum(rng.geometric(0.4, count), 6).astype(np.int64)
    patients = np.where(rng.random(count) < 0.5, "", rng.integers(0, 15, count).astype(str))
    chosen = np.array(SPLITS)[rng.integers(0, 3, count)]
    splits = np.where(rng.random(count) < draw(st.sampled_from([0.0, 0.3])), chosen, "")
    sources = np.array([f"{label}/{at}.png" for at, label in enumerate(labels)])
    return labels, patients, splits, sources


@settings(max_examples=60)
@given(cells(), st.integers(0, 2**40))
def test_what_holds_for_any_cells(
    drawn: tuple[NDArray[np.int64], NDArray[np.str_], NDArray[np.str_], NDArray[np.str_]],
    seed: int,
) -> None:
    labels, patients, given_splits, sources = drawn
    result = assign(labels, patients, given_splits, seed=seed, sources=sources)
    assert set(result) <= set(SPLITS)
    stated = given_splits != ""
    assert (result[stated] == given_splits[stated]).all()
    for patient in set(patients) - {""}:
        rows = patients == patient
        if len(set(given_splits[rows]) - {""}) <= 1:
            assert len(set(result[rows])) == 1
    if not stated.any():
        assert {*labels} == {*labels[result == "train"]}
    order = np.random.default_rng(seed).permutation(len(labels))
    shuffled = assign(
        labels[order], patients[order], given_splits[order], seed=seed, sources=sources[order]
    )
    assert (shuffled == result[order]).all()


def test_each_class_is_cut_in_the_same_parts() -> None:
    labels = np.repeat(np.arange(4), (1000, 200, 50, 20))
    nobody = [""] * len(labels)
    result = assign(labels, nobody, nobody, seed=3)
    for label in range(4):
        parts = [(result[labels == label] == split).mean() for split in SPLITS]
        assert parts == pytest.approx([0.7, 0.1, 0.2], abs=0.03)


@pytest.mark.parametrize(
    ("count", "parts"), [(1, (1, 0, 0)), (2, (2, 0, 0)), (3, (2, 0, 1)), (5, (4, 0, 1))]
)
def test_small_classes_train_first(count: int, parts: tuple[int, int, int]) -> None:
    nobody = [""] * count
    result = assign(np.zeros(count, dtype=np.int64), nobody, nobody, seed=0).tolist()
    assert tuple(result.count(split) for split in SPLITS) == parts


def test_patients_are_spread_over_splits_by_class() -> None:
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(200).astype(str), rng.integers(1, 50, 200))
    labels = rng.choice(4, size=len(patients), p=(0.6, 0.3, 0.08, 0.02))
    result = assign(labels, patients, [""] * len(labels), seed=1)
    for label in range(4):
        parts = [(result[labels == label] == split).mean() for split in SPLITS]
        assert parts == pytest.approx([0.7, 0.1, 0.2], abs=0.05)


def test_a_patient_follows_the_split_that_most_of_its_images_have() -> None:
    result = assign(
        np.zeros(5, dtype=np.int64), ["p"] * 5, ["test", "", "train", "test", ""], seed=0
    )
    assert result.tolist() == ["test", "test", "train", "test", "test"]


def test_the_seed_decides() -> None:
    labels, nobody = np.zeros(100, dtype=np.int64), [""] * 100
    first = assign(labels, nobody, nobody, seed=1)
    assert (first == assign(labels, nobody, nobody, seed=1)).all()
    assert (first != assign(labels, nobody, nobody, seed=2)).any()


def test_a_patient_and_an_image_of_one_name_are_two() -> None:
    result = assign(np.array([0, 0]), ["a", ""], ["test", ""], seed=0, sources=["x", "a"])
    assert result.tolist() == ["test", "train"]


def test_a_caches_cells_are_cut_in_seven_one_and_two_tenths_by_their_own_words() -> None:
    count = 200
    labels, sources = np.arange(count) % 2, np.array([f"{n}.png" for n in range(count)])
    patients, stated = np.array([""] * count), np.array(["test"] + [""] * (count - 1))
    cache: Any = SimpleNamespace(labels=labels, patients=patients, splits=stated, sources=sources)
    result = of_cache(cache, seed=3)
    assert [(result == split).sum() for split in SPLITS] == [139, 20, 40 + 1]
    whole = {"seed": 3, "fractions": (0.7, 0.1, 0.2), "sources": sources}
    assert (result == assign(labels, patients, stated, **whole)).all()


def test_a_part_may_be_nothing() -> None:
    nobody = [""] * 10
    zeros = np.zeros(10, dtype=np.int64)
    assert set(assign(zeros, nobody, nobody, seed=0, fractions=(1.0, 0.0, 0.0))) == {"train"}


def test_nothing_to_split() -> None:
    assert assign(np.zeros(0, dtype=np.int64), [], [], seed=0).tolist() == []


def test_wrong_arguments_are_named() -> None:
    labels, nobody = np.zeros(2, dtype=np.int64), ["", ""]
    with pytest.raises(DataError, match="must be as many: 2, 1, 2, 2"):
        assign(labels, [""], nobody, seed=0)
    with pytest.raises(DataError, match="split 'holdout'"):
        assign(labels, nobody, ["", "holdout"], seed=0)
    for fractions in ((0.7, 0.2, 0.2), (0.0, 0.5, 0.5), (1.2, -0.1, -0.1)):
        with pytest.raises(DataError, match="three parts of 1"):
            assign(labels, nobody, nobody, seed=0, fractions=fractions)


@settings(max_examples=100)
@given(cells(), st.integers(0, 2**40), st.data())
def test_under_privacy_one_image_moves_no_other(
    drawn: tuple[NDArray[np.int64], NDArray[np.str_], NDArray[np.str_], NDArray[np.str_]],
    seed: int,
    data: st.DataObject,
) -> None:
    """Where an image is protected, whatever split the image that comes or goes was given."""
    _, patients, stated, sources = drawn
    gone = data.draw(st.integers(0, len(sources) - 1))
    stated[gone] = data.draw(st.sampled_from(["", *SPLITS]))
    left = np.arange(len(sources)) != gone
    whole = assign_alone(patients, stated, sources, unit="image", seed=seed)
    less = assign_alone(patients[left], stated[left], sources[left], unit="image", seed=seed)
    assert (less == whole[left]).all()
    assert (whole[stated != ""] == stated[stated != ""]).all()


@settings(max_examples=100)
@given(cells(), st.integers(0, 2**40), st.data())
def test_under_privacy_one_patient_moves_no_other_and_stays_whole(
    drawn: tuple[NDArray[np.int64], NDArray[np.str_], NDArray[np.str_], NDArray[np.str_]],
    seed: int,
    data: st.DataObject,
) -> None:
    _, patients, stated, sources = drawn
    left = patients != data.draw(st.sampled_from(sorted(set(patients.tolist()))))
    whole = assign_alone(patients, stated, sources, unit="patient", seed=seed)
    less = assign_alone(patients[left], stated[left], sources[left], unit="patient", seed=seed)
    assert (less == whole[left]).all()
    for patient in set(patients.tolist()) - {""}:
        (split,) = set(whole[patients == patient].tolist())
        given_to_all = set(stated[patients == patient].tolist())
        if len(given_to_all) == 1 and given_to_all != {""}:
            assert given_to_all == {split}


@pytest.mark.parametrize("one_more", SPLITS)
def test_an_image_with_a_split_brings_no_other_of_its_patient_along(one_more: str) -> None:
    """The patient's images stay where their hash put them: the attack was 20 of them to train."""
    patients, sources = ["p"] * 21, [f"{n}.png" for n in range(21)]
    nothing = [""] * 20
    for seed in range(20):
        before = assign_alone(patients[:20], nothing, sources[:20], unit="image", seed=seed)
        after = assign_alone(patients, [*nothing, one_more], sources, unit="image", seed=seed)
        assert after.tolist() == [*before.tolist(), one_more]


@pytest.mark.parametrize(
    ("stated", "counts"),
    [(["test"] * 3, True), (["test", "", "test"], False), (["test", "train", "test"], False)],
)
def test_a_patients_split_counts_where_all_its_images_have_it(
    stated: list[str], counts: bool
) -> None:
    found = set()
    for seed in range(30):
        result = assign_alone(["p"] * 3, stated, list("abc"), unit="patient", seed=seed)
        drawn = assign_alone(["p"] * 3, [""] * 3, list("abc"), unit="patient", seed=seed)
        assert result.tolist() == (stated if counts else drawn.tolist())
        found.add(result[0])
    assert counts or "train" in found


def test_under_privacy_the_parts_are_as_large_as_asked() -> None:
    count = 20_000
    splits = assign_alone(
        [""] * count, [""] * count, [f"{n}" for n in range(count)], unit="image", seed=1
    )
    shares = [float((splits == name).mean()) for name in SPLITS]
    np.testing.assert_allclose(shares, [0.7, 0.1, 0.2], atol=0.015)


def test_the_largest_hash_has_a_split_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a float it is 1, and 0.7 + 0.1 + 0.2 is less."""
    monkeypatch.setattr(module, "_hash", lambda *_: b"\xff" * 16)
    assert assign_alone(["p"], [""], ["x"], unit="patient", seed=1).tolist() == ["test"]


@pytest.mark.parametrize(
    ("patients", "given_splits", "fractions", "said"),
    [
        (["p"], ["", ""], (0.7, 0.1, 0.2), "must be as many: 2, 1, 2, 2"),
        (["p", "q"], ["", "exam"], (0.7, 0.1, 0.2), "split 'exam': expected one of"),
        (["p", "q"], ["", ""], (0.0, 0.5, 0.5), "expected three parts of 1, train above 0"),
    ],
)
def test_under_privacy_wrong_arguments_are_named_too(
    patients: list[str], given_splits: list[str], fractions: tuple[float, float, float], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        assign_alone(patients, given_splits, ["x", "y"], unit="image", seed=1, fractions=fractions)


def test_a_cache_is_cut_as_asked() -> None:
    cache = SimpleNamespace(
        labels=np.zeros(50, np.int64),
        patients=np.array([""] * 50),
        splits=np.array([""] * 50),
        sources=np.array([f"{number}.png" for number in range(50)]),
    )
    found = of_cache(cache, seed=1, fractions=(0.2, 0.8, 0.0))  # type: ignore[arg-type]
    assert [(found == split).sum() for split in SPLITS] == [10, 40, 0]
