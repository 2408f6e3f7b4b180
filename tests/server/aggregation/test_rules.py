"""What every aggregation rule promises, and what the robust ones do."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from common.config.study import Participant, RoundPolicy, ServerOptimizer, Study
from common.errors import FederationError, ModelError
from server.aggregation import byzantine
from server.aggregation.rules import aggregation_for

RULES = ("mean", "trimmed_mean", "median", "krum", "multi_krum")
ROBUST = RULES[1:]
MAX_NORM = 1e4

Updates = dict[str, np.ndarray]


def study(rule: str, bad: int, sites: int) -> Study:
    names = [f"s{n:02}" for n in range(sites)]
    return Study(
        name="test",
        server=ServerOptimizer(aggregation=rule, byzantine_sites=bad),  # type: ignore[arg-type]
        round=RoundPolicy(min_sites=sites, max_update_norm=MAX_NORM),
        cohort={name: Participant(units=1, weight=n + 1) for n, name in enumerate(names)},
    )


def aggregate(of: Study, updates: Updates, order: Any = None) -> np.ndarray:
    rule = aggregation_for(of, len(next(iter(updates.values()))))
    for site in order or updates:
        rule.add(site, updates[site])
    return rule.result()


def drawn(draws: np.random.Generator, sites: int, size: int) -> Updates:
    """Few different values, so that ties are common."""
    values = draws.choice([-2, -1, -0.0, 0, 0.5, 1, 1e-3, 3.14], (sites, size))
    return {f"s{n:02}": values[n].astype(np.float32) for n in range(sites)}


def hostile(draws: np.random.Generator, size: int) -> np.ndarray:
    """Anything within the norm bound."""
    direction = draws.standard_normal(size)
    length = MAX_NORM * 0.999 * draws.choice([1, 1e-2, 1e-4, 1e-6])
    return (direction * length / np.linalg.norm(direction)).astype(np.float32)


cases = given(st.integers(0, 10_000), st.integers(1, 4), st.integers(0, 4), st.integers(1, 40))
"""A seed, f, sites more than are needed, and values an update."""


def needed(rule: str, bad: int) -> int:
    return ServerOptimizer(aggregation=rule, byzantine_sites=bad).fewest_updates  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", RULES)
@cases
def test_the_order_of_arrival_changes_no_bit(
    rule: str, seed: int, bad: int, more: int, size: int
) -> None:
    bad = 0 if rule == "mean" else bad
    draws = np.random.default_rng(seed)
    updates = drawn(draws, needed(rule, bad) + more, size)
    one = study(rule, bad, len(updates))
    shuffled = [str(site) for site in draws.permutation(list(updates))]
    first = aggregate(one, updates).tobytes()
    assert aggregate(one, updates, list(reversed(updates))).tobytes() == first
    assert aggregate(one, updates, shuffled).tobytes() == first


@pytest.mark.parametrize("rule", ["trimmed_mean", "median"])
@cases
def test_trimming_is_what_sorting_each_coordinate_says(
    rule: str, seed: int, bad: int, more: int, size: int
) -> None:
    updates = drawn(np.random.default_rng(seed), needed(rule, bad) + more, size)
    found = aggregate(study(rule, bad, len(updates)), updates)
    stacked = np.stack(list(updates.values())).astype(np.float64)
    if rule == "median":
        expected = np.median(stacked, axis=0)
    else:
        expected = np.sort(stacked, axis=0)[bad : len(updates) - bad].mean(axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-14, atol=1e-15)


def attacked(draws: np.random.Generator, honest: Updates, bad: int) -> Updates:
    """The updates with `bad` of them replaced by false ones, which may be copies of each other."""
    size = len(next(iter(honest.values())))
    sites = [str(site) for site in draws.permutation(list(honest))[:bad]]
    same = hostile(draws, size)
    colluding = draws.random() < 0.5
    return honest | {site: same if colluding else hostile(draws, size) for site in sites}


@pytest.mark.parametrize("rule", ["trimmed_mean", "median"])
@cases
def test_false_sites_leave_each_value_among_the_honest_ones(
    rule: str, seed: int, bad: int, more: int, size: int
) -> None:
    draws = np.random.default_rng(seed)
    before = drawn(draws, needed(rule, bad) + more, size)
    updates = attacked(draws, before, bad)
    found = aggregate(study(rule, bad, len(updates)), updates)
    honest = np.stack([updates[s] for s in updates if updates[s] is before[s]]).astype(np.float64)
    assert (np.nextafter(honest.min(axis=0), -np.inf) <= found).all()
    assert (found <= np.nextafter(honest.max(axis=0), np.inf)).all()


@pytest.mark.parametrize("rule", ["krum", "multi_krum"])
@cases
def test_krum_takes_no_false_update_from_afar(
    rule: str, seed: int, bad: int, more: int, size: int
) -> None:
    """An honest score is at most (n - f - 2) D^2, D the honest ones' diameter; a false one counts
    an honest neighbour at least."""
    draws = np.random.default_rng(seed)
    sites = needed(rule, bad) + more
    before = {
        f"s{n:02}": draws.standard_normal(size).astype(np.float32) * 0.1 for n in range(sites)
    }
    updates = attacked(draws, before, bad)
    honest = np.stack([updates[s] for s in updates if updates[s] is before[s]]).astype(np.float64)
    false = np.stack([updates[s] for s in updates if updates[s] is not before[s]])
    diameter = max(np.linalg.norm(one - other) for one in honest for other in honest)
    nearest = min(np.linalg.norm(one - other) for one in honest for other in false)
    assume(nearest > diameter * np.sqrt(sites - bad - 2) * (1 + 1e-6))
    found = aggregate(study(rule, bad, sites), updates)
    if rule == "krum":
        assert (honest == found).all(axis=1).any()
    else:
        assert (np.abs(found) <= np.abs(honest).max(axis=0) * (1 + 1e-12)).all()


def krum_scores(values: np.ndarray, bad: int) -> np.ndarray:
    """Blanchard et al.'s scores, one distance after the other."""
    scores = []
    for mine in values:
        distances = sorted(float(((mine - other) ** 2).sum()) for other in values)
        scores.append(sum(distances[1 : len(values) - bad - 1]))
    return np.array(scores)


