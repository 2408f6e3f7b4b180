"""What the sites hold back from a server that has its keys and breaks the rules."""

import json
from collections.abc import Iterator

import pytest

from client.ledger.ledger import Ledger
from client.site import open_site
from tests.deploy.federation import WHOLE, Federation, all_refuse, records, wait_until
from tests.deploy.federation import running as running_federation
from tests.simulations.small import PRIVATE, simulation


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    config = simulation(study={"privacy": PRIVATE, "round": WHOLE})
    folder = tmp_path_factory.mktemp("rogue")
    with running_federation(folder, config, rounds="tests.deploy.rogue_rounds") as one:
        yield one


def debits(federation: Federation, name: str) -> int:
    with Ledger.read(open_site(federation.sites[name].site_file).ledger) as ledger:
        return len(ledger.rows("debit"))


def test_a_replayed_round_is_refused_unpaid(federation: Federation) -> None:
    stored = federation.run()
    wait_until(lambda: stored.said()["state"] == "failed", f"it fails: {stored.said()}")
    assert [record["round"] for record in records(stored)] == [1]
    for name in federation.sites:
        assert debits(federation, name) == 1
        assert "refused: answered before" in json.dumps(federation.audit(name, "refused")), name


def test_a_run_that_comes_with_code_is_refused_unpaid(federation: Federation) -> None:
    before = {name: debits(federation, name) for name in federation.sites}
    refused = {name: len(federation.audit(name, "refused")) for name in federation.sites}
    (federation.server / "code").touch()
    stored = federation.another("code")
    wait_until(lambda: all_refuse(stored), "all refuse")
    for name in federation.sites:
        assert len(federation.audit(name, "refused")) > refused[name]
        assert "comes with the code bundle ffff" in federation.log(name).read_text()
        assert debits(federation, name) == before[name]
