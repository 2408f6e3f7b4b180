"""A running site whose key the server does not know: it lost its state, was given another key of
the site's, or revoked the site."""

import shutil
from datetime import UTC, datetime

from client.membership.enrolment import join, rotate_keys
from common.errors import FederationError
from server.membership.provisioning import admit, make_kit, revoke
from server.studies.store import Stored
from tests.deploy.endless.rounds import ALTERED, check, ok
from tests.deploy.federation import DEADLINE, Federation, wait_until


def all_ok(federation: Federation, stored: Stored) -> bool:
    return all(ok(stored, name) for name in federation.sites)


def said(federation: Federation, name: str) -> str:
    return federation.log(name).read_text()


def test_a_server_that_lost_its_state_is_survived(federation: Federation, stored: Stored) -> None:
    federation.wait_in(stored, lambda: all_ok(federation, stored), "all take part")
    before = {name: len(said(federation, name)) for name in federation.sites}
    federation.kill("server")
    shutil.rmtree(federation.server / "state")
    federation.start("server")
    word = "does not accept this site's key"
    for name in federation.sites:
        wait_until(lambda: word in said(federation, name)[before[name] :], "it is noticed")  # noqa: B023
    done = (stored.out / "rounds.jsonl").stat().st_size

    def again() -> bool:
        grown = (stored.out / "rounds.jsonl").stat().st_size > done
        return grown and all_ok(federation, stored)

    federation.wait_in(stored, again, "all take part again")
    assert all(federation.processes[name].poll() is None for name in federation.sites)


def test_a_rotation_under_way_is_survived(federation: Federation, stored: Stored) -> None:
    name, now = sorted(federation.sites)[1], datetime.now(UTC)
    home = federation.sites[name]
    federation.wait_in(stored, lambda: ok(stored, name), "the site takes part")
    admit(federation.server, rotate_keys(home.folder, now), now)
    words = f"does not accept this site's key: new keys wait in {home.folder}/identity/next"
    wait_until(lambda: words in said(federation, name), f"it is said\n{federation.logs()}")
    verdict, text = check(federation, name, "connection")
    assert verdict == "wrong" and words in text
    kit = make_kit(federation.server, name)
    join(home.folder, kit, kit.fingerprint)
    federation.approve(home, federation.study)
    federation.wait_in(stored, lambda: ok(stored, name), "the site takes part again")
    assert check(federation, name, "connection")[0] == "ok"
    assert federation.processes[name].poll() is None


def test_keys_that_change_under_the_open_log_are_taken_up(
    federation: Federation, stored: Stored
) -> None:
    name, now = sorted(federation.sites)[0], datetime.now(UTC)
    home = federation.sites[name]
    federation.wait_in(stored, lambda: ok(stored, name), "the site takes part")
    admit(federation.server, rotate_keys(home.folder, now), now)
    kit = make_kit(federation.server, name)
    join(home.folder, kit, kit.fingerprint)
    federation.approve(home, federation.study)
    federation.wait_in(
        stored, lambda: releases(federation, name) > 0, "the new key signs what it releases"
    )
    assert federation.processes[name].poll() is None


def releases(federation: Federation, name: str) -> int:
    """Answers that left since the site's keys were changed."""
    events = [line["event"] for line in federation.audit(name)]
    return events[events.index("keys_changed") :].count("released")


def test_a_revoked_site_never_gets_in_again_and_is_told(
    federation: Federation, stored: Stored
) -> None:
    name = sorted(federation.sites)[2]
    federation.wait_in(stored, lambda: ok(stored, name), "the site takes part")
    before = check(federation, name, "connection")
    assert before[0] == "ok" and "knows this site's key" in before[1]
    assert ok(stored, name), "the check did not disturb the running client"
    revoke(federation.server, name, datetime.now(UTC))
    words = "does not accept this site's key: it is not a member, or not any more; ask the operator"
    assert federation.processes[name].wait(DEADLINE) == FederationError.exit_code
    assert words in said(federation, name)
    verdict, text = check(federation, name, "connection")
    assert verdict == "wrong" and words in text
    tries = said(federation, name).count("This site tries again")
    assert federation.start(name, ALTERED).wait(DEADLINE) == FederationError.exit_code
    assert said(federation, name).count("This site tries again") == tries + 1, "for a moment"
