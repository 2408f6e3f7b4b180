"""What counts with noise in them say: never more than they know."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.metrics import MOST_CELLS, NAMES, Tally
from common.noised_tally import TELLING, NoisedTally, total

STUDIES = 1000
Array = np.ndarray[Any, Any]


def truth(rng: np.random.Generator, classes: int, accuracy: float, skew: float) -> Array:
    """Chance of each (true, predicted): rarer types as `skew` grows, recalls about `accuracy`."""
    prior = np.arange(1.0, classes + 1) ** -skew
    recall = np.clip(accuracy + rng.normal(0, 0.1, classes), 0.02, 0.99)
    joint = rng.dirichlet(np.ones(classes), classes)
    np.fill_diagonal(joint, 0)
    joint *= ((1 - recall) / joint.sum(1))[:, None]
    np.fill_diagonal(joint, recall)
    return joint * (prior / prior.sum())[:, None]


def scores(joint: Array) -> dict[str, float]:
    right, rows, columns = joint.diagonal(), joint.sum(1), joint.sum(0)
    there = rows > 0
    return {
        "accuracy": right.sum() / joint.sum(),
        "balanced_accuracy": (right[there] / rows[there]).mean(),
        "macro_f1": (2 * right[there] / (rows + columns)[there]).mean(),
    }


def noised(rng: np.random.Generator, confusion: Array, sigma: float) -> NoisedTally:
    right = int(confusion.trace())
    exact = np.array([right, confusion.sum() - right, *confusion.reshape(-1)])
    noise = np.rint(rng.normal(0, sigma, len(exact))).astype(np.int64)
    return NoisedTally.of_counts(exact + noise, sigma**2)


@pytest.mark.parametrize(
    ("classes", "cells", "accuracy", "sigma", "skew"),
    [
        (8, 249, 0.827, 3.0, 1.0),
        (8, 249, 0.827, 40.0, 1.0),
        (8, 2000, 0.8, 9.0, 0.0),
        (18, 41_000, 0.95, 14.0, 1.2),
        (18, 6000, 0.7, 30.0, 1.0),
        (2, 100, 0.9, 2.0, 0.0),
        (5, 400, 0.95, 1.0, 0.5),
    ],
)
def test_intervals_cover_the_truth_as_often_as_they_say(
    classes: int, cells: int, accuracy: float, sigma: float, skew: float
) -> None:
    """Of 1,000 seeded studies at nominal 95 %; of the model's scores, and of those on the cells."""
    rng, told = np.random.default_rng(20), dict.fromkeys(NAMES[:3], 0)
    missed = dict.fromkeys([(name, of) for name in NAMES[:3] for of in ("model", "cells")], 0)
    for _ in range(STUDIES):
        joint = truth(rng, classes, accuracy, skew)
        confusion = rng.multinomial(cells, joint.reshape(-1)).reshape(classes, classes)
        tally = noised(rng, confusion, sigma)
        intervals, values = tally.intervals(), tally.metrics()
        for of, found in (("model", scores(joint)), ("cells", scores(confusion))):
            for name, value in found.items():
                low, high = intervals[name] or (0.0, 1.0)
                missed[name, of] += not low <= value <= high
                assert high - low <= TELLING or intervals[name] is None
        for name in told:
            told[name] += values[name] is not None
    assert max(missed.values()) <= 0.07 * STUDIES, missed
    if sigma < 40:
        assert told["accuracy"] > 0.9 * STUDIES, "a wide interval covers anything"
    else:
        assert told["accuracy"] < 0.2 * STUDIES, "such noise leaves nothing to be said"


def test_estimates_are_right_on_average() -> None:
    """Counts cut off at zero were not: 82.7 % became 7.6 %."""
    rng = np.random.default_rng(3)
    confusion = np.diag([600, 500, 400]) + 50
    found = [noised(rng, confusion, 12.0).metrics() for _ in range(2000)]
    for name, value in scores(confusion).items():
        mean = np.mean([one[name] for one in found])
        assert mean == pytest.approx(value, abs=4 * np.std([o[name] for o in found]) / 2000**0.5)


