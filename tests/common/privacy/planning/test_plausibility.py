"""Values that are allowed and mean little for a cohort are said, and no others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config.loading import parse
from common.config.study import Study
from common.errors import ConfigError
from common.privacy.accounting import study_event
from common.privacy.planning.plausibility import MUCH_NOISE, doubts, expected_units, noise_of_mean


def study(units: dict[str, int], privacy: dict[str, object] | None = None) -> Study:
    cohort = {name: {"units": number, "weight": number} for name, number in units.items()}
    whole = {"mode": "local", "unit": "patient", "sample_rate": 0.25, "local_steps": 1}
    content = {"name": "doubted", "rounds": 30, "privacy": whole | (privacy or {})}
    return Study.model_validate(content | {"cohort": cohort})


def test_a_few_patients_a_step_under_much_noise_are_said() -> None:
    """Three labs of 17 patients, at rate .25 under noise 1.57: four a step."""
    one = study(dict.fromkeys(("a", "b", "c"), 17))
    (said,) = doubts(one, 1.57)
    assert "a step of a has about 4.2 of its 17 patients against noise of 1.57" in said
    assert "the noise is 0.039 of the clipping norm" in said and "a larger sample_rate" in said
    assert doubts(study(dict.fromkeys(("a", "b", "c"), 170)), 1.57) == []


def test_a_delta_of_one_unit_in_n_is_said() -> None:
    one = study({"a": 1000, "b": 9999}, {"delta": 1e-4, "unit": "image"})
    assert doubts(one, 1.0) == []
    one = study({"a": 1000, "b": 10_000}, {"delta": 1e-4, "unit": "image"})
    (said,) = doubts(one, 1.0)
    assert said.startswith("privacy.delta is 0.0001, and b has 10,000 images: ")
    assert "well below 1 in 10,000" in said


@pytest.mark.parametrize(
    ("units", "privacy"), [({"a": 3}, {"mode": "none", "delta": 0.9}), ({}, {}), ({"a": 0}, {})]
)
def test_without_privacy_or_units_nothing_is_said(
    units: dict[str, int], privacy: dict[str, object]
) -> None:
    assert doubts(study(units, privacy), 5.0) == []


@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.floats(0.01, 100)), min_size=1, max_size=8),
    st.floats(0.1, 50),
    st.floats(1e-6, 1),
)
def test_the_noise_of_a_mean_is_that_of_the_sites_weighted_sums(
    sites: list[tuple[int, float]], noise: float, rate: float
) -> None:
    """Each site divides by what it expects, and the server weighs it."""
    cohort = {f"s{n}": {"units": u, "weight": w} for n, (u, w) in enumerate(sites)}
    privacy = {"mode": "local", "sample_rate": rate}
    one = Study.model_validate({"name": "noisy", "privacy": privacy, "cohort": cohort})
    expected = expected_units(one)
    whole = sum(weight for _, weight in sites)
    variances = [
        (weight / whole * noise / expected[f"s{n}"]) ** 2 for n, (_, weight) in enumerate(sites)
    ]
    steps = one.rounds * one.privacy.local_steps
    assert noise_of_mean(one, noise) == pytest.approx((sum(variances) / steps) ** 0.5)
    assert bool(doubts(one, noise)) >= (noise_of_mean(one, noise) >= MUCH_NOISE)


@pytest.mark.parametrize("rate", [1e-9, 9e-7, 0.0])
def test_a_rate_at_which_no_unit_is_drawn_is_refused(rate: float) -> None:
    with pytest.raises(
        ConfigError, match=r"privacy.sample_rate: .*greater than or equal to 0.000001"
    ):
        parse(Study, {"name": "rare", "privacy": {"mode": "local", "sample_rate": rate}}, "rare")


def test_the_lowest_rate_is_calibrated() -> None:
    one = study({"a": 1}, {"sample_rate": 1e-6, "epsilon": 1.0, "delta": 1e-6})
    assert study_event(one.privacy, 100).noise_multiplier > 0


def test_in_mode_distributed_the_mean_has_the_shares_of_all_sites_in_it() -> None:
    """Three sites of 30 units at rate .5, one may collude: each adds 1/sqrt(2) of the noise."""
    cohort = {name: {"units": 30, "weight": 2} for name in ("a", "b", "c")}
    privacy = {"mode": "distributed", "sample_rate": 0.5, "local_steps": 1}
    content = {"name": "shared", "rounds": 4, "privacy": privacy, "cohort": cohort}
    shares = 3 * (3.0 * 2 / 2**0.5) ** 2
    wanted = shares**0.5 / (3 * 2 * 0.5 * 30) / 4**0.5
    assert noise_of_mean(Study.model_validate(content), 3.0) == pytest.approx(wanted)
