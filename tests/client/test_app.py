"""The ClientApp at a lab: what it answers, what it refuses, and what it never says."""

import errno
import math
import re
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.app.user_config import UserConfig

from client.app import app, client_app
from client.consent.explanation import explain
from client.data.cache import prepare
from client.data.site_cells import open_cells
from client.ledger.binding import continue_ledger, create_simulated_ledger
from client.ledger.hash_chain import Kind
from client.ledger.ledger import Ledger
from client.policy.policy import Policy
from client.site import SITES_VARIABLE, open_site, site_file
from common.config.loading import dump
from common.config.study import CellSource, Participant, Site, Study
from common.errors import ConfigError, DataError, PrivacyError
from common.metrics import Tally
from common.noised_tally import NoisedTally
from common.privacy.accounting import Event, epsilon
from common.privacy.metrics_noise import metrics_sigma
from common.wire.messages import Update, read_head, read_name, read_refusal, read_tally
from common.wire.reasons import Reason
from common.wire.reply_status import ReplyStatus
from common.wire.vector_codec import encode
from simulations.engine.seeded import SeededEntropy
from tests.client.lab import (
    OPEN,
    PRIVACY,
    SPENT,
    Meanwhile,
    context,
    first_model,
    make_lab,
    message,
    refused,
    study,
)


def ledger_rows(site: Path, kind: Kind = "debit") -> int:
    opened = open_site(site)
    with Ledger.read(opened.ledger) as ledger:
        return len(ledger.rows(kind))


def logged(site: Path) -> str:
    """The reason that the site's log gives last."""
    return (site.parent / "site.log").read_text().splitlines()[-1]


def update(reply: Message, size: int) -> Update:
    assert read_refusal(reply) is None
    return Update.read(reply, size)


def test_a_lab_says_its_name(tmp_path: Path) -> None:
    site = make_lab(tmp_path)
    assert read_name(app(message(study(), "query"), context(site))) == "lab"


def test_a_private_round_is_paid_before_it_is_released(tmp_path: Path) -> None:
    site, one = make_lab(tmp_path), study()
    size = len(first_model(one))
    reply = update(app(message(one), context(site)), size)
    assert ledger_rows(site) == 1
    assert reply.loss is None
    with Ledger.read(open_site(site).ledger) as ledger:
        assert reply.head == ledger.head
        assert reply.epsilon == pytest.approx(epsilon(ledger.events(), 1e-4))
    assert 0 < (reply.epsilon or 0) < 4.0
    assert np.abs(reply.values).max() > 0


def test_a_private_update_says_nothing_of_its_cells_but_the_vector(tmp_path: Path) -> None:
    reply = app(message(study()), context(make_lab(tmp_path)))
    assert set(reply.content) == {"update", "report"}
    assert set(reply.content.config_records["report"]) == {"layout", "head", "epsilon"}


def test_the_same_attempt_is_never_answered_twice(tmp_path: Path) -> None:
    site, one = make_lab(tmp_path), study()
    app(message(one), context(site))
    assert refused(app(message(one), context(site))) is Reason.ANSWERED
    assert "round 1, attempt 0: already paid for" in logged(site)
    assert ledger_rows(site) == 1
    assert read_refusal(app(message(one, attempt=1), context(site))) is None
    assert ledger_rows(site) == 2


def test_two_labs_with_true_noise_never_release_the_same(tmp_path: Path) -> None:
    one, size = study(), len(first_model(study()))
    replies = []
    for name in ("a", "b"):
        site = make_lab(tmp_path / name)
        replies.append(update(app(message(one), context(site)), size).values)
    assert not np.allclose(replies[0], replies[1], atol=1e-4)


def test_an_empty_sample_still_sends_noise_and_pays(tmp_path: Path) -> None:
    one = study(privacy={"mode": "local", "epsilon": 4, "sample_rate": 1e-5, "delta": 1e-4})
    site = make_lab(tmp_path, OPEN.model_copy(update={"min_noise_multiplier": 0.01}))
    values = update(app(message(one), context(site)), len(first_model(one))).values
    assert np.count_nonzero(values) > 0.9 * len(values)
    assert ledger_rows(site) == 1


