"""A proposal that is taken back, or that nobody began: what the rounds' process does with it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Event

import pytest
from flwr.app import Message

from client.membership.enrolment import make_site
from common.config.study import Participant
from common.wire.messages import WITHDRAW, Task, name_content
from common.wire.reply_status import IN_TIME
from server.membership.provisioning import admit, revoke
from server.rounds.messaging import Reply
from server.studies import withdrawals
from server.studies.runner import RoundsProcess
from server.studies.store import Stored, propose
from server.studies.withdrawals import Withdrawals
from tests.client.lab import study
from tests.client.service.test_message_audit import NOW
from tests.server.nodes import SITES, Setting


@pytest.fixture
def stored(setting: Setting, tmp_path: Path) -> Stored:
    admit(setting.home, make_site(tmp_path / "absent", "absent", NOW), NOW)
    cohort = dict.fromkeys((*SITES, "absent"), Participant(units=20))
    found = propose(setting.home, study(cohort=cohort))
    found.withdraw()
    return found


def told(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, deaf: set[str]
) -> list[tuple[str, str, str]]:
    """Who is told, of what kind, about which study, at one look; the `deaf` do not answer."""
    asked: list[tuple[str, str, str]] = []

    def exchange(
        _: object, messages: Mapping[str, Message], __: float
    ) -> Iterator[tuple[str, Reply]]:
        for site, message in messages.items():
            digest = Task.read(message).study.digest
            asked.append((site, message.metadata.message_type, digest))
            heard = site not in deaf
            content = name_content(site)
            yield site, Message(content, 1, "query") if heard else IN_TIME

    monkeypatch.setattr(withdrawals, "exchange", exchange)
    Withdrawals(setting.home, setting.state, setting.log, Event()).look()
    return asked


def test_each_connected_lab_is_told_until_it_has_heard(
    setting: Setting, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = stored.study().digest
    first = told(setting, monkeypatch, deaf={"rome"})
    assert sorted(first) == [(site, WITHDRAW, digest) for site in SITES]
    assert stored.said()["state"] == "withdrawn" and stored.wanted == "withdraw"
    assert stored.said()["note"] == "not told yet: absent, rome"
    assert told(setting, monkeypatch, deaf=set()) == [("rome", WITHDRAW, digest)]
    assert stored.said()["note"] == "not told yet: absent"
    assert told(setting, monkeypatch, deaf=set()) == []
    revoke(setting.home, "absent", NOW)
    assert told(setting, monkeypatch, deaf=set()) == []
    assert stored.wanted == "stop" and stored.said()["state"] == "withdrawn"
    assert "note" not in stored.said()


def test_a_study_that_was_changed_is_told_to_nobody(
    setting: Setting, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored.file.write_text(stored.file.read_text().replace("rounds: 3", "rounds: 4"))
    assert told(setting, monkeypatch, deaf=set()) == [] and stored.wanted == "stop"


def test_a_service_that_is_stopped_while_a_study_waits_has_not_started_it(
    setting: Setting,
) -> None:
    found = propose(setting.home, study(cohort=dict.fromkeys(SITES, Participant(units=20))))
    found.want("run")
    halt = Event()
    halt.set()
    RoundsProcess(setting.home, setting.state, setting.log, halt)._run(found)
    assert setting.lines("study_started") == [] and found.wanted == "run"
