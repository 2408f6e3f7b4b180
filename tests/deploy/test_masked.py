"""A study in mode distributed, in real processes: rounds, a lost lab, and a server that cheats."""

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.ledger.hash_chain import STATISTICS
from client.ledger.ledger import Ledger
from client.site import open_site
from common.config.loading import dump
from common.config.study import PrivacySpec, Study
from common.wire.reasons import Reason
from server.rounds.cell_statistics import CellStatistics
from server.studies.store import Stored
from simulations.config import Simulation
from simulations.experiments import OPEN_POLICY
from tests.deploy.federation import Federation, has_begun, records, running, wait_until
from tests.simulations.small import PRIVATE, numbers, simulation

PRIVACY = {
    "mode": "distributed",
    "epsilon": 20.0,
    "delta": 1e-4,
    "sample_rate": 0.5,
    "local_steps": 1,
    "dropouts": 1,
    "spare_rounds": 20,
    "statistics_epsilon": 2.0,
}


def config(rounds: int) -> Simulation:
    return simulation(
        study={
            "rounds": rounds,
            "privacy": PRIVACY,
            "round": {"deadline_seconds": 120},
            "evaluation": {"every": 100},
        },
        data={"source": "rendered", "rendered": {"sites": 4, "cells": 40, "side": 32}},
        partition={"weighting": "equal"},  # in every mode alike
    )


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Labs whose policy lets noised counts leave: they are summed under masks, too."""
    policy = dump(OPEN_POLICY.model_copy(update={"metrics": "noised"}))
    with running(tmp_path_factory.mktemp("masked"), config(rounds=12)) as one:
        for home in one.sites.values():
            (home.folder / "policy.yaml").write_text(policy)
        yield one


@pytest.fixture(scope="module")
def rogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A server that can be told to swap a key, and labs that draw from a simulation's seed."""
    folder, sites = tmp_path_factory.mktemp("rogue"), "tests.deploy.seeded_site"
    with running(folder, config(rounds=3), sites, "tests.deploy.rogue_masks") as one:
        yield one


def paid(
    federation: Federation, name: str, study: Study, mode: str = "distributed"
) -> Counter[tuple[int, int]]:
    """(round, attempt) -> how often the lab's ledger has it."""
    with Ledger.read(open_site(federation.sites[name].site_file).ledger) as ledger:
        ledger.verify()
        rows = [row for row in ledger.rows("debit") if row.study == study.digest]
    assert all(row.event.mode == mode for row in rows if row.round > 0)
    return Counter((row.round, row.attempt) for row in rows if row.round > 0)


def test_a_lab_that_dies_costs_an_attempt_and_is_masked_with_again(federation: Federation) -> None:
    stored = federation.run()
    name = sorted(federation.sites)[1]
    federation.wait_in(stored, lambda: has_begun(stored, 4), "three rounds are over")
    federation.kill(name)
    federation.wait_in(stored, lambda: without(stored, name), "a round goes on without it")
    federation.start(name)
    federation.wait_in(stored, lambda: stored.said()["state"] == "completed", "it is over")
    assert_whole_and_paid_once(federation, stored)


def test_kills_of_anybody_pay_once_and_mask_once(federation: Federation) -> None:
    stored = federation.another("killed")
    names = sorted(federation.sites)

    def until_round(number: int) -> None:
        federation.wait_in(stored, lambda: has_begun(stored, number), f"round {number} begins")

    until_round(2)
    os.kill(federation.pids(names[0])["runner"], signal.SIGKILL)
    until_round(4)
    federation.kill(names[2])
    federation.start(names[2])
    until_round(6)
    federation.kill("server")
    federation.start("server")
    until_round(8)
    for name in ["server", *names]:
        federation.kill(name)
    for name in ["server", *names]:
        federation.start(name)
    federation.wait_in(stored, lambda: stored.said()["state"] == "completed", "it is over")
    assert_whole_and_paid_once(federation, stored)


def assert_whole_and_paid_once(federation: Federation, stored: Stored) -> None:
    """Every round is there, every sum in it was paid for, and no lab masked twice for one."""
    study = stored.study()
    assert numbers(stored.out)
    assert json.loads((stored.out / "outcome.json").read_text())["test"] == {}
    assert [record["round"] for record in records(stored)] == list(range(1, study.rounds + 1))
    told = CellStatistics.read(stored.out)
    assert told and told.sites == study.training_sites and len(told.cells) == len(study.cell_types)
    for name, home in federation.sites.items():
        with Ledger.read(open_site(home.site_file).ledger) as ledger:
            events = ledger.events(study.digest)
        assert {event.mode for event in events} == {"distributed"}
        assert statistics_paid(federation, name, study) == 1
        debits = paid(federation, name, study)
        assert max(debits.values()) == 1
        for record in records(stored):
            if record["sites"].get(name, {}).get("status") == "ok":
                assert (record["round"], record["attempt"]) in debits
        lines = [line["facts"] for line in federation.audit(name, "released")]
        masked = [facts["agreement"] for facts in lines if facts["study"] == study.digest]
        assert len(set(masked)) == len(masked) >= study.rounds - 2


def statistics_paid(federation: Federation, name: str, study: Study) -> int:
    """How often the lab's ledger has the statistics of its training cells."""
    with Ledger.read(open_site(federation.sites[name].site_file).ledger) as ledger:
        rows = [row for row in ledger.rows("debit") if row.study == study.digest]
    return sum(row.round == STATISTICS for row in rows)


def without(stored: Stored, name: str) -> bool:
    """Whether the last round had all labs but this one."""
    if not (done := records(stored)):
        return False
    sites = done[-1]["sites"]
    good = {site for site, one in sites.items() if one["status"] == "ok"}
    return name not in good and len(good) == 3


@pytest.mark.parametrize(
    "privacy",
    [PRIVACY | {"epsilon": 4.0, "spare_rounds": 1}, PRIVATE],  # less to calculate
    ids=["distributed", "local"],
)
def test_what_is_deployed_is_what_was_simulated_bit_for_bit(
    rogue: Federation, privacy: dict[str, object]
) -> None:
    """Samples, noise and masks are drawn from one seed for once; the server is honest still."""
    mode = str(privacy["mode"])
    stored = rogue.another(mode, privacy=PrivacySpec.model_validate(privacy))
    rogue.wait_for(stored, "completed")
    assert numbers(stored.out) == rogue.simulate(stored)
    for name in rogue.sites:
        assert paid(rogue, name, stored.study(), mode) == Counter([(1, 0), (2, 0), (3, 0)])


def test_a_swapped_key_is_refused_unpaid_by_every_lab(rogue: Federation) -> None:
    (rogue.server / "swap").touch()
    stored = rogue.run()
    wait_until(lambda: stored.said()["state"] == "failed", f"it fails: {stored.said()}")
    assert not records(stored)
    for name in rogue.sites:
        assert not paid(rogue, name, stored.study())
        assert not statistics_paid(rogue, name, stored.study())
        refusals = [line["facts"] for line in rogue.audit(name, "refused")]
        assert any(Reason.MASKING_KEY.value in facts["reason"] for facts in refusals), name
        log: Path = rogue.sites[name].folder / "site.log"
        assert "the signature does not fit" in log.read_text()
