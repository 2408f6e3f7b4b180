"""The order of what a lab does with a message: ask, then pay, then look, and what then leaves."""

from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Message

from client import app as client
from client.app import client_app
from client.ledger.cost import StudyCost
from client.ledger.hash_chain import LedgerRow
from client.ledger.ledger import Ledger
from client.policy.policy import Policy
from client.site import open_site
from client.training import metrics_release
from client.training.job import Job
from common.config.loading import dump
from common.config.study import Participant, Runtime, Site, Study
from common.errors import PrivacyError
from common.models import build
from common.models.classifier import federated
from common.models.parameter_vector import flatten
from common.wire.messages import Update, read_absence, read_head, read_refusal, read_tally
from common.wire.reasons import Reason
from common.wire.vector_codec import encode
from tests.client.lab import OPEN, PRIVACY, context, first_model, make_lab, message, refused, study

NOISED = OPEN.model_copy(update={"metrics": "noised"})
CENTRED = {"name": "cnn", "width": 2, "encoder": "frozen", "centre": True}


def debits(site: Path) -> tuple[LedgerRow, ...]:
    with Ledger.read(open_site(site).ledger) as ledger:
        return ledger.rows("debit")


def asked(site: Path, of: Study, kind: str = "train", number: int = 1, **task: Any) -> Message:
    return client_app()(message(of, kind, number, **task), context(site))


def logged(site: Path) -> str:
    """The reason that the site's log gives last."""
    return (site.parent / "site.log").read_text().splitlines()[-1]


def update(reply: Message, of: Study) -> Update:
    assert read_refusal(reply) is None
    return Update.read(reply, len(first_model(of)))


def centre_sought(site: Path, of: Study, attempt: int, number: int = 1) -> Message:
    """The answer to a round of a study whose centre is among what travels."""
    sent = message(of, "train", number, attempt=attempt)
    model = build(of.model, len(of.cell_types), of.image_side, of.seed)
    sent.content.array_records["model"]["values"] = encode(flatten(federated(model)))
    return client_app()(sent, context(site))


class Looked(Exception):
    """A cell was looked at."""


def look(*_: object, **__: object) -> NoReturn:
    raise Looked


@pytest.mark.parametrize(
    ("kind", "where", "name"),
    [("train", client, "train"), ("evaluate", metrics_release, "predict")],
)
def test_a_round_that_ends_in_the_middle_is_paid_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, where: Any, name: str
) -> None:
    """The row is there before the first cell is looked at, let alone the noise drawn."""
    site = make_lab(tmp_path, NOISED, cells=120)
    monkeypatch.setattr(where, name, look)
    assert refused(asked(site, study(), kind)) is Reason.INTERNAL
    assert "Looked" in (tmp_path / "site.log").read_text()
    (row,) = debits(site)
    assert row.study == study().digest


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_what_cannot_be_paid_for_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    site = make_lab(tmp_path, NOISED)
    (tmp_path / "ledger.sqlite").unlink()
    monkeypatch.setattr(client, "train", look)
    monkeypatch.setattr(metrics_release, "predict", look)
    assert refused(asked(site, study(), kind)) is Reason.NO_LEDGER
    assert "the privacy ledger is missing" in logged(site)


@pytest.mark.parametrize("kind", ["query.prepare", "train", "evaluate"])
def test_what_the_policy_refuses_opens_no_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    site = make_lab(tmp_path, OPEN.model_copy(update={"min_cohort": 2}))
    monkeypatch.setattr(client, "workspace", look)
    assert refused(asked(site, study(), kind)) is Reason.MIN_COHORT
    assert "min_cohort" in logged(site)


class NeverApproved:
    """A site at which nobody approved anything."""

    def check(self, site: Site, policy: Policy, study: Study) -> None:
        raise PrivacyError("nobody approved it")


@pytest.mark.parametrize("kind", ["query.prepare", "train", "evaluate"])
def test_what_nobody_approved_opens_no_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    site = make_lab(tmp_path, NOISED)
    monkeypatch.setattr(client, "workspace", look)
    reply = client_app(approvals=NeverApproved())(message(study(), kind), context(site))
    assert refused(reply) is Reason.INTERNAL and debits(site) == ()
    assert "nobody approved it" in (tmp_path / "site.log").read_text()


@pytest.mark.parametrize("kind", ["query.prepare", "train", "evaluate"])
def test_an_approval_that_ends_before_the_answer_is_there_holds_it_back(
    tmp_path: Path, kind: str
) -> None:
    class Once:
        def __init__(self) -> None:
            self.asked = 0

        def check(self, site: Site, policy: Policy, study: Study) -> None:
            self.asked += 1
            if self.asked == 2:
                raise PrivacyError("taken back", Reason.WITHDRAWN)

    approvals, site = Once(), make_lab(tmp_path, NOISED)
    reply = client_app(approvals=approvals)(message(study(), kind), context(site))
    assert refused(reply) is Reason.WITHDRAWN and approvals.asked == 2