def _break(site: Path, how: str) -> None:
    folder = site.parent
    if how == "no policy":
        (folder / "policy.yaml").unlink()
    if how == "no ledger":
        (folder / "ledger.sqlite").unlink()
    if how == "torn ledger":
        path = folder / "ledger.sqlite"
        path.write_bytes(path.read_bytes()[:3000])
    if how == "no cells":
        text = site.read_text()
        site.write_text(re.sub(r"folder: .*", "folder: /nowhere/cells", text))


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("no policy", Reason.NO_POLICY),
        ("no ledger", Reason.NO_LEDGER),
        ("torn ledger", Reason.OTHER_LEDGER),
        ("no cells", Reason.NO_CELLS),
        ("another side", Reason.OTHER_SIDE),
    ],
)
def test_a_lab_that_lacks_something_stops_and_keeps_the_text(
    tmp_path: Path, how: str, reason: Reason
) -> None:
    """The server gets a word of the closed list, and where the text is."""
    site = make_lab(tmp_path)
    _break(site, how)
    of = study(image_side=32) if how == "another side" else study()
    reply = app(message(of), context(site))
    said = read_refusal(reply)
    assert isinstance(said, ReplyStatus) and said.reason is reason
    assert f"[{said.reference}] " in (tmp_path / "site.log").read_text()
    (record,) = reply.content.config_records.values()
    assert dict(record) == {"reason": reason.value, "reference": said.reference}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), Reason.NO_MEMORY),
        (torch.OutOfMemoryError(), Reason.NO_MEMORY),
        (OSError(errno.ENOSPC, "full"), Reason.NO_ROOM),
        (OSError(errno.EIO, "a disk"), Reason.INTERNAL),
        (ValueError("image 17"), Reason.INTERNAL),
        (DataError("image 17"), Reason.INTERNAL),
    ],
)
def test_of_an_error_the_server_learns_a_reason_of_the_list_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: Reason
) -> None:
    site = make_lab(tmp_path)

    def fails(*_: object) -> NoReturn:
        raise error

    monkeypatch.setattr("client.app.train", fails)
    reply = app(message(study()), context(site))
    assert refused(reply) is reason
    assert "image" not in str(reply.content) and "image" not in str(read_refusal(reply))


@pytest.mark.parametrize(
    ("floor", "words"),
    [
        ({"study_epsilon": 3.0}, "study_epsilon is 3"),
        ({"min_noise_multiplier": 50.0}, "min_noise_multiplier"),
        ({"max_grad_norm": 0.5}, "max_grad_norm"),
        ({"min_cohort": 2}, "min_cohort"),
        ({"max_rounds": 2}, "max_rounds"),
        ({"delta": 1e-6}, "delta"),
    ],
)
def test_a_study_below_a_floor_is_refused_unpaid(
    tmp_path: Path, floor: dict[str, float], words: str
) -> None:
    site = make_lab(tmp_path, OPEN.model_copy(update=floor))
    reply = app(message(study()), context(site))
    assert refused(reply) is Reason(f"policy: {next(iter(floor))}")
    assert words in (tmp_path / "site.log").read_text()
    assert ledger_rows(site) == 0


def test_no_privacy_needs_the_policys_word(tmp_path: Path) -> None:
    one = study(privacy={"mode": "none"})
    closed = OPEN.model_copy(update={"without_privacy": False})
    shut = make_lab(tmp_path / "closed", closed)
    assert refused(app(message(one), context(shut))) is Reason.WITHOUT_PRIVACY
    assert ledger_rows(shut, "unprotected") == 0
    assert "privacy: none; the policy does not allow it" in logged(shut)
    reply = app(message(one), context(make_lab(tmp_path / "open")))
    assert update(reply, len(first_model(one))).loss is not None
    quiet = OPEN.model_copy(update={"metrics": "none"})
    reply = app(message(one), context(make_lab(tmp_path / "quiet", quiet)))
    assert update(reply, len(first_model(one))).loss is None


def test_an_older_copy_of_the_ledger_stops_the_lab(tmp_path: Path) -> None:
    site, one = make_lab(tmp_path), study()
    opened = open_site(site)
    backup = opened.ledger.read_bytes()
    head = update(app(message(one), context(site)), len(first_model(one))).head
    assert read_refusal(app(message(one, number=2, head=head), context(site))) is None
    for path in tmp_path.glob("ledger.sqlite*"):
        path.unlink()
    opened.ledger.write_bytes(backup)
    reply = app(message(one, number=3, head=head), context(site))
    assert refused(reply) is Reason.OTHER_LEDGER
    assert "older" in (tmp_path / "site.log").read_text()


