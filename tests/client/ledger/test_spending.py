"""What is paid for an answer: the whole of it, once, before it is made, and by the site's rules."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.ledger import binding
from client.ledger.cost import StudyCost
from client.ledger.hash_chain import LedgerRow
from client.ledger.ledger import Ledger
from client.ledger.spending import (
    Account,
    check_affordable,
    pay_for_metrics,
    pay_for_training,
    spent_epsilon,
)
from client.policy.policy import read_policy
from client.randomness import SystemEntropy
from client.site import open_site
from common.config.loading import dump
from common.config.study import Site, Study
from common.errors import PrivacyError
from common.privacy.accounting import Event, epsilon
from common.privacy.metrics_noise import evaluations, metrics_noise
from common.wire.messages import Task
from common.wire.reasons import Reason
from simulations.engine.seeded import SeededEntropy
from tests.client.lab import OPEN, PRIVACY, make_lab, request, study

NOISED = OPEN.model_copy(update={"metrics": "noised"})
PATIENTS = PRIVACY | {"unit": "patient", "spare_rounds": 2}
WHOLE = PRIVACY | {"sample_rate": 1.0}
"""Of everybody in each step: an accountant's quickest question, where it is not about the rate."""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return open_site(make_lab(tmp_path, NOISED, cells=10))


def debits(site: Site) -> tuple[LedgerRow, ...]:
    with Ledger.read(site.ledger) as ledger:
        return ledger.rows("debit")


def paid(site: Site, of: Study, number: int = 1, attempt: int = 0, **task: Any) -> Account:
    return pay_for_training(request(site, Task(of, number, attempt, **task)), SystemEntropy())


def paid_for_metrics(
    site: Site, of: Study, number: int = 1, split: str = "validation", **task: Any
) -> Account:
    asked = request(site, Task(of, number, split=split, **task))
    return pay_for_metrics(asked, SystemEntropy())


def event(of: Study, noise: float, rate: float, steps: int) -> Event:
    return Event(
        mechanism="poisson_discrete_gaussian",
        sample_rate=rate,
        noise_multiplier=noise,
        steps=steps,
        unit=of.privacy.unit,
        mode="local",
    )


def test_a_rounds_debit_is_all_of_its_steps(site: Site) -> None:
    of = study(privacy=PATIENTS)
    found = paid(site, of, 2, 1)
    (row,) = debits(site)
    assert (row.study, row.round, row.attempt) == (of.digest, 2, 1)
    assert row.event == event(of, StudyCost(of).noise_multiplier, 0.4, 2)
    assert (found.noise_multiplier, found.head) == (row.event.noise_multiplier, row.hash)
    assert found.epsilon == pytest.approx(epsilon([row.event], of.privacy.delta))
    assert spent_epsilon(site, of) == found.epsilon
    assert paid(site, of, 3).epsilon == pytest.approx(epsilon([row.event] * 2, of.privacy.delta)), (
        "all rounds so far"
    )


def test_an_evaluations_debit_is_of_every_unit_once(site: Site) -> None:
    of = study(privacy=PATIENTS)
    found = paid_for_metrics(site, of, 2, "test")
    (row,) = debits(site)
    assert row.round < 0 and row.study == of.digest
    assert row.event == event(of, metrics_noise(of), 1.0, 1)
    assert (found.noise_multiplier, found.head) == (row.event.noise_multiplier, row.hash)


@pytest.mark.parametrize("privacy", [PRIVACY, PATIENTS])
def test_the_noise_meets_the_studys_epsilon_with_the_spare_rounds_and_hardly_more(
    privacy: dict[str, Any],
) -> None:
    of = study(privacy=privacy)
    answers = of.rounds + of.privacy.spare_rounds
    everything = [event(of, StudyCost(of).noise_multiplier, 0.4, 2)] * answers
    assert 0.95 * of.privacy.epsilon < epsilon(everything, of.privacy.delta) <= of.privacy.epsilon
    counts = [event(of, metrics_noise(of), 1.0, 1)] * evaluations(of)
    assert 0.95 < epsilon(counts, of.privacy.delta) <= of.evaluation.epsilon == 1.0