@pytest.mark.parametrize("kind", ["query.prepare", "train", "evaluate"])
def test_outside_its_hours_a_site_opens_no_cell_and_says_that_it_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    site = make_lab(tmp_path, NOISED.model_copy(update={"hours": ("20:00-06:00",)}))
    monkeypatch.setattr(client, "workspace", look)
    for hour, reason in ((12, Reason.HOURS), (23, None)):
        awake = client_app(clock=lambda hour=hour: datetime(2026, 5, 4, hour))  # type: ignore[misc]
        reply = awake(message(study(), kind), context(site))
        away = read_absence(reply)
        assert (away and away.reason) == reason
        assert (refused(reply) is Reason.INTERNAL) == (reason is None), "a cell was looked at"
    assert debits(site) == ()


@pytest.mark.parametrize(
    ("kind", "where", "check"),
    [
        ("train", StudyCost, "check_drawable"),
        ("train", client, "check_alone"),
        ("train", Job, "check"),
        ("evaluate", client, "check_alone"),
    ],
)
def test_what_stands_in_the_way_is_said_before_anything_is_paid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, where: Any, check: str
) -> None:
    def faulty(*_: object) -> NoReturn:
        raise PrivacyError("of no use", Reason.DEVICE)

    site = make_lab(tmp_path, NOISED)
    monkeypatch.setattr(where, check, faulty)
    assert refused(asked(site, study(), kind)) is Reason.DEVICE
    assert "of no use" in logged(site) and debits(site) == ()


def test_who_is_ready_has_the_cells_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, done = make_lab(tmp_path), []
    monkeypatch.setattr(client, "check_ready", lambda *_: done.append("ready"))
    monkeypatch.setattr(client, "workspace", lambda *_: done.append("opened"))
    assert read_refusal(asked(site, study(), "query.prepare", number=0)) is None
    assert done == ["ready", "opened"]


@pytest.mark.parametrize("threads", [1, 3])
def test_a_site_computes_with_as_many_threads_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    site = make_lab(tmp_path)
    given: list[int] = []
    runtime = Runtime(threads=threads)
    site.write_text(dump(open_site(site).model_copy(update={"runtime": runtime})))
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    asked(site, study(), "query")
    assert given == [threads]


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_a_weight_as_large_as_the_policys_is_taken_and_a_hair_more_is_not(
    tmp_path: Path, kind: str
) -> None:
    of, site = study(), make_lab(tmp_path, NOISED.model_copy(update={"max_weight": 0.5}))
    values, most = np.clip(first_model(of), -0.1, 0.1), np.float32(0.5)
    for attempt, largest in enumerate((np.float32(0.1), -most, np.nextafter(most, np.float32(1)))):
        values[3] = largest
        reply = client_app()(message(of, kind, 1, values, attempt=attempt), context(site))
        assert refused(reply) is (Reason.MAX_WEIGHT if attempt == 2 else None)


@pytest.mark.parametrize("kind", ["train", "evaluate"])
@pytest.mark.parametrize("names", [(), ("model", "other"), ("values", "other"), None])
def test_a_message_with_no_vector_or_with_more_than_one_is_no_question(
    tmp_path: Path, kind: str, names: tuple[str, ...] | None
) -> None:
    of, site = study(), make_lab(tmp_path, NOISED)
    sent, vector = message(of, kind), encode(first_model(of))
    del sent.content["model"]
    if names is not None:
        sent.content["model"] = ArrayRecord(dict.fromkeys(names, vector))
    assert refused(client_app()(sent, context(site))) is Reason.BAD_QUESTION
    assert f"a {kind} message without a model vector" in logged(site) and debits(site) == ()


def test_two_studies_that_ask_in_turn_have_a_line_of_the_log_each(tmp_path: Path) -> None:
    site, app = make_lab(tmp_path, OPEN.model_copy(update={"min_cohort": 2})), client_app()
    for _ in range(3):
        for name in ("one", "other"):
            assert refused(app(message(study(name=name)), context(site))) is Reason.MIN_COHORT
    assert len((tmp_path / "site.log").read_text().splitlines()) == 2


@pytest.mark.parametrize("role", ["test", "held_out"])
def test_a_site_that_only_tests_never_trains(tmp_path: Path, role: str) -> None:
    site = make_lab(tmp_path, NOISED)
    cohort = {
        "lab": Participant.model_validate({"role": role, "units": 20}),
        "other": Participant(units=20),
    }
    assert refused(asked(site, study(cohort=cohort))) is Reason.BAD_QUESTION
    assert debits(site) == ()
    assert read_refusal(asked(site, study(cohort=cohort), "evaluate", split="test")) is None


