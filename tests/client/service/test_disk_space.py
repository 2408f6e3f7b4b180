"""A site whose disk is full takes no message that it could not answer, and pays for none."""

from threading import Event

import pytest

from client.fleet_api.fleet_client import FleetLink
from client.ledger.ledger import Ledger
from client.service.node import SuperNode
from client.service.worker import Runner
from common.disk_space import LEAST, NoRoomError
from tests import full_disk
from tests.client.service.test_message_audit import Setting


class Idle(FleetLink):
    """A server that has nothing to ask."""

    def __init__(self, halt: Event) -> None:
        self._end, self.pulls = halt, 0

    def pull(self) -> None:
        self.pulls += 1
        self._end.set()


def test_a_full_disk_is_said_before_a_message_is_taken(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    halt = Event()
    link, runner = Idle(halt), Runner(setting.home.site_file, setting.home.runner_log)
    node = SuperNode(setting.home, link, runner, setting.record, halt)
    full_disk.fill(monkeypatch, LEAST - 1)
    with pytest.raises(NoRoomError, match=r"MiB are free on its disk, .*make room there"):
        node.serve()
    assert link.pulls == 0
    with Ledger.read(setting.home.folder / "ledger.sqlite") as ledger:
        assert not ledger.rows("debit")
    full_disk.fill(monkeypatch, LEAST)
    node.serve()
    assert link.pulls == 1