@settings(max_examples=30)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 5))
def test_evaluations_are_those_planned_the_test_and_the_spare_ones(
    rounds: int, every: int, spare: int
) -> None:
    of = study(
        rounds=rounds, evaluation={"every": every}, privacy=PRIVACY | {"spare_rounds": spare}
    )
    assert evaluations(of) == math.ceil(rounds / every) + 1 + spare


def test_a_study_without_privacy_pays_nothing_and_has_no_noise(site: Site) -> None:
    of = study(privacy={})
    assert StudyCost(of).noise_multiplier == 0.0
    found = paid(site, of)
    assert debits(site) == ()
    with Ledger.read(site.ledger) as ledger:
        (row,) = ledger.rows("unprotected")
        assert found == Account(0.0, None, row.hash)
        assert (row.study, row.round, row.attempt) == (of.digest, 1, 0)
    check_affordable(site, read_policy(site.policy), StudyCost(of))


def test_every_round_and_split_has_a_number_of_its_own(site: Site) -> None:
    of = study(rounds=4, privacy=WHOLE | {"spare_rounds": 20})
    for number in range(1, 5):
        paid(site, of, number)
    for number in range(5):
        for split in ("validation", "test"):
            paid_for_metrics(site, of, number, split)
    numbers = [row.round for row in debits(site)]
    assert len(set(numbers)) == 14 and sum(number < 0 for number in numbers) == 10


def test_no_more_rounds_are_paid_for_than_the_noise_was_made_for(site: Site) -> None:
    of = study(privacy=WHOLE | {"spare_rounds": 2}, rounds=2)
    for attempt in range(4):
        paid(site, of, 1, attempt)
    with pytest.raises(PrivacyError, match="all 4 rounds that the study's epsilon is for"):
        paid(site, of, 2)
    for attempt in range(evaluations(of)):
        paid_for_metrics(site, of, 1, attempt=attempt)
    with pytest.raises(PrivacyError, match=r"all 5 evaluations that the study's epsilon is for"):
        paid_for_metrics(site, of, 2)


def test_a_debit_is_held_against_the_policys_budget(tmp_path: Path) -> None:
    of = study(privacy=WHOLE)
    one = epsilon(
        [event(of, StudyCost(of).noise_multiplier, of.privacy.sample_rate, 2)], OPEN.delta
    )
    for room, fits in ((1.01, True), (0.99, False)):
        budget = NOISED.model_copy(update={"study_epsilon": room * one, "metrics": "none"})
        site = open_site(make_lab(tmp_path / str(fits), budget, cells=10))
        if fits:
            paid(site, of)
        else:
            with pytest.raises(PrivacyError, match="the study would cost"):
                paid(site, of)
        assert len(debits(site)) == fits


@pytest.mark.parametrize("pay", [paid, paid_for_metrics])
def test_a_ledger_without_the_row_that_the_server_saw_last_pays_nothing(
    site: Site, pay: Any
) -> None:
    of = study(privacy=WHOLE)
    first = paid(site, of)
    pay(site, of, 2, head=first.head)
    with pytest.raises(PrivacyError, match="does not contain the row ffff"):
        pay(site, of, 3, head="f" * 64)
    assert len(debits(site)) == 2


def test_another_data_sets_ledger_pays_nothing(site: Site) -> None:
    site.ledger.unlink()
    Ledger.create(site.ledger, "other cells").close()
    with pytest.raises(PrivacyError, match="is the ledger of data set other cells"):
        paid(site, study(privacy=WHOLE))
    with pytest.raises(PrivacyError, match="is the ledger of data set other cells"):
        spent_epsilon(site, study(privacy=WHOLE))


def test_bits_that_repeat_are_paid_for_once_and_new_ones_each_time(site: Site) -> None:
    """A simulation cut off in a round releases the same again; a real site new noise."""
    of = study(rounds=2, privacy=WHOLE | {"spare_rounds": 3})
    for attempt in (0, 1):
        pay_for_training(request(site, Task(of, 1, attempt)), SeededEntropy(1))
    assert len(debits(site)) == 1
    pay_for_training(request(site, Task(of, 2)), SeededEntropy(1))
    assert len(debits(site)) == 2
    for attempt in (2, 3):
        paid(site, of, 1, attempt)
    assert len(debits(site)) == 4


