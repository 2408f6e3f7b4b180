"""Counts that are summed under masks: the sum is exact, its noise is one, and it is paid for."""

from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

from client.ledger.cost import StudyCost
from client.ledger.ledger import Ledger
from client.ledger.spending import _planned
from client.masking import masked_counts
from client.site import open_site
from common.privacy.metrics_noise import metrics_sigma, shared_metrics_sigma
from common.wire.agreement import Agreement
from common.wire.messages import KEYS, read_masked_counts, read_tally
from common.wire.reasons import Reason
from simulations.engine.seeded import SeededEntropy
from tests.client.lab import message, refused
from tests.client.masking.company import NAMES, SHARED, Company, masked_study

STUDY = masked_study()
NOISED = SHARED.model_copy(update={"metrics": "noised"})
ASKED = Agreement(1, 0, NAMES, purpose="validation")


def evaluate(labs: Company, name: str, agreement: Agreement | None, **task: object) -> Message:
    return labs.ask(name, message(STUDY, "evaluate", 1, agreement=agreement, **task))


def words(reply: Message) -> object:
    return read_masked_counts(reply, len(STUDY.cell_types) ** 2 + 2)


def test_the_sum_is_the_sum_of_the_noised_counts_to_the_last_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labs = Company(tmp_path, NOISED, lambda: SeededEntropy(1))
    agreement = labs.agree_on(STUDY, ASKED)
    masked = [words(evaluate(labs, name, agreement)) for name in NAMES]
    monkeypatch.setattr(masked_counts, "add_mask", lambda *_: None)
    bare = [words(evaluate(labs, name, agreement)) for name in NAMES]
    assert not any(np.array_equal(one, other) for one, other in zip(masked, bare, strict=True))
    assert np.array_equal(np.sum(masked, 0), np.sum(bare, 0))
    # What is left of one lab's masks is no count of cells.
    assert (np.abs(np.asarray(masked[0]).view(np.int64).astype(float)) > 2**40).mean() > 0.9


def test_the_sum_has_the_noise_of_its_shares_and_less_than_each_labs_own(tmp_path: Path) -> None:
    labs, errors = Company(tmp_path, NOISED), []
    for number in range(30):  # studies of their own: each may be asked a few times alone
        one = STUDY.model_copy(update={"name": f"study-{number}"})
        agreement = labs.agree_on(one, ASKED)
        replies = [
            labs.ask(name, message(one, "evaluate", 1, agreement=agreement)) for name in NAMES
        ]
        total = np.sum([words(reply) for reply in replies], 0).view(np.int64)
        # Each cell is counted twice, once in the matrix: what differs is noise.
        errors.append(int(total[0] + total[1] - total[2:].sum()))
    expected = np.sqrt((2 + len(STUDY.cell_types) ** 2) * 3) * shared_metrics_sigma(STUDY)
    assert 0.6 < float(np.std(errors)) / expected < 1.5
    assert 3 * shared_metrics_sigma(STUDY) ** 2 < 3 * metrics_sigma(STUDY) ** 2


def test_counts_under_masks_are_paid_for_once_in_their_mode(tmp_path: Path) -> None:
    labs = Company(tmp_path, NOISED)
    agreement = labs.agree_on(STUDY, ASKED)
    assert refused(evaluate(labs, "lab", agreement)) is None
    assert refused(evaluate(labs, "lab", agreement)) is Reason.LOST_KEY
    assert refused(labs.key("lab", STUDY, ASKED)) is Reason.ANSWERED
    with Ledger.read(open_site(labs.sites["lab"]).ledger) as ledger:
        (event,) = ledger.events()
    assert (event.mode, event.sample_rate, event.steps) == ("distributed", 1.0, 1)


@pytest.mark.parametrize("purpose", ["train", "test"])
def test_a_key_for_one_purpose_is_none_for_another(tmp_path: Path, purpose: str) -> None:
    labs = Company(tmp_path, NOISED)
    other = Agreement(1, 0, NAMES, purpose=purpose)  # type: ignore[arg-type]
    assert refused(evaluate(labs, "lab", labs.agree_on(STUDY, other))) is Reason.BAD_QUESTION
    assert refused(labs.train("lab", STUDY, labs.agree_on(STUDY, ASKED))) is Reason.BAD_QUESTION


@pytest.mark.parametrize("metrics", ["none", "exact"])
def test_a_lab_that_lets_no_noised_counts_leave_gives_no_key_for_them(
    tmp_path: Path, metrics: str
) -> None:
    labs = Company(tmp_path, SHARED.model_copy(update={"metrics": metrics}))
    assert refused(labs.key("lab", STUDY, ASKED)) is Reason.METRICS
    reply = evaluate(labs, "lab", None)
    if metrics == "exact":
        assert read_tally(reply, STUDY)
    else:
        assert refused(reply) is Reason.METRICS


def test_the_budget_counts_the_evaluations_once(tmp_path: Path) -> None:
    """What was planned before the first evaluation is what was begun after it."""
    labs, wanted = Company(tmp_path, NOISED), _planned(NOISED, StudyCost(STUDY))
    assert refused(evaluate(labs, "lab", labs.agree_on(STUDY, ASKED))) is None
    with Ledger.read(open_site(labs.sites["lab"]).ledger) as ledger:
        assert set(ledger.plans(wanted)) == set(wanted)


def test_a_lab_that_trains_gives_its_noised_counts_to_no_server_that_asks_it_alone(
    tmp_path: Path,
) -> None:
    labs = Company(tmp_path, NOISED)
    assert refused(evaluate(labs, "lab", None)) is Reason.METRICS
    with Ledger.read(open_site(labs.sites["lab"]).ledger) as ledger:
        assert not ledger.rows("debit")


def test_a_lab_that_could_not_pay_gives_no_key(tmp_path: Path) -> None:
    labs = Company(tmp_path, NOISED)
    agreement = labs.agree(STUDY)
    assert refused(labs.train("lab", STUDY, agreement)) is None
    assert refused(labs.key("lab", STUDY, Agreement(1, 0, NAMES))) is Reason.ANSWERED
    for attempt in range(1, STUDY.rounds + STUDY.privacy.spare_rounds):
        assert refused(labs.train("lab", STUDY, labs.agree(STUDY, attempt=attempt))) is None
    assert refused(labs.key("lab", STUDY, Agreement(1, 99, NAMES))) is Reason.BUDGET
    asked = message(STUDY, KEYS, 1, agreement=ASKED, head="0" * 64)
    assert refused(labs.ask("lab", asked)) is Reason.OTHER_LEDGER
