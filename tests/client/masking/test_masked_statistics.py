"""Statistics under masks: the sum is exact, each lab gives its own once, and only where asked."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from client.consent.explanation import explain
from client.data.site_cells import open_cells
from client.ledger.cost import StudyCost
from client.ledger.hash_chain import STATISTICS as ROUND
from client.ledger.ledger import Ledger
from client.ledger.spending import _planned, check_affordable
from client.masking import masked_counts
from client.policy.policy import Policy
from client.site import open_site
from client.training import statistics_release
from client.training.statistics_release import statistics
from common.config.study import Study
from common.errors import PrivacyError
from common.wire.agreement import Agreement, Purpose
from common.wire.messages import STATISTICS, read_masked_counts
from common.wire.reasons import Reason
from simulations.engine.seeded import SeededEntropy
from tests.client.lab import message, refused
from tests.client.masking.company import NAMES, PRIVACY, SHARED, Company, masked_study

STUDY = masked_study(privacy=PRIVACY | {"statistics_epsilon": 2.0})
PLAIN = masked_study()
LETS = SHARED.model_copy(update={"statistics": True})
ASKED = Agreement(0, 0, NAMES, purpose="statistics")
SIZE = len(STUDY.cell_types) + 3


def ask(
    labs: Company, name: str, agreement: Agreement | None, of: Study = STUDY, number: int = 0
) -> Message:
    attempt = agreement.attempt if agreement else 0
    told = message(of, STATISTICS, number, attempt=attempt, agreement=agreement)
    return labs.ask(name, told)


def words(reply: Message) -> Any:
    return read_masked_counts(reply, SIZE)


def debits(labs: Company, name: str = "lab") -> int:
    with Ledger.read(open_site(labs.sites[name]).ledger) as ledger:
        return len(ledger.rows("debit"))


def test_without_noise_the_sum_is_that_of_all_labs_to_the_last_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = np.zeros(SIZE, np.int64)
    monkeypatch.setattr(statistics_release, "discrete_gaussian", lambda *_: nothing)
    labs = Company(tmp_path, LETS)
    agreement = labs.agree_on(STUDY, ASKED)
    replies = [words(ask(labs, name, agreement)) for name in NAMES]
    exact = [statistics(open_cells(open_site(labs.sites[n]), STUDY), STUDY) for n in NAMES]
    assert np.array_equal(np.sum(replies, 0).view(np.int64), np.sum(exact, 0))
    assert (np.abs(replies[0].view(np.int64).astype(float)) > 2**40).mean() > 0.7, "masked"


def test_masks_change_no_bit_of_the_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labs = Company(tmp_path, LETS, lambda: SeededEntropy(1))
    agreement = labs.agree_on(STUDY, ASKED)
    masked = [words(ask(labs, name, agreement)) for name in NAMES]
    monkeypatch.setattr(masked_counts, "add_mask", lambda *_: None)
    bare = [words(ask(labs, name, agreement)) for name in NAMES]
    assert not np.array_equal(masked[0], bare[0])
    assert np.array_equal(np.sum(masked, 0), np.sum(bare, 0))


def test_what_is_paid_is_what_was_planned_and_the_rounds_are_paid_for_beside_it(
    tmp_path: Path,
) -> None:
    labs, cost = Company(tmp_path, LETS), StudyCost(STUDY)
    wanted = _planned(LETS, cost)
    assert [plan.part for plan in wanted] == ["training", "statistics"]
    assert refused(ask(labs, "lab", labs.agree_on(STUDY, ASKED))) is None
    for number in range(1, STUDY.rounds + 1):
        assert refused(labs.train("lab", STUDY, labs.agree(STUDY, number=number))) is None
    with Ledger.read(open_site(labs.sites["lab"]).ledger) as ledger:
        rows = ledger.rows("debit")
        assert set(ledger.plans(wanted)) == set(wanted)
    assert [row.round for row in rows] == [ROUND, 1, 2, 3]
    event = rows[0].event
    assert event == cost.statistics
    assert (event.mode, event.sample_rate, event.steps) == ("distributed", 1.0, 1)


def test_no_lab_gives_them_twice(tmp_path: Path) -> None:
    """Not with the same key, nor for another, nor in another attempt."""
    labs = Company(tmp_path, LETS)
    agreement = labs.agree_on(STUDY, ASKED)
    assert refused(ask(labs, "lab", agreement)) is None
    assert refused(ask(labs, "lab", agreement)) is Reason.LOST_KEY
    for attempt in (0, 1):
        again = Agreement(0, attempt, NAMES, purpose="statistics")
        assert refused(labs.key("lab", STUDY, again)) is Reason.ANSWERED
    assert debits(labs) == 1


def test_a_key_that_was_given_before_buys_no_second_answer(tmp_path: Path) -> None:
    """The ledger says no, even to a process that has a fresh key: another one paid meanwhile."""
    labs = Company(tmp_path, LETS)
    agreement = labs.agree_on(STUDY, ASKED)
    site = open_site(labs.sites["lab"])
    event = StudyCost(STUDY).statistics
    assert event is not None
    with Ledger.read(site.ledger) as ledger:
        ledger.debit(STUDY.digest, ROUND, 7, event, 1)
    assert refused(ask(labs, "lab", agreement)) is Reason.ANSWERED


@pytest.mark.parametrize("of", [PLAIN, masked_study(privacy={"mode": "local"})])
def test_a_study_that_asks_for_none_gets_none(tmp_path: Path, of: Study) -> None:
    labs = Company(tmp_path, LETS)
    assert refused(labs.key("lab", of, ASKED)) is Reason.BAD_QUESTION
    assert refused(ask(labs, "lab", None, of)) is Reason.BAD_QUESTION
    assert debits(labs) == 0
    if of is PLAIN:
        assert "asks for no statistics" in (tmp_path / "lab" / "site.log").read_text()


def test_they_are_asked_for_before_the_first_round_alone(tmp_path: Path) -> None:
    labs = Company(tmp_path, LETS)
    late = Agreement(1, 0, NAMES, purpose="statistics")
    assert refused(labs.key("lab", STUDY, late)) is Reason.BAD_QUESTION
    agreement = labs.agree_on(STUDY, ASKED)
    assert refused(ask(labs, "lab", agreement, number=1)) is Reason.BAD_QUESTION
    assert refused(ask(labs, "lab", None)) is Reason.BAD_QUESTION, "without masks"
    assert debits(labs) == 0
    assert "are given before the first round" in (tmp_path / "lab" / "site.log").read_text()


@pytest.mark.parametrize("purpose", ["train", "validation"])
def test_a_key_for_another_purpose_is_none_for_them(tmp_path: Path, purpose: Purpose) -> None:
    labs = Company(tmp_path, LETS.model_copy(update={"metrics": "noised"}))
    agreement = labs.agree_on(STUDY, Agreement(0, 0, NAMES, purpose=purpose))
    assert refused(ask(labs, "lab", agreement)) is Reason.BAD_QUESTION
    of_statistics = labs.agree_on(STUDY, ASKED)
    told = message(STUDY, "evaluate", 0, agreement=of_statistics)
    assert refused(labs.ask("lab", told)) is Reason.BAD_QUESTION
    assert debits(labs) == 0


def test_the_policy_decides_about_the_whole_study(tmp_path: Path) -> None:
    labs = Company(tmp_path, SHARED)
    assert refused(labs.key("lab", STUDY, ASKED)) is Reason.STATISTICS
    assert refused(labs.key("lab", STUDY, Agreement(1, 0, NAMES))) is Reason.STATISTICS
    assert refused(labs.key("lab", PLAIN, Agreement(1, 0, NAMES))) is None


def test_a_person_who_approves_is_told_and_one_who_allows_none_sees_it_refused(
    tmp_path: Path,
) -> None:
    labs = Company(tmp_path, SHARED)
    site = open_site(labs.sites["lab"])
    told = explain(site, STUDY, set(NAMES))
    said = dict(told.topics)["statistics"]
    assert "before the first round leaves the number of training cells of each type" in said
    assert "up to epsilon 2 more, which makes 4." in said
    (obstacle,) = told.obstacles
    assert "the policy's statistics is false" in str(obstacle)
    assert "statistics" not in dict(explain(site, PLAIN, set(NAMES)).topics)


def test_a_study_whose_statistics_go_beyond_the_budget_is_refused_before_it_begins(
    tmp_path: Path,
) -> None:
    """Training alone would fit."""

    def affordable(policy: Policy, of: Study) -> None:
        check_affordable(open_site(labs.sites["lab"]), policy, StudyCost(of))

    narrow = LETS.model_copy(update={"study_epsilon": 4.2, "delta": 1e-4})
    labs = Company(tmp_path, narrow)
    affordable(narrow, PLAIN)
    with pytest.raises(PrivacyError, match="cannot be paid to its end") as caught:
        affordable(narrow, STUDY)
    assert caught.value.reason is Reason.BUDGET
    affordable(narrow.model_copy(update={"study_epsilon": 6.0}), STUDY)