def test_the_noise_of_a_score_is_what_it_varies_by() -> None:
    rng = np.random.default_rng(4)
    confusion = np.diag([900, 800, 700]) + 60
    draws = [noised(rng, confusion, 8.0) for _ in range(1500)]
    for name in ("accuracy", "balanced_accuracy"):
        seen = np.std([draw.metrics()[name] for draw in draws])
        assert draws[0].noise(name) == pytest.approx(seen, rel=0.12)
    seen = np.std([draw.metrics()["macro_f1"] for draw in draws])
    assert seen <= draws[0].noise("macro_f1") <= 1.6 * seen, "shared noise is counted twice"


def test_a_class_of_unknown_size_may_have_any_recall() -> None:
    """Nineteen classes are known and one is not: the interval has a twentieth for it, and there is
    no value."""
    confusion = np.diag([1000] * 19 + [0])
    tally = NoisedTally.of_counts(np.array([19_000, 0, *confusion.reshape(-1)]), 1.0)
    interval = tally.intervals()["balanced_accuracy"]
    assert interval and interval[1] == 1.0
    assert 0.94 < interval[0] < 0.95
    assert tally.metrics()["balanced_accuracy"] is None
    assert tally.recalls()[-1] is None and None not in tally.recalls()[:-1]


def test_noise_alone_says_nothing() -> None:
    rng = np.random.default_rng(5)
    for _ in range(200):
        tally = noised(rng, np.zeros((8, 8), np.int64), 20.0)
        assert set(tally.metrics().values()) == {None}
        assert set(tally.intervals().values()) == {None}


sizes = st.integers(2, 18)


@settings(max_examples=40)
@given(sizes, st.integers(0, 999), st.floats(0.5, 1e3))
def test_whatever_the_counts_figures_are_shares_or_nothing(
    classes: int, seed: int, sigma: float
) -> None:
    rng = np.random.default_rng(seed)
    cells = int(rng.integers(0, 3000))
    confusion = rng.multinomial(cells, np.ones(classes**2) / classes**2).reshape(classes, -1)
    tally = noised(rng, confusion, sigma)
    values, intervals = tally.metrics(), tally.intervals()
    for name in NAMES:
        bounds = intervals[name]
        if bounds:
            assert 0 <= bounds[0] <= bounds[1] <= min(1.0, bounds[0] + TELLING + 1e-9)
        value = values[name]
        assert value is None or (bounds and bounds[0] - 0.05 <= value <= bounds[1] + 0.05)
    assert all(recall is None or 0 <= recall <= 1 for recall in tally.recalls())


@settings(max_examples=40)
@given(sizes, st.integers(0, 999))
def test_counts_travel_and_add_up_as_they_are(classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(-1000, 1000, (2, classes**2 + 2))
    one, other = (NoisedTally.of_counts(row, 3.0) for row in counts)
    again = NoisedTally.from_bytes(one.to_bytes(), classes, 3.0)
    assert np.array_equal(again.counts, counts[0]) and again.variance == 3.0
    both = one + other
    assert np.array_equal(both.counts, counts.sum(0)) and both.variance == 6.0


def test_exact_counts_beside_noised_ones_bring_no_noise() -> None:
    exact = Tally.of(np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]), np.array([0, 1, 1]))
    other = NoisedTally.of_counts(np.array([4, -1, 2, 0, -3, 5]), 7.0)
    both = total([exact, other], 2)
    assert isinstance(both, NoisedTally) and both.variance == 7.0
    assert both.counts.tolist() == [6, 0, 3, 0, -2, 6]
    alone = total([exact, exact], 2)
    assert isinstance(alone, Tally) and alone.total == 6
    assert total([], 2).metrics()["accuracy"] is None


@pytest.mark.parametrize("fault", ["short", "odd", "large", "least"])
def test_counts_that_cannot_be_are_refused(fault: str) -> None:
    counts = np.zeros(6, "<i8")
    counts[3] = {"large": MOST_CELLS + 1, "least": -(2**63)}.get(fault, 0)
    said = counts.tobytes()[: {"short": -8, "odd": -3}.get(fault, 48)]
    with pytest.raises(ValueError, match=r"expected 6 counts of at most|multiple of element size"):
        NoisedTally.from_bytes(said, 2, 1.0)


def test_json_has_every_count_and_the_noise_in_it() -> None:
    tally = NoisedTally.of_counts(np.array([4, -1, 2, 0, -3, 5]), 7.0)
    assert tally.to_json() == {
        "right": 4,
        "wrong": -1,
        "confusion": [[2, 0], [-3, 5]],
        "noise_variance": 7.0,
    }
    assert math.sqrt(tally.variance) == pytest.approx(2.6458, abs=1e-4)
