"""A site that is away, a clock that is off, a certificate that runs out, while a study runs."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from client.service.cli import app as site_app
from common.identity.certificates import is_expired
from server.membership.provisioning import renew_server
from server.service.cli import app as server_app
from server.studies.store import Stored
from tests.deploy.endless.rounds import ALTERED, ROUND_DEADLINE, check, ok
from tests.deploy.federation import Federation, records, typed, wait_until


def rounds_without(stored: Stored, site: str, count: int) -> Callable[[], bool]:
    return lambda: sum(site not in record["sites"] for record in records(stored)) >= count


def rounds_that_say(stored: Stored, site: str, reason: str, count: int) -> Callable[[], bool]:
    return lambda: (
        sum(one["sites"].get(site, {}).get("reason") == reason for one in records(stored)) >= count
    )


def assert_no_round_is_lost(stored: Stored) -> None:
    done = records(stored)
    assert [record["round"] for record in done] == list(range(1, len(done) + 1))


def test_rounds_go_on_without_a_site_that_is_away_and_with_it_when_it_is_back(
    federation: Federation, stored: Stored
) -> None:
    name = sorted(federation.sites)[0]
    federation.wait_in(stored, lambda: ok(stored, name), "the site takes part")
    federation.kill(name)
    federation.wait_in(stored, rounds_without(stored, name, 3), "three rounds without it")
    federation.start(name, ALTERED)
    federation.wait_in(stored, lambda: ok(stored, name), "the site takes part again")
    assert max(record["seconds"] for record in records(stored)) < ROUND_DEADLINE
    assert_no_round_is_lost(stored)


def test_rounds_go_on_at_once_without_a_site_that_is_paused(
    federation: Federation, stored: Stored
) -> None:
    name = sorted(federation.sites)[0]
    home = str(federation.sites[name].folder)
    federation.wait_in(stored, lambda: ok(stored, name), "the site takes part")
    typed(site_app, "pause", home)
    federation.wait_in(stored, rounds_that_say(stored, name, "paused", 3), "it is out")
    typed(site_app, "resume", home)
    federation.wait_in(stored, lambda: ok(stored, name), "the site takes part again")
    assert max(record["seconds"] for record in records(stored)) < ROUND_DEADLINE
    assert_no_round_is_lost(stored)


def test_a_clock_that_is_off_is_said_and_waited_for(federation: Federation, stored: Stored) -> None:
    name = sorted(federation.sites)[1]
    clock, log = federation.sites[name].folder / "clock", federation.log(name)
    federation.wait_in(stored, lambda: ok(stored, name), "the site takes part")
    clock.write_text("600")
    wait_until(
        lambda: bool(re.search(r"\+(599|60\d) s off the server's; set the clock", log.read_text())),
        f"the site speaks of its clock\n{federation.logs()}",
    )
    verdict, text = check(federation, name, "connection")
    assert verdict == "wrong" and "the server refuses its signatures; set it with NTP" in text
    clock.unlink()
    federation.wait_in(stored, lambda: ok(stored, name), "the site takes part again")
    assert federation.processes[name].poll() is None
    assert_no_round_is_lost(stored)


def test_an_expired_certificate_is_said_and_renewed_under_a_running_study(
    federation: Federation, stored: Stored
) -> None:
    federation.wait_in(stored, lambda: len(records(stored)) > 0, "a round")
    soon = datetime.now(UTC) + timedelta(seconds=1)
    renew_server(federation.server, soon - timedelta(days=1), days=1)
    certificate = federation.server / "server.crt"
    wait_until(lambda: is_expired(certificate, datetime.now(UTC)), "the certificate's last second")
    words = f"expired on {soon:%Y-%m-%d}; the operator runs `hemofed server renew`"
    for name in federation.sites:
        log = federation.log(name)
        wait_until(lambda log=log: words in log.read_text(), f"it is said\n{federation.logs()}")  # type: ignore[misc]
    verdict, text = check(federation, sorted(federation.sites)[2], "connection")
    assert verdict == "wrong" and words in text
    assert words in typed(server_app, "status", str(federation.server))
    before = len(records(stored))
    renew_server(federation.server, datetime.now(UTC))
    federation.wait_in(stored, lambda: len(records(stored)) > before + 1, "rounds go on")
    assert all(process.poll() is None for process in federation.processes.values())
    assert_no_round_is_lost(stored)
