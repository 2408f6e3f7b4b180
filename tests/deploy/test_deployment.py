"""Real processes on loopback, TLS and node authentication on."""

from datetime import UTC, datetime
from pathlib import Path

from client.membership import Membership
from client.proposals import Proposals
from common.audit_log import verify, witnessed
from common.identity import Registry
from server.provisioning import prolong
from tests.deploy.federation import Federation, running
from tests.simulations.small import numbers


def test_the_deployed_model_is_the_simulated_one_bit_for_bit(tmp_path: Path) -> None:
    with running(tmp_path) as federation:
        prolong(federation.server, sorted(federation.sites)[0], datetime.now(UTC), days=30)
        stored = federation.run()
        federation.wait_for(stored, "completed")
    assert numbers(stored.out) == federation.simulate()
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