@cases
def test_krum_is_an_update_of_the_lowest_score(seed: int, bad: int, more: int, size: int) -> None:
    updates = drawn(np.random.default_rng(seed), needed("krum", bad) + more, size)
    found = aggregate(study("krum", bad, len(updates)), updates)
    values = np.stack(list(updates.values())).astype(np.float64)
    scores = krum_scores(values, bad)
    chosen = (values == found).all(axis=1)
    assert chosen.any()
    assert scores[chosen].min() <= scores.min() * (1 + 1e-9) + 1e-9


@cases
def test_multi_krum_is_the_mean_of_the_lowest_scores(
    seed: int, bad: int, more: int, size: int
) -> None:
    draws = np.random.default_rng(seed)
    updates = {
        f"s{n:02}": draws.standard_normal(size + 3).astype(np.float32)
        for n in range(needed("multi_krum", bad) + more)
    }
    values = np.stack(list(updates.values())).astype(np.float64)
    scores, keep = krum_scores(values, bad), len(values) - bad - 2
    ranked = np.sort(scores)
    assume(keep == len(scores) or ranked[keep] - ranked[keep - 1] > 1e-6)
    found = aggregate(study("multi_krum", bad, len(updates)), updates)
    expected = values[np.argsort(scores)[:keep]].mean(axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", ROBUST)
def test_a_declared_weight_helps_nobody(rule: str) -> None:
    draws = np.random.default_rng(0)
    updates = drawn(draws, 5, 30)
    one = study(rule, 1, 5)
    heavy = one.cohort | {"s00": Participant(units=1, weight=1e6)}
    other = one.model_copy(update={"cohort": heavy})
    assert aggregate(one, updates).tobytes() == aggregate(other, updates).tobytes()


@pytest.mark.parametrize("rule", ROBUST)
def test_many_blocks_are_one(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = np.random.default_rng(0)
    updates = {f"s{n:02}": draws.standard_normal(1003).astype(np.float32) for n in range(7)}
    one = study(rule, 2, 7)
    whole = aggregate(one, updates)
    monkeypatch.setattr(byzantine, "_VALUES_AT_ONCE", 7 * 100)
    np.testing.assert_allclose(aggregate(one, updates), whole, rtol=1e-14)


@pytest.mark.parametrize("rule", ROBUST)
def test_fewer_updates_than_bear_the_false_ones_are_an_error(rule: str) -> None:
    few = needed(rule, 2) - 1
    updates = drawn(np.random.default_rng(0), few + 1, 4)
    one = study(rule, 2, len(updates))
    with pytest.raises(FederationError, match=f"{few} sound updates; {rule} needs {few + 1}"):
        aggregate(one, updates, list(updates)[:few])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("value", [np.nan, 3e38])
def test_no_rule_takes_what_is_not_sound(rule: str, value: float) -> None:
    updates = drawn(np.random.default_rng(0), 6, 4)
    one = study(rule, 0 if rule == "mean" else 1, 6)
    rule_of_round = aggregation_for(one, 4)
    with pytest.raises(ModelError, match="not finite|exceeds max_update_norm"):
        rule_of_round.add("s05", np.array([0, 1, value, 0], np.float32))
    for site in list(updates)[:5]:
        rule_of_round.add(site, updates[site])
    assert rule_of_round.result().tobytes() == aggregate(one, updates, list(updates)[:5]).tobytes()


@pytest.mark.parametrize("role", ["test", "held_out"])
def test_the_weight_of_a_site_that_does_not_train_is_none(role: str) -> None:
    cohort = {
        "a": Participant(weight=0.0),
        "b": Participant.model_validate({"role": role, "weight": 1.0}),
    }
    with pytest.raises(FederationError, match="no training site with a positive weight"):
        aggregation_for(Study(name="test", cohort=cohort), 3)


def test_large_weights_are_shares_like_any_others() -> None:
    """However large the numbers that a cohort names, their sum stays within the accumulator."""
    cohort = {"a": Participant(weight=1e6), "b": Participant(weight=3e6)}
    of = Study(name="test", round=RoundPolicy(max_update_norm=MAX_NORM), cohort=cohort)
    rule = aggregation_for(of, 1)
    for site in cohort:
        rule.add(site, np.array([0.99 * MAX_NORM], np.float32))
    np.testing.assert_allclose(rule.result(), 0.99 * MAX_NORM, rtol=1e-6)