def test_the_round_that_finds_the_centre_is_paid_for_like_any_other(tmp_path: Path) -> None:
    """And so are its attempts: as many as the noise was made for, and no more."""
    site = make_lab(tmp_path)
    of = study(model=CENTRED, privacy=PRIVACY | {"spare_rounds": 1})
    first = centre_sought(site, of, 0)
    (row,) = debits(site)
    assert (row.round, row.event.steps) == (1, of.privacy.local_steps)
    assert read_head(first) == row.hash
    answers = [read_refusal(centre_sought(site, of, attempt)) is None for attempt in range(1, 8)]
    assert answers == [True] * 3 + [False] * 4
    assert len(debits(site)) == of.rounds + of.privacy.spare_rounds
    assert refused(centre_sought(site, of, 0, 2)) is Reason.BUDGET
    assert "all 4 rounds that the study's epsilon is for are paid for" in logged(site)


@pytest.mark.parametrize(
    ("policy", "leaves"),
    [(OPEN, True), (NOISED, False), (OPEN.model_copy(update={"metrics": "none"}), False)],
)
def test_a_loss_leaves_only_where_exact_metrics_may(
    tmp_path: Path, policy: Policy, leaves: bool
) -> None:
    of = study(privacy={})
    site = make_lab(tmp_path, policy)
    reply = asked(site, of)
    assert (update(reply, of).loss is not None) == leaves
    assert ("loss" in reply.content.config_records["report"]) == leaves


def test_every_round_of_the_study_is_trained_and_none_before_the_first(tmp_path: Path) -> None:
    site, of = make_lab(tmp_path), study(privacy={})
    assert refused(asked(site, of, number=0)) is Reason.BAD_QUESTION
    assert all(read_refusal(asked(site, of, number=number)) is None for number in (1, 2, 3))


def test_an_update_is_what_the_round_changed_from_the_model_that_was_sent(tmp_path: Path) -> None:
    """Twice the same model gives the same change: nothing of a former round is in it."""
    site, of = make_lab(tmp_path), study(privacy={})
    once, again = (update(asked(site, of, attempt=number), of) for number in (0, 1))
    assert np.array_equal(once.values, again.values)
    assert 0 < np.abs(once.values).max() < 1


def test_the_model_that_was_sent_is_the_one_that_is_evaluated(tmp_path: Path) -> None:
    site, of = make_lab(tmp_path), study()
    before = read_tally(asked(site, of, "evaluate"), of)
    update(asked(site, of), of)
    after = read_tally(asked(site, of, "evaluate", attempt=1), of)
    assert np.array_equal(before.counts, after.counts)


def test_a_study_that_fits_is_prepared_and_one_that_cannot_be_paid_is_not(tmp_path: Path) -> None:
    site = make_lab(tmp_path, OPEN.model_copy(update={"study_epsilon": 4.0, "delta": 1e-4}))
    assert read_refusal(asked(site, study(), "query.prepare", number=0)) is None
    other = make_lab(tmp_path / "other", NOISED.model_copy(update={"study_epsilon": 4.0}))
    reply = asked(other, study(privacy=PRIVACY | {"delta": 9e-4}), "query.prepare", number=0)
    assert refused(reply) is Reason.BUDGET
    assert "cannot be paid to its end: the study would cost" in logged(other)


def test_a_reason_is_kept_in_a_folder_that_was_not_there(tmp_path: Path) -> None:
    site = make_lab(tmp_path, OPEN.model_copy(update={"min_cohort": 2}))
    text = site.read_text()
    assert "log: site.log" in text
    site.write_text(text.replace("log: site.log", "log: kept/of/site.log"))
    assert refused(asked(site, study())) is Reason.MIN_COHORT
    assert "min_cohort" in (tmp_path / "kept" / "of" / "site.log").read_text()


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_a_policy_that_changes_before_the_payment_is_not_overrun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Nothing is paid by a budget that was lowered while the cells were opened."""
    site = make_lab(tmp_path, NOISED)
    lowered = NOISED.model_copy(update={"study_epsilon": NOISED.study_epsilon / 2})
    opened = client.workspace

    def slowly(*of: Any) -> Any:
        (tmp_path / "policy.yaml").write_text(dump(lowered))
        return opened(*of)

    monkeypatch.setattr(client, "workspace", slowly)
    assert refused(asked(site, study(), kind)) is Reason.CHANGED_POLICY
    assert debits(site) == ()
