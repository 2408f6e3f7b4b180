"""Kills and full disks in the middle of a private study: what leaves was paid for, once a round."""

import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client.ledger.ledger import Ledger
from client.membership.enrolment import make_site
from client.membership.membership import Membership
from client.site import open_site
from common.audit.log import verify, witnessed
from common.config.loading import dump
from common.config.study import Study
from common.errors import FederationError
from common.privacy.accounting import epsilon
from server.membership.provisioning import admit
from server.rounds import checkpoints
from server.service.cli import app as server_app
from server.studies.store import Stored
from simulations.experiments import OPEN_POLICY
from tests.deploy.federation import Federation, records, typed, wait_until
from tests.simulations.small import PRIVATE, numbers, simulation

POLICY = OPEN_POLICY.model_copy(
    update={"study_epsilon": 12.0, "lifetime_epsilon": 40.0, "delta": 1e-4, "metrics": "noised"}
)
EXACT = POLICY.model_copy(update={"study_epsilon": PRIVATE["epsilon"], "metrics": "none"})
"""Allows just what a study costs."""
STUDY = PRIVATE | {"spare_rounds": 6}
"""Rounds that kills cut off are done again out of these."""
DISK = "160m"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Three sites, the first with the `EXACT` policy."""
    policy = {"min_sites": 2, "deadline_seconds": 240}
    config = simulation(study={"rounds": 6, "privacy": STUDY, "round": policy})
    one = Federation(tmp_path_factory.mktemp("private"), config)
    for number, home in enumerate(one.sites.values()):
        (home.folder / "policy.yaml").write_text(dump(POLICY if number else EXACT))
    small = [one.server, list(one.sites.values())[2].folder]
    small = [folder for folder in small if put_on_small_disk(folder)]
    try:
        one.start("server")
        for name in one.sites:
            one.start(name)
        yield one
    finally:
        one.close()
        for folder in small:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def put_on_small_disk(folder: Path) -> bool:
    """Give the folder a file system of its own that is soon full; whether that is allowed here."""
    aside = folder.with_suffix(".aside")
    shutil.copytree(folder, aside)
    options = ["-o", f"size={DISK},mode=0700", "tmpfs", str(folder)]
    if subprocess.run(["mount", "-t", "tmpfs", *options], capture_output=True).returncode:
        return False
    shutil.copytree(aside, folder, dirs_exist_ok=True)
    return True


def fill(folder: Path) -> Path:
    """A file that takes all that is free on the folder's disk; skips unless that is a small one."""
    if not folder.is_mount():
        pytest.skip("no tmpfs can be mounted here")
    filler = folder / "filler"
    with suppress(OSError), filler.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(2**16))
    return filler


def paid(federation: Federation, name: str, study: Study) -> dict[tuple[int, int], int]:
    """How often the ledger has each (round, attempt) of the study."""
    with Ledger.read(open_site(federation.sites[name].site_file).ledger) as ledger:
        rows = [row for row in ledger.rows("debit") if row.study == study.digest]
    return Counter((row.round, row.attempt) for row in rows)


def released(federation: Federation, name: str, study: Study) -> dict[tuple[str, int, int], int]:
    """How many answers the site's audit log has of each kind, round and attempt."""
    found = [line["facts"] for line in federation.audit(name, "released")]
    return Counter(
        (facts["kind"], facts["round"], facts["attempt"])
        for facts in found
        if facts["study"] == study.digest
    )


def assert_all_that_left_was_paid_for(federation: Federation, stored: Stored) -> None:
    study = stored.study()
    for name, home in federation.sites.items():
        site, ledger_rows = open_site(home.site_file), paid(federation, name, study)
        policy = EXACT if name == min(federation.sites) else POLICY
        with Ledger.read(site.ledger) as ledger:
            ledger.verify()
            assert epsilon(ledger.events(study.digest), policy.delta) <= policy.study_epsilon
        assert max(ledger_rows.values()) == 1
        left = released(federation, name, study)
        assert any(kind == "train" for kind, _, _ in left)
        for (kind, at, attempt), count in left.items():
            numbers = [at] if kind == "train" else [-2 * at - 1, -2 * at - 2]
            assert count <= sum(ledger_rows[number, attempt] for number in numbers), (
                name,
                kind,
                at,
            )
        for record in records(stored):
            if record["sites"].get(name, {}).get("status") == "ok":
                assert (record["round"], record["attempt"]) in ledger_rows