def test_the_study_never_spends_more_than_the_policy_lets_it(tmp_path: Path) -> None:
    site = make_lab(tmp_path, OPEN.model_copy(update={"study_epsilon": 4.2}))
    one = study()
    answered = 0
    for attempt in range(12):
        answered += read_refusal(app(message(one, attempt=attempt), context(site))) is None
    assert 3 <= answered < 12
    with Ledger.read(open_site(site).ledger) as ledger:
        assert epsilon(ledger.events(), 1e-3) <= 4.2


@pytest.mark.parametrize("spare", [0, 2])
def test_no_server_gets_more_out_of_a_study_than_its_epsilon(tmp_path: Path, spare: int) -> None:
    """Whatever rounds and attempts it asks for, of training and of evaluations."""
    site = make_lab(tmp_path, OPEN.model_copy(update={"metrics": "noised"}))
    of = study(privacy=PRIVACY | {"spare_rounds": spare}, evaluation={"every": 3, "epsilon": 1.0})
    app, answered = client_app(), dict.fromkeys(("train", "evaluate"), 0)
    for kind, split in (("train", "validation"), ("evaluate", "validation"), ("evaluate", "test")):
        for number in range(1, of.rounds + 1):
            for attempt in range(3):
                asked = message(of, kind, number, attempt=attempt, split=split)
                reply = app(asked, context(site))
                answered[kind] += read_refusal(reply) is None
    assert answered == {"train": of.rounds + spare, "evaluate": 1 + 1 + spare}
    with Ledger.read(tmp_path / "ledger.sqlite") as ledger:
        events: dict[str, list[Event]] = {kind: [] for kind in answered}
        for row in ledger.rows("debit"):
            events["evaluate" if row.round < 0 else "train"].append(row.event)
    assert 0.9 * 4.0 < epsilon(events["train"], of.privacy.delta) <= 4.0
    assert epsilon(events["evaluate"], of.privacy.delta) <= 1.0
    assert "privacy.spare_rounds" in (tmp_path / "site.log").read_text()


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"lifetime_epsilon": 4.0, "study_epsilon": 4.0, "delta": 1e-4}, "all studies together"),
        ({"study_epsilon": 4.1, "delta": 1e-4, "metrics": "noised"}, "the study would cost"),
    ],
)
def test_a_study_that_cannot_be_paid_to_its_end_is_not_begun(
    tmp_path: Path, policy: dict[str, object], said: str
) -> None:
    site = make_lab(tmp_path, OPEN.model_copy(update=policy))
    with Ledger.read(open_site(site).ledger) as ledger:
        ledger.debit("a" * 64, 1, 0, SPENT, 1)
    reply = app(message(study(), "query.prepare", number=0), context(site))
    assert refused(reply) is Reason.BUDGET
    assert "cannot be paid to its end" in (tmp_path / "site.log").read_text()
    (obstacle,) = explain(open_site(site), study(), {"lab"}).obstacles
    assert said in str(obstacle)
    assert ledger_rows(site) == 1


def test_a_study_calibrated_to_the_whole_lifetime_may_train(tmp_path: Path) -> None:
    whole = {"lifetime_epsilon": 4.0, "study_epsilon": 4.0, "delta": 1e-4}
    site = make_lab(tmp_path, OPEN.model_copy(update=whole))
    assert read_refusal(app(message(study(), "query.prepare", number=0), context(site))) is None
    for number in range(1, 4):
        assert read_refusal(app(message(study(), number=number), context(site))) is None
    budget = dict(explain(open_site(site), study(), {"lab"}).topics)["budget"]
    assert "spent so far: epsilon 4 of 4 " in budget


def test_a_site_outside_the_cohort_does_not_train(tmp_path: Path) -> None:
    site = make_lab(tmp_path)
    one = study(cohort={"other": Participant(units=5)})
    assert refused(app(message(one), context(site))) is Reason.BAD_QUESTION
    assert "site lab is not asked to train" in logged(site)


