"""What is known of a round while it lasts: who is waited for, and whose reply was left out."""

import json
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from typer.testing import CliRunner

from common.audit.log import AuditLog
from common.config.study import RoundPolicy, Study
from common.errors import FederationError
from common.identity import load_signing_key
from common.wire.messages import Task, Update
from common.wire.reasons import Reason
from common.wire.reply_status import AWAY, READY, Kind, ReplyStatus
from server.membership.provisioning import make_server
from server.rounds.messaging import Roster
from server.rounds.observer import Observer
from server.rounds.rounds import Rounds
from server.service.cli import app
from server.studies.progress import StudyProgress
from server.studies.store import Stored, propose
from tests.server.fake_grid import Answer, FakeGrid
from tests.server.rounds.test_rounds import instead, layout, sites_of, study


@pytest.fixture
def home(tmp_path: Path) -> Path:
    make_server(tmp_path / "server", "127.0.0.1:9092", datetime.now(UTC))
    return tmp_path / "server"


def progress(stored: Stored, of: Study, log: AuditLog | None = None) -> StudyProgress:
    return StudyProgress(stored, of, log, lambda: None)  # type: ignore[arg-type]


def update(of: Study, value: float = 0.0, digest: str = "") -> RecordDict:
    shape = layout(of)
    values = np.full(shape.size, value, np.float32)
    return Update(values, digest or shape.digest).content()


def named_like_an_image(of: Study) -> RecordDict:
    """A reply whose form bears words that no audit log takes."""
    array = Array(dtype="float32", shape=(1,), stype="mueller.png", data=b"1234")
    parts = {"update": ArrayRecord({"values": array}), "report": ConfigRecord({"layout": "x"})}
    return RecordDict(dict(parts))


BAD: dict[str, tuple[Callable[[Study], RecordDict], str]] = {
    "NaN": (lambda of: update(of, np.nan), "the update is not finite"),
    "layout": (lambda of: update(of, digest="0" * 64), "its layout 000000000000 is not"),
    "norm": (lambda of: update(of, 1e6), "exceeds max_update_norm"),
    "nothing": (lambda of: RecordDict(), "no single update vector"),
    "image": (named_like_an_image, "said in words that are not logged"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("quorum", [1, 2])
def test_a_reply_left_out_is_an_audit_line_at_the_first_time(
    home: Path, kind: str, quorum: int
) -> None:
    """Whether the round goes on without it or not."""
    content, reason = BAD[kind]
    one = study(rounds=1, round=RoundPolicy(min_sites=quorum, deadline_seconds=0.2))
    stored = propose(home, one)
    grid = FakeGrid(sites_of(one) | {"b": instead(one, lambda: content(one))})
    with AuditLog.open(home / "audit.jsonl", load_signing_key(home / "signing.key")) as log:
        rounds = Rounds(one, grid, stored.out, progress(stored, one, log))
        if quorum == 2:
            with pytest.raises(FederationError, match="1 sound updates"):
                rounds.run()
        else:
            rounds.run()
    (line,) = lines(home, "reply_left_out")
    assert reason in line.pop("reason")
    assert line == {"digest": one.digest, "round": 1, "site": "b"}


def lines(home: Path, event: str) -> list[dict[str, Any]]:
    rows = map(json.loads, (home / "audit.jsonl").read_text().splitlines())
    return [row["facts"] for row in rows if row["event"] == event]


class Seen(Observer):
    """Remembers."""

    def __init__(self) -> None:
        self.waits: list[set[str]] = []

    def waits_for(self, sites: AbstractSet[str]) -> None:
        self.waits.append(set(sites))

    def left_out(self, number: int, site: str, reason: str) -> None:
        raise AssertionError("nothing was left out")


def test_each_round_says_whom_it_waits_for(tmp_path: Path) -> None:
    one, seen = study(rounds=2), Seen()
    silent_at: list[int] = []

    def sometimes(message: Message) -> RecordDict | None:
        training = message.metadata.message_type == "train"
        if training and Task.read(message).round == 2:
            silent_at.append(len(seen.waits))
            return None
        return sites_of(one)["b"](message)

    answers: dict[str, Answer] = sites_of(one) | {"b": sometimes}
    Rounds(one, FakeGrid(answers), tmp_path, seen).run()
    (start,) = silent_at
    assert seen.waits[start:][:3] == [{"b"}, set(), {"a", "b"}]
    assert seen.waits[0] == {"a", "b"} and seen.waits[-1] == set()


def test_who_is_not_connected_is_waited_for() -> None:
    seen = Seen()
    roster = Roster(FakeGrid({"a": lambda _: None}), {"a", "b"})
    with pytest.raises(FederationError, match="missing: b"):
        roster.wait_for(2, 0.02, tell=seen.waits_for)
    assert seen.waits[0] == {"b"}


def shown(home: Path) -> str:
    result = CliRunner().invoke(app, ["status", str(home)], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


def test_the_status_shows_whom_a_round_waits_for(home: Path) -> None:
    one = study()
    stored = propose(home, one)
    stored.say("running", round=2, rounds=4, sites={"a": "left out: x", "b": "refused: [/x]"})
    notes = progress(stored, one)
    notes.waits_for({"a"})
    assert "2/4" in shown(home) and "waits for a; b: refused: [/x]" in shown(home)
    notes.waits_for(set())
    assert "waits" not in shown(home) and "a: left out: x" in shown(home)


def test_a_study_that_waits_again_for_its_sites_keeps_its_round(home: Path) -> None:
    stored = propose(home, study())
    stored.want("run")
    stored.say("running", round=3, rounds=4, sites={"a": "ok"}, waits=["a"])
    away, refuses = AWAY, ReplyStatus(Kind.REFUSED, reason=Reason.BUDGET)
    progress(stored, study()).not_ready({"a": READY, "b": away, "c": refuses})
    assert stored.said() == {
        "state": "waiting for sites",
        "round": 3,
        "rounds": 4,
        "sites": {"a": "ready", "b": "not connected", "c": "refused: budget"},
        "reasons": {"c": "budget"},
    }
    assert "3/4" in shown(home) and "b: not connected" in shown(home)
