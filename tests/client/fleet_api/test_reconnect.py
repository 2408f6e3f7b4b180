"""How long a site that the server shuts out tries again."""

import time
from threading import Event

import pytest

from client.fleet_api import reconnect
from client.fleet_api.reconnect import Patience
from common.errors import FederationError

REFUSAL = FederationError("not a member")


@pytest.mark.parametrize("accepted", [False, True])
def test_who_was_never_accepted_may_have_been_admitted_a_moment_ago(
    monkeypatch: pytest.MonkeyPatch, accepted: bool
) -> None:
    """A server takes a new member up within seconds; who is none ends soon."""
    now, halt = 0.0, Event()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    halt.set()
    patient = Patience(halt)
    if accepted:
        patient.renew()
    patient.wait(REFUSAL)
    now = reconnect.FIRST_SECONDS
    if accepted:
        patient.wait(REFUSAL)
    else:
        with pytest.raises(FederationError, match="not a member"):
            patient.wait(REFUSAL)


def test_patience_ends_and_begins_anew_with_each_acceptance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    halt = Event()
    halt.set()
    patient = Patience(halt)
    for _ in range(2):
        patient.renew()
        patient.wait(REFUSAL)
        now += reconnect.SECONDS - 1
        patient.wait(REFUSAL)
        now += 1
        with pytest.raises(FederationError, match="not a member"):
            patient.wait(REFUSAL)
