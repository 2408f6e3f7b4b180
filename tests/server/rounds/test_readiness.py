"""A study begins when enough sites stand ready at one time."""

from itertools import chain, repeat
from threading import Event

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Message, RecordDict

from common.config.study import RoundPolicy, Study
from common.wire.messages import name_content, refusal_content
from common.wire.proposal import Proposal
from common.wire.reasons import Reason
from common.wire.reply_status import ASKED, AWAY, READY, ReplyStatus
from server.rounds import readiness
from server.rounds.readiness import wait_until_ready
from tests.server.fake_grid import Answer, FakeGrid

STUDY = Study(name="s", cohort={"a": {}, "b": {}}, round={"min_sites": 2})


def says(name: str, words: str) -> Answer:
    """A site that is ready ("+") or refuses ("-"), time after time; the last word stays."""

    order = chain(words, repeat(words[-1]))

    def answer(message: Message) -> RecordDict:
        if next(order) == "+":
            return name_content(name)
        return refusal_content(Reason.BUDGET, "ab12")

    return answer


def asks_until_ready(
    monkeypatch: pytest.MonkeyPatch, a: str, b: str
) -> tuple[int, list[dict[str, ReplyStatus]]]:
    """How often the sites were asked, and what was told."""
    monkeypatch.setattr(readiness, "_ASK_AGAIN_SECONDS", 0.01)
    told: list[dict[str, ReplyStatus]] = []
    proposal = Proposal.make(STUDY, Ed25519PrivateKey.generate())
    grid = FakeGrid({"a": says("a", a), "b": says("b", b)})
    wait_until_ready(proposal, grid, told.append, Event())
    assert set(told[-1].values()) == {READY}
    return grid.sent.count(("b", "query.prepare")), told


def test_a_site_that_refuses_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, told = asks_until_ready(monkeypatch, "+", "--+")
    assert asked == 3
    assert any("refused" in str(words["b"]) for words in told)


def test_a_site_that_was_ready_once_is_not_counted_later(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, told = asks_until_ready(monkeypatch, "+-+", "-++")
    assert asked == 3
    assert any(words["a"] == READY and words["b"] != READY for words in told)


def test_a_silent_site_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    study = STUDY.model_copy(update={"round": RoundPolicy(min_sites=1)})
    told: list[dict[str, ReplyStatus]] = []
    grid = FakeGrid({"a": says("a", "+"), "b": lambda message: None})
    proposal = Proposal.make(study, Ed25519PrivateKey.generate())
    wait_until_ready(proposal, grid, told.append, Event())
    assert told[-1] == {"a": READY, "b": ASKED}


def test_a_slow_site_is_given_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "_ASK_AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(readiness, "_ANSWER_SECONDS", 0.1)
    asked = []

    def slow(message: Message) -> RecordDict | None:
        asked.append(message.metadata.ttl)
        return name_content("b") if message.metadata.ttl > 0.3 else None

    told: list[dict[str, ReplyStatus]] = []
    proposal = Proposal.make(STUDY, Ed25519PrivateKey.generate())
    wait_until_ready(proposal, FakeGrid({"a": says("a", "+"), "b": slow}), told.append, Event())
    assert told[-1] == {"a": READY, "b": READY}
    assert asked == pytest.approx([0.1, 0.2, 0.4])


def test_a_connected_site_is_never_called_away_while_the_others_are_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it said last stands until it says something else."""
    _, told = asks_until_ready(monkeypatch, "+--+", "---+")
    assert not any(AWAY in words.values() for words in told)
    first = next(at for at, words in enumerate(told) if words["b"] not in (ASKED, READY))
    assert not any(ASKED in words.values() for words in told[first:])


def test_a_site_that_goes_is_called_away_and_does_not_vanish(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(readiness, "_ASK_AGAIN_SECONDS", 0.01)
    looks = iter([{"a", "b"}, {"b"}, {"a", "b"}])

    class Leaving(FakeGrid):
        def get_node_ids(self) -> list[int]:
            there = next(looks)
            return [node for node, name in self._names.items() if name in there]

    proposal, told = (
        Proposal.make(STUDY, Ed25519PrivateKey.generate()),
        list[dict[str, ReplyStatus]](),
    )
    grid = Leaving({"a": says("a", "+"), "b": says("b", "-++")})
    wait_until_ready(proposal, grid, told.append, Event())
    assert all(set(words) == {"a", "b"} for words in told)
    away = [words["b"] for words in told if words["a"] is AWAY]
    assert away == [READY] and told[-1] == {"a": READY, "b": READY}


def test_a_site_that_never_answers_keeps_nobody_from_being_heard_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that died while it was asked, or computes for minutes: the others are asked meanwhile."""
    monkeypatch.setattr(readiness, "_ASK_AGAIN_SECONDS", 0.01)
    study = STUDY.model_copy(update={"round": RoundPolicy(min_sites=1, deadline_seconds=1e9)})
    monkeypatch.setattr(readiness, "_ANSWER_SECONDS", 1e9)
    told = list[dict[str, ReplyStatus]]()
    grid = FakeGrid({"a": says("a", "--+"), "b": lambda message: None})
    proposal = Proposal.make(study, Ed25519PrivateKey.generate())
    wait_until_ready(proposal, grid, told.append, Event())
    assert told[-1] == {"a": READY, "b": ASKED}
    assert grid.sent.count(("a", "query.prepare")) == 3
    assert grid.sent.count(("b", "query.prepare")) == 1
