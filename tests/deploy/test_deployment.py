"""Real processes on loopback, TLS and node authentication on."""

import json
import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from client.consent.proposals import Proposals
from client.membership.membership import Membership
from client.service.cli import app as site_app
from common.audit.log import verify, witnessed
from common.identity import Registry
from common.version import version
from server.membership.provisioning import prolong
from server.service.cli import app as server_app
from tests.deploy.federation import (
    Federation,
    all_refuse,
    has_begun,
    records,
    running,
    typed,
    wait_until,
)
from tests.simulations.small import numbers


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with running(tmp_path_factory.mktemp("deployment")) as one:
        yield one


def test_the_deployed_model_is_the_simulated_one_bit_for_bit(federation: Federation) -> None:
    prolong(federation.server, sorted(federation.sites)[0], datetime.now(UTC), days=30)
    stored = federation.run()
    federation.wait_for(stored, "completed")
    assert numbers(stored.out) == federation.simulate(stored)
    for name in federation.sites:
        check_logs(federation, name)
        kept = Membership.load(federation.sites[name].folder).registry
        assert [one.study for one in Proposals(federation.sites[name]).all()] == [federation.study]
        assert kept == Registry.load(federation.server)


def check_logs(federation: Federation, name: str) -> None:
    """Each side's log holds every head that the other side recorded of it, one a message."""
    home = federation.sites[name].folder
    mine, theirs = home / "audit.jsonl", federation.server / "audit.jsonl"
    membership = Membership.load(home)
    seen = witnessed(theirs, name)
    assert verify(mine, membership.member.signing_public_key, seen) is None
    rounds = federation.study.rounds
    about = [head.about for head in seen if head.about and head.about["kind"] == "train"]
    assert [facts["round"] for facts in about] == [*range(1, rounds + 1)]
    assert len(seen) == 2 * rounds + 1 == len(witnessed(mine, "server"))
    assert verify(theirs, membership.server_public_key, witnessed(mine, "server")) is None


def test_a_changed_study_is_refused_by_all(federation: Federation) -> None:
    before = {name: len(federation.audit(name, "refused")) for name in federation.sites}
    stored = federation.run(federation.study.model_copy(update={"rounds": 5}))
    federation.wait_for(stored, "waiting for sites")
    wait_until(lambda: all_refuse(stored), "all refuse")
    for name in federation.sites:
        assert len(federation.audit(name, "refused")) > before[name]
    typed(server_app, "stop", str(federation.server), stored.folder.name)
    federation.wait_for(stored, "stopped")


def test_a_pause_holds_the_next_release(federation: Federation) -> None:
    name = sorted(federation.sites)[0]
    home = federation.sites[name]
    typed(site_app, "pause", str(home.folder))
    before = len(federation.audit(name, "released"))
    stored = federation.another("paused")
    wait_until(lambda: json.loads(home.status.read_text())["paused"], "the site is paused")
    federation.wait_for(stored, "waiting for sites")
    paused = {name: "sits out: paused"}
    wait_until(lambda: paused.items() <= stored.said().get("sites", {}).items(), "it is said")
    assert len(federation.audit(name, "released")) == before
    typed(site_app, "resume", str(home.folder))
    federation.wait_for(stored, "completed")
    assert len(federation.audit(name, "released")) > before
    assert "completed" in typed(server_app, "status", str(federation.server))


def test_a_proposal_that_is_withdrawn_leaves_the_labs_lists(federation: Federation) -> None:
    stored = federation.run(federation.study.model_copy(update={"name": "mistaken"}))
    wait_until(lambda: all_refuse(stored), "all have it")
    digest = stored.study().digest

    def listed() -> list[str]:
        homes = federation.sites.values()
        return [one.study.digest for home in homes for one in Proposals(home).all()]

    assert listed().count(digest) == len(federation.sites)
    typed(server_app, "withdraw", str(federation.server), stored.folder.name)
    wait_until(lambda: digest not in listed(), "nobody lists it")
    wait_until(lambda: stored.wanted == "stop", "all have heard")
    for home in federation.sites.values():
        assert "mistaken" not in typed(site_app, "status", str(home.folder)).split("left for")[1]


def test_a_stopped_study_is_finished_and_every_member_is_shown(federation: Federation) -> None:
    stored = federation.another("finished", rounds=50)
    wait_until(lambda: len(records(stored)) >= 2, "some rounds")
    typed(server_app, "stop", str(federation.server), stored.folder.name)
    federation.wait_for(stored, "stopped")
    whole = len(records(stored))
    gone = sorted(federation.sites)[0]
    federation.kill(gone)

    def seen() -> dict[str, dict[str, object]]:
        content = json.loads(typed(server_app, "status", str(federation.server), "--json"))
        return {member["site"]: member for member in content["members"]}

    wait_until(lambda: not seen()[gone]["connected"], "it is missed", pause=0.5)
    assert set(seen()) == set(federation.sites) and seen()[gone]["last_seen"] is not None
    there = {site for site, member in seen().items() if member["connected"]}
    assert there == set(federation.sites) - {gone}
    assert {member["version"] for member in seen().values()} == {version()}
    typed(server_app, "finish", str(federation.server), stored.folder.name)
    federation.wait_for(stored, "finished")
    outcome = json.loads((stored.out / "outcome.json").read_text())
    assert (outcome["rounds"], set(outcome["test"])) == (whole, there)
    assert len(records(stored)) == whole and (stored.out / "model.safetensors").exists()
    federation.start(gone)
    wait_until(lambda: bool(seen()[gone]["connected"]), "it is back", pause=0.5)


def test_no_crash_changes_a_bit_of_the_model(federation: Federation) -> None:
    """Everything is killed in turn, and goes on."""
    stored = federation.another("killed", rounds=10)
    first, second, _ = federation.sites

    def begun(number: int) -> bool:
        return has_begun(stored, number)

    def in_hand(site: str, number: int) -> bool:
        return begun(number) and federation.sites[site].inflight.exists()

    federation.wait_in(stored, lambda: in_hand(first, 2), "a message to kill the runner with")
    os.kill(federation.pids(first)["runner"], signal.SIGKILL)

    federation.wait_in(stored, lambda: in_hand(second, 4), "a message to kill the node with")
    os.kill(federation.processes[second].pid, signal.SIGKILL)
    federation.processes[second].wait()
    federation.start(second)

    federation.wait_in(stored, lambda: begun(6), "round 6")
    os.kill(federation.pids("server")["rounds"], signal.SIGKILL)

    federation.wait_in(stored, lambda: begun(7), "round 7")
    os.kill(federation.pids("server")["superlink"], signal.SIGKILL)

    federation.wait_in(stored, lambda: begun(9), "round 9")
    os.kill(federation.processes["server"].pid, signal.SIGKILL)
    federation.processes["server"].wait()
    federation.start("server")

    federation.wait_in(stored, lambda: stored.said()["state"] == "completed", "the end")
    assert [record["round"] for record in records(stored)] == list(range(1, 11))
    assert numbers(stored.out) == federation.simulate(stored)