def affordable(site: Site, of: Study, **policy: Any) -> PrivacyError | None:
    """Why the study is not, by a policy that is taken back afterwards."""
    usual = site.policy.read_text()
    site.policy.write_text(dump(NOISED.model_copy(update=policy)))
    try:
        check_affordable(site, read_policy(site.policy), StudyCost(of))
    except PrivacyError as error:
        return error
    finally:
        site.policy.write_text(usual)
    return None


def test_a_study_is_affordable_when_training_and_evaluations_fit_to_their_end(site: Site) -> None:
    of = study(privacy=WHOLE | {"unit": "patient", "spare_rounds": 2})
    training = event(of, StudyCost(of).noise_multiplier, of.privacy.sample_rate, 2 * 5)
    counts = event(of, metrics_noise(of), 1.0, evaluations(of))
    for policy, events in (("none", [training]), ("noised", [training, counts])):
        bound = epsilon(events, OPEN.delta)
        assert affordable(site, of, metrics=policy, study_epsilon=bound * 1.001) is None
        reason = affordable(site, of, metrics=policy, study_epsilon=bound * 0.999)
        assert "the study would cost" in str(reason)


def test_what_other_studies_spent_counts_and_what_this_one_spent_does_not_twice(
    site: Site,
) -> None:
    of, other = study(privacy=WHOLE), study(privacy=WHOLE, name="other", rounds=2)

    def fits(lifetime: float) -> bool:
        bounds = {"lifetime_epsilon": lifetime, "study_epsilon": lifetime, "metrics": "none"}
        reason = affordable(site, of, **bounds)
        assert reason is None or reason.reason is Reason.BUDGET
        return reason is None

    just = next(bound for bound in (part / 50 for part in range(50, 1000)) if fits(bound))
    paid(site, of)
    assert fits(just), "its own first round is among what it plans"
    paid(site, other, 1)
    paid(site, other, 2)
    assert not fits(just) and fits(3 * just)


def test_a_fingerprint_is_read_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    paid(site, study(privacy=WHOLE))
    monkeypatch.setattr(binding.CellCache, "open", lambda *_: pytest.fail("read"))
    paid(site, study(privacy=WHOLE), 2)


def test_what_leaves_without_noise_is_written_once_for_bits_that_repeat(site: Site) -> None:
    of = study(privacy={})

    def rows() -> int:
        with Ledger.read(site.ledger) as ledger:
            return len(ledger.rows("unprotected"))

    for attempt in (0, 1):
        pay_for_training(request(site, Task(of, 1, attempt)), SeededEntropy(1))
        assert rows() == 1
    pay_for_training(request(site, Task(of, 2)), SeededEntropy(1))
    assert rows() == 2
    for attempt in (2, 3):
        paid(site, of, 1, attempt)
    assert rows() == 4


def test_metrics_that_were_paid_for_are_among_what_the_study_plans(site: Site) -> None:
    of = study(privacy=WHOLE)

    def fits(lifetime: float) -> bool:
        return affordable(site, of, lifetime_epsilon=lifetime, study_epsilon=lifetime) is None

    just = next(bound for bound in (part / 100 for part in range(100, 1000)) if fits(bound))
    paid(site, of)
    paid_for_metrics(site, of)
    assert fits(just)


def test_the_epsilon_is_exact_where_the_plan_ends_and_a_bound_before(site: Site) -> None:
    """With spare rounds and without: 80 and 76 steps, which are not in the bound's series."""
    of = study(rounds=38, privacy=WHOLE | {"spare_rounds": 2})
    for number in range(1, 41):
        found = paid(site, of, min(number, 38), number)
        exact = spent_epsilon(site, of)
        if number in (38, 40):
            assert found.epsilon == exact
        elif number == 39:
            assert found.epsilon is not None and exact < found.epsilon <= 1.05 * exact