def assert_nothing_is_lost_or_half(federation: Federation, stored: Stored) -> None:
    study = stored.study()
    assert [record["round"] for record in records(stored)] == list(range(1, study.rounds + 1))
    assert numbers(stored.out)
    state = checkpoints.load(stored.out / "checkpoints", study.digest)
    assert state is not None and state.round == study.rounds
    log, key = federation.server / "audit.jsonl", (federation.server / "signing.pub").read_text()
    for name, home in federation.sites.items():
        theirs, membership = home.folder / "audit.jsonl", Membership.load(home.folder)
        assert verify(theirs, membership.member.signing_public_key, witnessed(log, name)) is None
        assert verify(log, key, witnessed(theirs, "server")) is None


def wait_paid(federation: Federation, stored: Stored, name: str, number: int) -> None:
    """The middle of a round: it is paid for, and its update not sent, or just so."""
    study = stored.study()
    federation.wait_in(
        stored,
        lambda: any(at >= number for at, _ in paid(federation, name, study)),
        f"{name} pays for round {number}",
    )


def test_kills_overspend_nothing_and_lose_no_round(federation: Federation) -> None:
    stored = federation.run()
    names = list(federation.sites)
    wait_paid(federation, stored, names[1], 2)
    os.kill(federation.pids(names[1])["runner"], signal.SIGKILL)
    wait_paid(federation, stored, names[2], 3)
    federation.kill(names[2])
    federation.start(names[2])
    wait_paid(federation, stored, names[1], 4)
    federation.kill("server")
    federation.start("server")
    wait_paid(federation, stored, names[2], 5)
    for name in ["server", *names]:
        federation.kill(name)
    for name in ["server", *names]:
        federation.start(name)
    federation.wait_in(stored, lambda: stored.said()["state"] == "completed", "the study ends")
    assert_nothing_is_lost_or_half(federation, stored)
    assert_all_that_left_was_paid_for(federation, stored)


def test_a_full_disk_at_the_server_costs_the_sites_no_more_than_a_round(
    federation: Federation,
) -> None:
    stored = federation.another("full-server")
    name = list(federation.sites)[1]
    wait_paid(federation, stored, name, 2)
    filler = fill(federation.server)
    assert "MiB are free on its disk" in typed(server_app, "status", str(federation.server))
    os.truncate(filler, filler.stat().st_size - 2**20)
    federation.wait_in(stored, lambda: stored.said()["state"] == "waiting for room", "it waits")
    assert "make room there" in stored.said()["reason"]
    before = paid(federation, name, stored.study())
    assert max(Counter(number for number, _ in before).values()) <= 2
    member = make_site(federation.server.parent / "late", "late", datetime.now(UTC))
    filler.unlink()
    admit(federation.server, member, datetime.now(UTC))
    federation.wait_in(stored, lambda: stored.said()["state"] == "completed", "the study ends")
    assert_nothing_is_lost_or_half(federation, stored)
    assert_all_that_left_was_paid_for(federation, stored)
    log = federation.server / "logs" / "superlink.log"
    wait_until(lambda: "site late: admitted" in log.read_text(), "the registry is still followed")


def test_a_site_whose_disk_is_full_stops_with_a_word_and_sits_out(federation: Federation) -> None:
    stored = federation.another("full-site")
    name = list(federation.sites)[2]
    folder, log = federation.sites[name].folder, federation.log(name)
    wait_paid(federation, stored, name, 2)
    filler = fill(folder)
    assert federation.processes[name].wait(120) == FederationError.exit_code
    assert re.search(rf"{folder}.*(make room|Make room)", log.read_text().splitlines()[-1])
    federation.wait_in(stored, lambda: has_round_without(stored, name), "a round without it")
    stored.want("stop")
    federation.wait_in(stored, lambda: stored.said()["state"] == "stopped", "the study stops")
    filler.unlink()
    federation.start(name)
    wait_until(federation.sites[name].status.exists, f"the site is back\n{federation.logs()}")
    stored.want("run")
    federation.wait_in(stored, lambda: stored.said()["state"] == "completed", "the study ends")
    assert records(stored)[-1]["sites"][name]["status"] == "ok"
    assert_nothing_is_lost_or_half(federation, stored)
    assert_all_that_left_was_paid_for(federation, stored)


def has_round_without(stored: Stored, name: str) -> bool:
    done = records(stored)
    return bool(done) and done[-1]["sites"].get(name, {}).get("status") != "ok"
