"""Sites whose replies are left out round after round, through whole runs on a fake grid."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict
from flwr.app.message import make_message
from typer.testing import CliRunner

from common.config.study import Participant, RoundPolicy, Study
from common.errors import ConfigError, FederationError
from common.wire.messages import Task, Update, refusal_content
from common.wire.reasons import Reason
from common.wire.reply_status import OK, UNREADABLE, Kind, ReplyStatus
from server.membership.provisioning import make_server
from server.rounds.messaging import exchange
from server.rounds.record import RoundRecord, SiteRecord
from server.rounds.rounds import Rounds
from server.rounds.suspension import Offences, ask_to_lift, asked_to_lift
from server.service.cli import app
from server.studies.progress import StudyProgress
from server.studies.store import Stored, propose
from tests.server.fake_grid import AfterRound, Answer, FakeGrid
from tests.server.rounds.test_rounds import honest, instead, layout, run, sites_of, study


def three(**changes: Any) -> Study:
    fields = {
        "rounds": 6,
        "cohort": {name: Participant(units=10) for name in "abc"},
        "round": RoundPolicy(suspend_after=2, deadline_seconds=0.2),
    }
    return study(**(fields | changes))


def bad_in(of: Study, rounds: set[int], otherwise: Answer) -> Answer:
    """A site that sends a NaN in these rounds."""
    shape = layout(of)

    def answer(message: Message) -> RecordDict | None:
        if message.metadata.message_type == "train" and Task.read(message).round in rounds:
            return Update(np.full(shape.size, np.nan, np.float32), shape.digest).content()
        return otherwise(message)

    return answer


def statuses(records: list[dict[str, Any]], site: str) -> list[str]:
    """What became of the site in each round; "" where it was not there."""
    return [record["sites"].get(site, {"status": ""})["status"] for record in records]


def test_a_site_that_is_left_out_so_often_in_a_row_is_asked_no_more(tmp_path: Path) -> None:
    one = three()
    grid = FakeGrid(sites_of(one) | {"c": bad_in(one, set(range(9)), honest(one, 2))})
    seen: list[dict[str, Any]] = []
    Rounds(one, grid, tmp_path, AfterRound(lambda record: seen.append(record.to_json()))).run()
    assert statuses(seen, "c") == ["left out", "left out"] + ["suspended"] * 4
    assert [r["sites"]["c"].get("suspended", False) for r in seen] == [False, True, *[False] * 4]
    asked = [kind for name, kind in grid.sent if name == "c"]
    assert asked.count("train") == 2
    assert asked.count("evaluate") == 1
    assert all(record["sites"]["a"]["status"] == "ok" for record in seen)
    assert "c" not in json.loads((tmp_path / "outcome.json").read_text())["test"]


def test_a_sound_reply_ends_the_row(tmp_path: Path) -> None:
    one = three()
    sites = sites_of(one) | {"c": bad_in(one, {1, 3, 5}, honest(one, 2))}
    records = run(one, tmp_path, sites)
    assert statuses(records, "c") == ["left out", "ok"] * 3


@pytest.mark.parametrize("kind", ["away", "refuses"])
def test_a_site_that_is_away_or_refuses_is_no_offender(tmp_path: Path, kind: str) -> None:
    one = three(round=RoundPolicy(suspend_after=1, deadline_seconds=0.05))
    content = None if kind == "away" else refusal_content(Reason.BUDGET, "ab12")
    records = run(one, tmp_path, sites_of(one) | {"c": instead(one, lambda: content)})
    said = "no reply" if kind == "away" else "refused"
    assert set(statuses(records, "c")) == {said}


def test_as_many_in_a_row_as_the_study_says_suspend() -> None:
    offences = Offences({}, most=2)
    assert [offences.left_out("c") for _ in range(2)] == [False, True]
    assert list(offences.suspended()) == ["c"]


def test_what_cannot_be_read_counts_and_a_client_that_failed_does_not() -> None:
    codes = {"a": UNREADABLE, "b": 3}

    class Failing(FakeGrid):
        def pull_messages(self, message_ids: Any) -> Any:
            for reply in super().pull_messages(message_ids):
                code = codes[self._names[reply.metadata.src_node_id]]
                yield make_message(metadata=reply.metadata, error=Error(code, "x"))

    grid = Failing(dict.fromkeys(codes, lambda _: RecordDict()))
    messages = {name: Message(RecordDict(), node, "train") for node, name in grid._names.items()}
    replies = dict(exchange(grid, messages, 1.0))
    assert {
        site: cast(ReplyStatus, reply).kind is Kind.LEFT_OUT for site, reply in replies.items()
    } == {
        "a": True,
        "b": False,
    }


class Broken(Exception):
    """Stands for a server that dies."""


def test_a_suspension_survives_a_crash_and_is_lifted_once(tmp_path: Path) -> None:
    one = three()
    sites = sites_of(one) | {"c": bad_in(one, {1, 2, 5, 6}, honest(one, 2))}

    def dies_after(number: int) -> Any:
        def observe(record: RoundRecord) -> None:
            if record.round == number:
                raise Broken

        return observe

    with pytest.raises(Broken):
        run(one, tmp_path, sites, dies_after(1))
    with pytest.raises(Broken):
        run(one, tmp_path, sites, dies_after(3))
    ask_to_lift(tmp_path, ["c"])
    with pytest.raises(Broken):
        run(one, tmp_path, sites, dies_after(4))
    records = run(one, tmp_path, sites)
    expected = ["left out", "left out", "suspended", "ok", "left out", "left out"]
    assert statuses(records, "c") == expected
    assert [record["lifted"] for record in records] == [[], [], [], ["c"], [], []]


def test_a_suspended_site_does_not_count_towards_those_that_are_waited_for(tmp_path: Path) -> None:
    one = three(round=RoundPolicy(suspend_after=1, min_sites=2, deadline_seconds=0.2))
    sites = sites_of(one) | {"c": bad_in(one, {1}, honest(one, 2))}

    def dies(record: RoundRecord) -> None:
        raise Broken

    with pytest.raises(Broken):
        run(one, tmp_path, sites, dies)
    with pytest.raises(FederationError, match=r"1 of at least 2 sites .* missing: b$"):
        run(one, tmp_path, {"a": sites["a"], "c": sites["c"]})


def test_the_operator_lifts_a_suspension_and_sees_who_is_suspended(tmp_path: Path) -> None:
    home = tmp_path / "server"
    make_server(home, "127.0.0.1:9092", datetime.now(UTC))
    stored = propose(home, three())
    stored.say("stopped", round=3, rounds=6, sites={"a": "ok", "c": "suspended: 2 replies"})
    shown = CliRunner().invoke(app, ["status", str(home)], env={"COLUMNS": "200"})
    assert "c: suspended: 2 replies" in shown.output
    assert "a: ok" not in shown.output
    lift = ["resume", str(home), "test", "--lift"]
    assert isinstance(CliRunner().invoke(app, [*lift, "d"]).exception, ConfigError)
    assert stored.wanted == "stop"
    for site in ("c", "b"):
        assert CliRunner().invoke(app, [*lift, site]).exit_code == 0
    assert stored.wanted == "run"
    assert asked_to_lift(stored.out) == ["b", "c"]


def test_the_audit_log_says_when_a_site_is_suspended_and_when_that_is_lifted(
    tmp_path: Path,
) -> None:
    one, lines = three(), []

    class Log:
        def append(self, event: str, **facts: Any) -> None:
            lines.append((event, facts.get("site")))

    stored = Stored(tmp_path / "study")
    progress = StudyProgress(stored, one, Log(), lambda: None)  # type: ignore[arg-type]
    bad = SiteRecord(status=ReplyStatus(Kind.LEFT_OUT, "x"), suspended=True)
    sites = {"a": SiteRecord(status=OK), "c": bad}
    progress.round_done(RoundRecord(round=2, attempt=1, sites=sites))
    progress.round_done(RoundRecord(round=3, attempt=1, lifted=["c"]))
    assert [line for line in lines if line[0] != "round"] == [
        ("site_suspended", "c"),
        ("suspension_lifted", "c"),
    ]