def test_a_models_size_must_fit(tmp_path: Path) -> None:
    site, one = make_lab(tmp_path), study()
    other = study(model={"name": "cnn", "width": 2})
    wrong = message(other)
    wrong.content["task"] = message(one).content["task"]
    assert refused(app(wrong, context(site))) is Reason.BAD_QUESTION
    assert "expected 381 values as hemofed.float32; got shape (1300,)" in logged(site)
    assert ledger_rows(site) == 0


def test_exact_metrics_leave_only_by_the_policys_word(tmp_path: Path) -> None:
    one = study()
    site = make_lab(tmp_path / "exact")
    exact = read_tally(app(message(one, "evaluate"), context(site)), one)
    assert isinstance(exact, Tally)
    assert exact.total > 0 and ledger_rows(site) == 0 and ledger_rows(site, "unprotected") == 1
    quiet = make_lab(tmp_path / "none", OPEN.model_copy(update={"metrics": "none"}))
    reply = app(message(one, "evaluate"), context(quiet))
    assert refused(reply) is Reason.METRICS
    assert "lets no metrics leave (metrics: none)" in logged(quiet)


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_what_leaves_without_privacy_stands_in_the_ledger_first(tmp_path: Path, kind: str) -> None:
    """Round by round, and a private study may follow; without a ledger nothing leaves."""
    one, site = study(privacy={"mode": "none"}), make_lab(tmp_path)
    for number in (1, 2):
        reply = app(message(one, kind, number), context(site))
        assert read_refusal(reply) is None and ledger_rows(site, "unprotected") == number
        with Ledger.read(open_site(site).ledger) as ledger:
            assert read_head(reply) == ledger.head
    assert read_refusal(app(message(study()), context(site))) is None
    budget = dict(explain(open_site(site), one, {"lab"}).topics)["budget"]
    assert "2 answers left WITHOUT privacy: unbounded" in budget
    (tmp_path / "ledger.sqlite").unlink()
    assert refused(app(message(one, kind, 3), context(site))) is Reason.NO_LEDGER
    asked = message(one, "query.prepare", number=0)
    assert refused(app(asked, context(site))) is Reason.NO_LEDGER


def test_a_deployed_lab_refuses_a_simulated_sites_ledger(tmp_path: Path) -> None:
    class Given:
        def check(self, site: Site, policy: Policy, study: Study) -> None:
            """Every study is approved."""

    site = make_lab(tmp_path)
    (tmp_path / "ledger.sqlite").unlink()
    create_simulated_ledger(open_site(site))
    assert read_refusal(app(message(study()), context(site))) is None
    reply = client_app(approvals=Given())(message(study(), number=2), context(site))
    assert refused(reply) is Reason.OTHER_LEDGER and ledger_rows(site) == 1
    with pytest.raises(PrivacyError, match="simulated site's ledger"):
        continue_ledger(open_site(site))


def test_noised_metrics_are_paid_for_and_right_on_average(tmp_path: Path) -> None:
    one = study(rounds=1, evaluation={"every": 1, "epsilon": 20.0})
    site = make_lab(tmp_path / "exact", cells=400)
    exact = read_tally(app(message(one, "evaluate"), context(site)), one)
    assert isinstance(exact, Tally)
    noised = make_lab(tmp_path / "noised", OPEN.model_copy(update={"metrics": "noised"}), cells=400)
    draws = []
    for seed in range(30):
        (noised.parent / "ledger.sqlite").unlink()
        create_simulated_ledger(open_site(noised))
        reply = client_app(SeededEntropy(seed))(message(one, "evaluate"), context(noised))
        draw = read_tally(reply, one)
        assert isinstance(draw, NoisedTally) and ledger_rows(noised) == 1
        draws.append(draw.counts)
    assert len({counts.tobytes() for counts in draws}) > 20
    sigma = metrics_sigma(one)
    errors = np.stack(draws) - NoisedTally.of(exact).counts
    assert np.abs(errors.mean(0)).max() < 4 * sigma / math.sqrt(len(draws))
    assert 0.7 * sigma < errors.std() < 1.4 * sigma


def test_noised_metrics_cannot_be_asked_twice(tmp_path: Path) -> None:
    site = make_lab(tmp_path, OPEN.model_copy(update={"metrics": "noised"}))
    one = study()
    assert read_refusal(app(message(one, "evaluate"), context(site))) is None
    assert refused(app(message(one, "evaluate"), context(site))) is Reason.ANSWERED
    assert "already paid for" in logged(site)
    test = message(one, "evaluate", split="test")
    assert read_refusal(app(test, context(site))) is None
    assert ledger_rows(site) == 2


