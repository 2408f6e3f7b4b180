"""A link to the server bears what a gateway or a damaged file may say."""

from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest

from client.fleet_api import fleet_client
from client.fleet_api.fleet_client import FleetLink
from common.identity.keys import make_node_key
from common.wire.flower_internals import PullMessagesResponse

_ADDRESS = "https://server:9092/"


class Gateway:
    """Refuses the first questions, and then lets them through; knows one node."""

    def __init__(self, refusals: list[int]) -> None:
        self.refusals = refusals
        self.activated = 0

    def PullMessages(self, _: object) -> PullMessagesResponse:  # noqa: N802
        if not self.refusals:
            return PullMessagesResponse()
        request = httpx.Request("POST", f"{_ADDRESS}pull-messages")
        answer = httpx.Response(self.refusals.pop(0), request=request)
        raise httpx.HTTPStatusError("refused", request=request, response=answer)

    def SendNodeHeartbeat(self, _: object) -> Any:  # noqa: N802
        return type("Answer", (), {"success": True})

    def ActivateNode(self, _: object) -> Any:  # noqa: N802
        self.activated += 1
        return type("Answer", (), {"node_id": 12})

    def close(self) -> None:
        pass


def _link(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> FleetLink:
    monkeypatch.setattr(fleet_client, "FleetCalls", lambda *_: gateway)
    monkeypatch.setattr(fleet_client, "_PAUSES", (0.001, 0.001))
    return FleetLink("server:9092", Path("ca.crt"), make_node_key(), Event())


@pytest.mark.parametrize("status", [403, 404, 407, 413, 429])
def test_a_refusal_of_the_question_for_messages_passes(
    status: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = Gateway([status, status])
    assert _link(gateway, monkeypatch).pull() is None
    assert not gateway.refusals
    told = [line for line in caplog.messages if f"HTTP {status}" in line]
    assert len(told) == 1 and "server:9092" in told[0]


@pytest.mark.parametrize("text", ["", "twelve", "-3", "9" * 40, "12\n"])
def test_a_damaged_number_of_the_node_makes_a_new_node(
    text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    memory, gateway = tmp_path / "node", Gateway([])
    memory.write_text(text)
    link = _link(gateway, monkeypatch)
    assert link.connect(memory) is False
    assert gateway.activated == 1 and memory.read_text() == "12"
    assert str(memory) in caplog.text
    assert link.connect(memory) is True
    link.close()
