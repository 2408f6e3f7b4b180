"""What each adversary sees of a site's noise, in local and in distributed mode."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config.distributed import noise_shares
from common.config.loading import parse
from common.config.study import Participant, Study
from common.errors import PrivacyError
from common.privacy.accounting import Event, calibrate, epsilon
from common.privacy.planning.plan import cohort_of
from common.privacy.planning.threat_models import Cohort, seen, views

COHORTS = st.builds(
    lambda shares, colluders, dropouts: Cohort(
        sites=shares + colluders + dropouts, colluders=colluders, dropouts=dropouts
    ),
    st.integers(2, 40),
    st.integers(0, 5),
    st.integers(0, 5),
)
EVENT = Event(
    mechanism="poisson_discrete_gaussian",
    sample_rate=1.0,
    noise_multiplier=8.0,
    steps=12,
    unit="image",
)
"""Without sampling, which composes fastest."""


@pytest.mark.parametrize(("insiders", "measured"), [(1, 3.52), (3, 6.33), (4, 13.3)])
def test_epsilon_3_shared_by_five_leaks_to_insiders_what_an_experiment_measured(
    insiders: int, measured: float
) -> None:
    """400 steps at rate 0.05. The experiment's noise was calibrated only to within 0.01 to 0.02 of
    epsilon 3, hence the 2 %."""
    noise = calibrate(3.0, 1e-5, 0.05, 400)
    event = replace(EVENT, sample_rate=0.05, noise_multiplier=noise, steps=400)
    cohort = Cohort(sites=5, colluders=0)
    assert epsilon([seen(event, cohort)], 1e-5) == epsilon([event], 1e-5) <= 3.0
    assert epsilon([seen(event, cohort, insiders)], 1e-5) == pytest.approx(measured, rel=0.02)


@given(cohort=COHORTS, noise=st.floats(0.1, 100))
@settings(max_examples=40)
def test_the_shares_make_the_whole_noise_for_whom_they_were_planned(
    cohort: Cohort, noise: float
) -> None:
    event = replace(EVENT, noise_multiplier=noise)
    planned = seen(event, cohort, cohort.colluders, cohort.dropouts)
    assert planned.noise_multiplier == pytest.approx(noise, rel=1e-12)
    alone = seen(event, cohort, cohort.sites - 1).noise_multiplier
    assert alone == pytest.approx(noise * cohort.relative_noise, rel=1e-12)
    assert alone**2 * cohort.sites == pytest.approx(seen(event, cohort).noise_multiplier ** 2)
    # n sites with whole noise each have sqrt(n) of it together.
    together = noise * math.sqrt(cohort.sites)
    assert seen(event, cohort).noise_multiplier == pytest.approx(together * cohort.relative_noise)


@pytest.mark.parametrize(
    ("cohort", "adversaries"),
    [
        (Cohort(sites=2), ("the server, outsiders", "the other site")),
        (Cohort(sites=5), ("the server, outsiders", "one other site", "all other sites")),
        (
            Cohort(sites=7, colluders=2, dropouts=1),
            (
                "the server, outsiders",
                "one other site",
                "2 other sites, 1 dropped",
                "all other sites",
            ),
        ),
    ],
)
def test_the_views_run_from_the_weakest_adversary_to_the_strongest(
    cohort: Cohort, adversaries: tuple[str, ...]
) -> None:
    local, *distributed = views(EVENT, cohort, 1e-5, [1, 4, 6], local_steps=2)
    assert local.mode == "local" and local.epsilon == epsilon([EVENT], 1e-5)
    assert tuple(view.adversary for view in distributed) == adversaries
    assert {view.mode for view in distributed} <= {"distributed"}
    costs = [view.epsilon for view in distributed]
    assert costs == sorted(costs)
    for view in (local, *distributed):
        rounds, spent = zip(*view.by_round, strict=True)
        assert rounds == (1, 4, 6) and list(spent) == sorted(spent)


def test_the_planned_adversary_costs_what_local_mode_costs() -> None:
    local, server, insider, _ = views(EVENT, Cohort(sites=4), 1e-5, [6], local_steps=2)
    assert server.epsilon < insider.epsilon
    assert insider.epsilon == pytest.approx(local.epsilon, rel=1e-6)


def test_of_a_study_in_mode_distributed_the_views_are_the_same() -> None:
    shared = replace(EVENT, mode="distributed")
    found = views(shared, Cohort(sites=4), 1e-5, [6], local_steps=2)
    assert found == views(EVENT, Cohort(sites=4), 1e-5, [6], local_steps=2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sites": 1, "colluders": 0},
        {"sites": 3, "colluders": 3},
        {"sites": 3, "dropouts": 2},
        {"sites": 3, "colluders": -1},
        {"sites": 3, "dropouts": -1},
    ],
)
def test_a_cohort_without_a_share_left_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(PrivacyError, match=f"cohort: {wrong['sites']} sites"):
        Cohort(**wrong)


@pytest.mark.parametrize(("insiders", "dropped"), [(-1, 0), (0, -1), (5, 0), (3, 2)])
def test_an_adversary_that_cannot_be_is_refused(insiders: int, dropped: int) -> None:
    with pytest.raises(PrivacyError, match="one site left"):
        seen(EVENT, Cohort(sites=5), insiders, dropped)


def test_the_studys_training_sites_are_the_cohort_unless_a_number_is_given() -> None:
    alone = parse(Study, {"name": "s"}, "test")
    assert cohort_of(alone) == Cohort(sites=5), "an example where the study names none"
    assert cohort_of(alone, sites=4, colluders=2) == Cohort(sites=4, colluders=2)
    members = {
        "a": Participant(),
        "b": Participant(),
        "t": Participant(role="test"),
        "h": Participant(role="held_out"),
    }
    study = alone.model_copy(update={"cohort": members})
    assert cohort_of(study) == Cohort(sites=2)
    assert cohort_of(study, sites=9) == Cohort(sites=9)
    with pytest.raises(PrivacyError, match="cohort: 0 sites"):
        cohort_of(study, sites=0)
    with pytest.raises(PrivacyError, match="cohort: 2 sites"):
        cohort_of(study, colluders=2)


def test_the_cohort_plans_for_the_studys_colluders_and_dropouts() -> None:
    cohort = {name: {"units": 30} for name in ("a", "b", "c", "d", "e")}
    privacy = {"mode": "distributed", "local_steps": 1, "colluders": 2, "dropouts": 1}
    study = parse(Study, {"name": "s", "cohort": cohort, "privacy": privacy}, "test")
    assert cohort_of(study) == Cohort(sites=5, colluders=2, dropouts=1)
    assert cohort_of(study).shares == noise_shares(study)
    assert cohort_of(study, colluders=0, dropouts=0) == Cohort(sites=5, colluders=0)
