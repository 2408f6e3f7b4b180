import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from common.metrics import BINS, MOST_CELLS, NAMES, Tally


def predictions(seed: int, cells: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(classes, 0.4), size=cells)
    return probabilities, rng.integers(0, classes, cells)


def of_confusion(confusion: np.ndarray) -> Tally:
    """Of predictions that are all as sure."""
    tally = Tally.empty(len(confusion))
    tally.counts[:, :, 7], tally.confidence[:, :, 7] = confusion, 0.5 * confusion
    return tally


cases = given(st.integers(0, 10_000), st.integers(1, 200), st.integers(2, 7))


@cases
def test_metrics_are_those_of_scikit_learn(seed: int, cells: int, classes: int) -> None:
    probabilities, labels = predictions(seed, cells, classes)
    predicted, present = probabilities.argmax(1), np.unique(labels)
    found = Tally.of(probabilities, labels).metrics()
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    recalls = [np.mean(predicted[labels == k] == k) for k in present]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    f1 = f1_score(labels, predicted, labels=present, average="macro", zero_division=0)
    assert found["macro_f1"] == pytest.approx(f1)


def test_balanced_accuracy_is_scikit_learns_when_every_class_is_there() -> None:
    probabilities, labels = predictions(1, 300, 4)
    expected = balanced_accuracy_score(labels, probabilities.argmax(1))
    assert Tally.of(probabilities, labels).metrics()["balanced_accuracy"] == pytest.approx(expected)


@cases
def test_calibration_error_is_the_mean_gap_over_the_bins(
    seed: int, cells: int, classes: int
) -> None:
    probabilities, labels = predictions(seed, cells, classes)
    top, right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.minimum((top * BINS).astype(int), BINS - 1)
    gaps = [
        abs(right[bins == b].mean() - top[bins == b].mean()) * (bins == b).mean()
        for b in np.unique(bins)
    ]
    assert Tally.of(probabilities, labels).metrics()["ece"] == pytest.approx(sum(gaps))


@cases
def test_tallies_of_parts_add_up_to_the_whole(seed: int, cells: int, classes: int) -> None:
    probabilities, labels = predictions(seed, cells, classes)
    cut = cells // 3
    parts = Tally.of(probabilities[:cut], labels[:cut]) + Tally.of(
        probabilities[cut:], labels[cut:]
    )
    whole = Tally.of(probabilities, labels)
    assert (parts.counts == whole.counts).all()
    np.testing.assert_allclose(parts.confidence, whole.confidence)


@cases
def test_a_tally_survives_the_wire_and_the_file(seed: int, cells: int, classes: int) -> None:
    tally = Tally.of(*predictions(seed, cells, classes))
    for again in (
        Tally.from_bytes(*tally.to_bytes(), classes),
        Tally.from_json(tally.to_json(), classes),
    ):
        assert (again.counts == tally.counts).all()
        assert (again.confidence == tally.confidence).all()


def test_intervals_hold_the_figure_and_shrink_with_more_cells() -> None:
    widths = []
    for cells in (50, 5000):
        tally = Tally.of(*predictions(3, cells, 3))
        figures, intervals = tally.metrics(), tally.intervals()
        for name in NAMES[:3]:
            low, high = intervals[name] or []
            assert low <= (figures[name] or 0) <= high
        low, high = intervals["accuracy"] or []
        widths.append(high - low)
    assert widths[1] < widths[0] / 5


def test_an_interval_lies_about_its_figure_where_classes_are_small() -> None:
    confusion = np.diag([200, 2, 2, 1]) + np.array(
        [[0, 20, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    )
    tally = of_confusion(confusion)
    low, high = tally.intervals()["balanced_accuracy"]
    value = tally.metrics()["balanced_accuracy"]
    assert abs((low + high) / 2 - value) < 0.05


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    truth, hits = 0.7, 0
    for seed in range(200):
        right = np.random.default_rng(seed).random(100) < truth
        probabilities = np.stack([right * 0.9 + 0.05, 0.95 - right * 0.9], 1)
        interval = Tally.of(probabilities, np.zeros(100, np.int64)).intervals(400, seed)["accuracy"]
        assert interval
        hits += interval[0] <= truth <= interval[1]
    assert 0.88 <= hits / 200 <= 0.99


def test_three_cells_that_are_all_right_make_nothing_certain() -> None:
    tally = of_confusion(np.array([[2, 0], [0, 1]]))
    assert tally.metrics()["accuracy"] == 1
    assert all(tally.intervals()[name] is None for name in NAMES[:3])


def test_nothing_counted_has_no_figures() -> None:
    empty = Tally.empty(3)
    assert set(empty.metrics().values()) == {None}
    assert set(empty.intervals().values()) == {None}


def test_a_class_without_cells_has_no_recall() -> None:
    tally = Tally.of(np.array([[0.9, 0.1, 0.0]]), np.array([0]))
    assert [row["recall"] for row in tally.per_class()] == [1.0, None, None]
    assert tally.metrics()["balanced_accuracy"] == 1.0


@pytest.mark.parametrize("fault", ["negative", "large", "short", "confidence"])
def test_a_tally_that_cannot_be_is_refused(fault: str) -> None:
    counts = np.zeros((2, 2, BINS), "<i8")
    confidence = np.zeros((2, 2, BINS), "<f8")
    if fault == "negative":
        counts[0, 0, 0] = -1
    if fault == "large":
        counts[0, 0, 0] = MOST_CELLS + 1
    if fault == "confidence":
        confidence[0, 0, 0] = np.nan
    data = counts.tobytes()[:-8] if fault == "short" else counts.tobytes()
    with pytest.raises(ValueError, match="counts outside 0|reshape"):
        Tally.from_bytes(data, confidence.tobytes(), 2)
