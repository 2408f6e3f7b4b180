"""A study begins when enough sites stand ready at one time."""

from itertools import chain, repeat
from threading import Event

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Message, RecordDict

from common.config import RoundPolicy, Study
from common.errors import PrivacyError
from common.proposal import Proposal
from common.protocol import name_content, refusal_content
from server import readiness
from server.readiness import wait_until_ready
from tests.server.fake_grid import Answer, FakeGrid

STUDY = Study(name="s", cohort={"a": {}, "b": {}}, round={"min_sites": 2})


def says(name: str, words: str) -> Answer:
    """A site that is ready ("+") or refuses ("-"), time after time; the last word stays."""

    order = chain(words, repeat(words[-1]))

    def answer(message: Message) -> RecordDict:
        if next(order) == "+":
            return name_content(name)
        return refusal_content(PrivacyError("outside its hours"), "ab12")

    return answer


def asks_until_ready(
    monkeypatch: pytest.MonkeyPatch, a: str, b: str
) -> tuple[int, list[dict[str, str]]]:
    """How often the sites were asked, and what was told."""
    monkeypatch.setattr(readiness, "_ASK_AGAIN_SECONDS", 0.01)
    told: list[dict[str, str]] = []
    proposal = Proposal.make(STUDY, Ed25519PrivateKey.generate())
    grid = FakeGrid({"a": says("a", a), "b": says("b", b)})
    wait_until_ready(proposal, grid, told.append, Event())
    assert set(told[-1].values()) == {"ready"}
    return grid.sent.count(("b", "query.prepare")), told


def test_a_site_that_refuses_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, told = asks_until_ready(monkeypatch, "+", "--+")
    assert asked == 3
    assert any("refused" in words["b"] for words in told)


def test_a_site_that_was_ready_once_is_not_counted_later(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, told = asks_until_ready(monkeypatch, "+-+", "-++")
    assert asked == 3
    assert any(words["a"] == "ready" and words["b"] != "ready" for words in told)


def test_a_silent_site_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    study = STUDY.model_copy(update={"round": RoundPolicy(min_sites=1)})
    told: list[dict[str, str]] = []
    grid = FakeGrid({"a": says("a", "+"), "b": lambda message: None})
    proposal = Proposal.make(study, Ed25519PrivateKey.generate())
    wait_until_ready(proposal, grid, told.append, Event())
    assert told[-1] == {"a": "ready", "b": "asked"}


def test_a_slow_site_is_given_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "_ASK_AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(readiness, "_ANSWER_SECONDS", 0.1)
    asked = []

    def slow(message: Message) -> RecordDict | None:
        asked.append(message.metadata.ttl)
        return name_content("b") if message.metadata.ttl > 0.3 else None

    told: list[dict[str, str]] = []
    proposal = Proposal.make(STUDY, Ed25519PrivateKey.generate())
    wait_until_ready(proposal, FakeGrid({"a": says("a", "+"), "b": slow}), told.append, Event())
    assert told[-1] == {"a": "ready", "b": "ready"}
    assert asked == pytest.approx([0.1, 0.2, 0.4])
