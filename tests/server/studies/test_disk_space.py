"""No round is begun that the server's disk could not hold to its end."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from unittest.mock import Mock

import pytest

from common.audit.log import AuditLog
from common.config.study import Participant
from common.disk_space import LEAST
from common.errors import FederationError
from common.identity import load_signing_key
from server.membership.provisioning import make_server
from server.studies.disk_space import round_bytes
from server.studies.runner import RoundsProcess
from server.studies.store import Stored, propose
from tests import full_disk
from tests.client.lab import first_model, study


def proposed(tmp_path: Path) -> tuple[Path, Stored]:
    home = tmp_path / "server"
    make_server(home, "127.0.0.1:9092", datetime.now(UTC))
    stored = propose(home, study())
    stored.want("run")
    return home, stored


def test_a_round_needs_the_vector_to_each_site_and_back_and_a_checkpoint() -> None:
    size = 4 * len(first_model(study()))
    one = round_bytes(study())
    many = round_bytes(study(cohort={f"s{n}": Participant(units=1) for n in range(11)}))
    assert many - one == 10 * 2 * size
    assert one >= LEAST + 2 * size + 3 * size + 2 * 2 * size


@pytest.mark.parametrize("lacking", [1, 2**20])
def test_a_study_waits_for_room_and_begins_no_round(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    lacking: int,
) -> None:
    home, stored = proposed(tmp_path)
    begun: list[Stored] = []
    monkeypatch.setattr(RoundsProcess, "_rounds", lambda _, stored, *__: begun.append(stored))
    halt = Event()
    with AuditLog.open(home / "audit.jsonl", load_signing_key(home / "signing.key")) as log:
        runner = RoundsProcess(home, Mock(), log, halt)
        halt.set()
        with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
            full_disk.fill(patch, round_bytes(study()) - lacking)
            runner._run(stored)
            assert begun == [] and stored.wanted == "run"
            assert stored.said()["state"] == "waiting for room"
            assert "MiB are needed; make room there" in stored.said()["reason"]
            assert "waits and goes on by itself" in caplog.text
            full_disk.fill(patch, round_bytes(study()))
            runner._run(stored)
        assert begun == [stored] and stored.said()["state"] == "completed"


def test_an_error_on_a_full_disk_is_a_wait_and_on_another_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk fails in many ways; what failed is done again when there is room."""
    home, stored = proposed(tmp_path)
    halt = Event()
    halt.set()

    def end(then: Callable[[], None]) -> tuple[str, str]:
        """How the study stands when its rounds have raised, `then` having happened."""

        def fails(*_: object) -> None:
            then()
            raise FederationError("no reply came")

        monkeypatch.setattr(RoundsProcess, "_rounds", fails)
        stored.want("run")
        with AuditLog.open(home / "audit.jsonl", load_signing_key(home / "signing.key")) as log:
            RoundsProcess(home, Mock(), log, halt)._run(stored)
        return stored.said()["state"], stored.wanted

    assert end(lambda: None) == ("failed", "stop")
    assert end(lambda: full_disk.fill(monkeypatch)) == ("waiting for room", "run")