ATTACKS = {
    "a round that the study does not have": {"number": 4},
    "a negative round": {"number": -3},
    "a negative attempt": {"attempt": -1},
    "training cells as a test": {"split": "train"},
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_task_that_the_study_does_not_have_is_refused_unpaid(tmp_path: Path, name: str) -> None:
    site, asked = make_lab(tmp_path), {"number": 1, "attempt": 0, "split": "test"} | ATTACKS[name]
    for kind in ("train", "evaluate"):
        forged = message(study(), kind)
        task = forged.content.config_records["task"]
        task["round"], task["attempt"] = asked["number"], asked["attempt"]
        task["split"] = asked["split"]
        assert refused(app(forged, context(site))) is Reason.BAD_QUESTION
    assert ledger_rows(site) == 0


def test_round_zero_is_not_trained(tmp_path: Path) -> None:
    site = make_lab(tmp_path)
    reply = app(message(study(), number=0), context(site))
    assert refused(reply) is Reason.BAD_QUESTION
    assert "site lab is not asked to train" in logged(site)


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_a_model_that_is_not_finite_is_refused_unpaid(tmp_path: Path, kind: str) -> None:
    site = make_lab(tmp_path)
    forged = message(study(), kind)
    values = first_model(study()).copy()
    values[0] = np.nan
    forged.content.array_records["model"]["values"] = encode(values)
    assert refused(app(forged, context(site))) is Reason.BAD_QUESTION
    assert "the message's model is not finite" in logged(site)
    assert ledger_rows(site) == 0


@pytest.mark.parametrize("kind", ["query.prepare", "train", "evaluate"])
def test_whether_a_lab_has_a_type_shows_in_no_refusal(tmp_path: Path, kind: str) -> None:
    noised = OPEN.model_copy(update={"metrics": "noised"})
    answers = []
    for number, types in enumerate((("basophil", "monocyte"), ("myeloblast", "lymphocyte"))):
        site = make_lab(tmp_path / str(number), noised)
        answers.append(read_refusal(app(message(study(cell_types=types), kind), context(site))))
    assert answers == [None, None]


def test_a_model_that_overflows_on_some_cells_evaluates_like_any_other(tmp_path: Path) -> None:
    generous = {"metrics": "noised", "max_weight": 1e39}
    noised = make_lab(tmp_path, OPEN.model_copy(update=generous))
    forged = message(study(), "evaluate")
    values = np.full_like(first_model(study()), 3e38)
    forged.content.array_records["model"]["values"] = encode(values)
    assert read_refusal(app(forged, context(noised))) is None


def test_a_policy_for_patients_refuses_a_study_for_images(tmp_path: Path) -> None:
    site = make_lab(tmp_path, OPEN.model_copy(update={"unit": "patient"}))
    assert refused(app(message(study()), context(site))) is Reason.UNIT
    assert "it protects single images; the policy's unit is patient" in logged(site)
    patients = study(privacy=PRIVACY | {"unit": "patient"})
    assert read_refusal(app(message(patients), context(site))) is None


def _with_splits(site: Path, name: str, splits: dict[str, str]) -> Path:
    """A cache of the lab's first images, as one of its sources, with splits for some patients."""
    lines = (site.parent / "images" / "cells.csv").read_text().splitlines()
    rows = [f"{line},{splits.get(line.split(',')[2], '')}" for line in lines[1:]]
    table = site.parent / "images" / f"{name}.csv"
    table.write_text("\n".join(["path,label,patient,split", *rows]))
    return prepare(table, 16)


def test_a_patients_cells_in_two_caches_have_one_split_under_privacy(tmp_path: Path) -> None:
    """A split that holds in one of the caches alone does not tear the patient apart."""
    site = make_lab(tmp_path)
    every = {f"p{n}": "test" for n in range(10)}
    folders = [_with_splits(site, "one", every), _with_splits(site, "two", {})]
    cells = tuple(CellSource(folder=folder) for folder in folders)
    site.write_text(dump(Site(name="lab", cells=cells)))
    for seed in range(5):
        of = study(privacy=PRIVACY | {"unit": "patient"}, seed=seed)
        opened = open_cells(open_site(site), of)
        assert all(len(set(opened.splits[opened.units == unit])) == 1 for unit in range(10))
    images = open_cells(open_site(site), study())
    assert set(images.splits[:40]) == {"test"} and set(images.splits[40:]) != {"test"}


def test_cells_of_unknown_patients_are_no_patients(tmp_path: Path) -> None:
    site = make_lab(tmp_path)
    table = tmp_path / "images" / "cells.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], *(line.rsplit(",", 1)[0] + "," for line in lines[1:])]))
    cache = prepare(tmp_path / "images", 16)
    site.write_text(dump(Site(name="lab", cells=(CellSource(folder=cache),))))
    images, patients = study(), study(privacy=PRIVACY | {"unit": "patient"})
    assert len(open_cells(open_site(site), images).labels) == 40
    assert len(open_cells(open_site(site), patients).labels) == 0


def test_a_study_that_the_policy_refuses_is_not_evaluated_either(tmp_path: Path) -> None:
    site = make_lab(tmp_path, OPEN.model_copy(update={"without_privacy": False}))
    one = study(privacy={"mode": "none"})
    assert refused(app(message(one, "evaluate"), context(site))) is Reason.WITHOUT_PRIVACY
    assert "the policy does not allow it" in logged(site)
    stranger = study(cohort={"other": Participant(units=5)})
    reply = app(message(stranger, "evaluate"), context(site))
    assert refused(reply) is Reason.BAD_QUESTION
    assert "site lab is not in its cohort" in logged(site)


def test_a_full_disk_under_the_log_says_nothing_more(tmp_path: Path) -> None:
    site = make_lab(tmp_path)
    (tmp_path / "site.log").mkdir()
    reply = app(message(study(), number=0), context(site))
    assert refused(reply) is Reason.BAD_QUESTION
    assert str(tmp_path) not in str(reply.content)


def test_a_simulated_node_finds_its_site_by_number_and_a_deployed_one_by_name_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / "out" / "sites" / name).mkdir(parents=True)
        (tmp_path / "out" / "sites" / name / "site.yaml").touch()
    out: UserConfig = {"out": str(tmp_path / "out")}
    named = Context(1, 2, {"site": "/lab/site.yaml", "partition-id": 1}, RecordDict(), out)
    assert site_file(named) == Path("/lab/site.yaml")
    numbered = Context(1, 2, {"partition-id": 1}, RecordDict(), out)
    assert site_file(numbered) == tmp_path / "out" / "sites" / "b" / "site.yaml"
    with pytest.raises(ConfigError, match="no site number 2 of 2"):
        site_file(Context(1, 2, {"partition-id": 2}, RecordDict(), out))
    with pytest.raises(ConfigError, match="does not know its site"):
        site_file(Context(1, 2, {}, RecordDict(), out))
    (tmp_path / "else" / "c").mkdir(parents=True)
    (tmp_path / "else" / "c" / "site.yaml").touch()
    monkeypatch.setenv(SITES_VARIABLE, str(tmp_path / "else"))
    assert site_file(Context(1, 2, {"partition-id": 0}, RecordDict(), {})).parent.name == "c"
    # What one run says goes before what the environment says to all.
    assert site_file(numbered).parent.name == "b"


@pytest.mark.parametrize("kind", ["train", "evaluate"])
@pytest.mark.parametrize(
    "change", [{"metrics": "none"}, {"max_rounds": 2}, {"study_epsilon": 1.0}, {"metrics": "exact"}]
)
def test_a_policy_that_changes_while_an_answer_is_computed_holds_the_answer_back(
    tmp_path: Path, kind: str, change: dict[str, object]
) -> None:
    policy, one = OPEN.model_copy(update={"metrics": "noised"}), study()
    site = make_lab(tmp_path, policy)
    file = tmp_path / "policy.yaml"
    changes = Meanwhile(lambda: file.write_text(dump(policy.model_copy(update=change))))
    reply = client_app(changes)(message(one, kind), context(site))
    assert refused(reply) is Reason.CHANGED_POLICY and ledger_rows(site) == 1
    assert "was changed while an answer was computed" in (tmp_path / "site.log").read_text()
    file.write_text(dump(policy))
    same = Meanwhile(lambda: file.write_text(dump(policy)))
    assert read_refusal(client_app(same)(message(one, kind, attempt=1), context(site))) is None
