"""A site that lies, a registry that somebody altered."""

import json
from typing import Any

import pytest

from server.studies.store import Stored
from tests.deploy.federation import Federation, records, wait_until


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        ("nan", "the update is not finite"),
        ("layout", "its layout 000000000000 is not"),
        ("ten times the size", "values as hemofed.float32; got shape"),
        ("a huge norm", "norm"),
    ],
)
def test_a_lie_is_left_out_by_name_and_the_rounds_go_on(
    federation: Federation, stored: Stored, lie: str, reason: str
) -> None:
    name = sorted(federation.sites)[0]

    def said() -> list[dict[str, Any]]:
        lines = federation.audit("server", "reply_left_out")
        return [line for line in lines if reason in json.dumps(line)]

    (federation.sites[name].folder / "lie").write_text(lie)
    federation.wait_in(stored, lambda: bool(said()), f"{lie}: an audit line")
    (line,) = said()
    number = line["facts"]["round"]
    federation.wait_in(stored, lambda: len(records(stored)) > number + 1, "rounds go on")
    record = records(stored)[number - 1]
    assert record["sites"].pop(name)["status"] == "left out"
    assert [site["status"] for site in record["sites"].values()] == ["ok", "ok"]
    assert records(stored)[number + 1]["sites"][name]["status"] == "ok"


def test_no_round_goes_by_an_altered_registry(federation: Federation, stored: Stored) -> None:
    """Another key under a site's name, by somebody without the server's signing key."""
    path = federation.server / "registry.json"
    sound = path.read_text()
    first, second = sorted(federation.sites)[:2]
    keys = [
        json.loads((federation.sites[name].folder / "identity" / "request.json").read_text())
        for name in (first, second)
    ]
    ours, theirs = (key["claim"]["node_public_key"] for key in keys)
    altered = sound.replace(json.dumps(ours)[1:-1], json.dumps(theirs)[1:-1])
    assert altered != sound
    path.write_text(altered)
    wait_until(lambda: bool(federation.audit("server", "registry_refused")), "an audit line")
    wait_until(lambda: stored.said()["state"] == "failed", "no round goes by it")
    assert "registry.json: the registry: the signature does not fit" in json.dumps(stored.said())
    path.write_text(sound)
    done = len(records(stored))
    stored.want("run")
    wait_until(lambda: len(records(stored)) > done + 1, f"rounds go on\n{federation.logs()}")
    assert all(site["status"] == "ok" for site in records(stored)[-1]["sites"].values())
