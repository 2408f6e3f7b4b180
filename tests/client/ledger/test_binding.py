"""A site's ledger is opened for its own cells, under its budget, and no simulation's is a lab's."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from client.data.cache import prepare
from client.data.marks import CACHE_MARK
from client.data.store import META
from client.ledger import binding, data_mark
from client.ledger.binding import (
    continue_ledger,
    create_ledger,
    create_simulated_ledger,
    data_fingerprint,
    open_ledger,
)
from client.ledger.data_mark import marks
from client.ledger.ledger import Ledger
from client.policy.budget import Budget
from client.site import open_site
from common.config.loading import dump
from common.config.study import Site
from common.errors import PrivacyError
from tests.client.lab import SPENT, make_lab

STUDY = "s" * 64


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return open_site(make_lab(tmp_path / "lab", cells=10))


def opened() -> set[str]:
    return {os.path.realpath(file) for file in Path("/proc/self/fd").iterdir()}


def grown(site: Site) -> Site:
    """The same home once an image was added."""
    table = site.ledger.parent / "images" / "cells.csv"
    shutil.copy(table.with_name("0.png"), table.with_name("new.png"))
    table.write_text("\n".join([*table.read_text().splitlines(), "new.png,myeloblast,p7"]))
    cells = site.cells[0].model_copy(update={"folder": prepare(table.parent, 16)})
    one = Site(name="lab", cells=(cells,))
    (site.ledger.parent / "site.yaml").write_text(dump(one))
    return open_site(site.ledger.parent / "site.yaml")


def test_cells_that_have_a_ledger_get_no_other(site: Site) -> None:
    before = site.ledger.read_bytes()
    with pytest.raises(PrivacyError, match="is these cells' ledger already"):
        create_ledger(site)
    assert site.ledger.read_bytes() == before
    site.ledger.unlink()
    with pytest.raises(PrivacyError, match="and it is missing"):
        create_ledger(site)
    assert not site.ledger.exists()


def test_a_ledger_is_opened_under_the_budget_and_with_the_head_that_was_seen(site: Site) -> None:
    with open_ledger(site) as ledger:
        head = ledger.debit(STUDY, 1, 0, SPENT).hash
    with open_ledger(site, expected_head=head) as ledger:
        ledger.debit(STUDY, 2, 0, SPENT)
    with pytest.raises(PrivacyError, match="does not contain the row aaaa"):
        open_ledger(site, expected_head="a" * 64)
    small = Budget(epsilon=1e-3, delta=1e-5)
    with open_ledger(site, budget=small) as ledger, pytest.raises(PrivacyError, match="would use"):
        ledger.debit(STUDY, 3, 0, SPENT)


def test_a_ledger_goes_on_with_more_cells_once_it_is_told_so(site: Site) -> None:
    with open_ledger(site) as ledger:
        ledger.debit(STUDY, 1, 0, SPENT)
        rows = len(ledger.rows())
    more = grown(site)
    with pytest.raises(PrivacyError, match="ledger rebind"):
        open_ledger(more)
    for _ in range(2):
        ledger, untold = continue_ledger(more)
        with ledger:
            assert untold == [] and len(ledger.rows()) == rows + 1
    with open_ledger(more) as ledger:
        assert ledger.fingerprint == data_fingerprint(more) != data_fingerprint(site)
        assert ledger.events() == (SPENT,)


def test_cells_that_do_not_name_the_ledger_are_not_spent_from(site: Site) -> None:
    (site.cells[0].folder / CACHE_MARK).unlink()
    with pytest.raises(PrivacyError, match="does not say that its ledger is"):
        open_ledger(site)


@pytest.mark.parametrize("attempt", [open_ledger, continue_ledger])
def test_another_ledger_in_its_place_is_not_theirs(
    site: Site, attempt: Callable[[Site], object]
) -> None:
    site.ledger.unlink()
    Ledger.create(site.ledger, data_fingerprint(site)).close()
    with pytest.raises(PrivacyError, match="is not the ledger of these cells") as refused:
        attempt(site)
    # As long as the error is kept, so is all that it passed by.
    assert refused.value.__traceback__ is not None and str(site.ledger) not in opened()


def test_a_simulated_site_has_a_ledger_of_its_own_kind_that_stays(site: Site) -> None:
    """Its cells are other sites' too, and are told nothing."""
    before = [(mark.ledger, mark.identity) for mark in marks(site)]
    site.ledger.unlink()
    create_simulated_ledger(site)
    with open_ledger(site) as ledger:
        ledger.debit(STUDY, 1, 0, SPENT)
    create_simulated_ledger(site)
    with open_ledger(site) as ledger:
        assert ledger.simulated and ledger.events() == (SPENT,)
    assert [(mark.ledger, mark.identity) for mark in marks(site)] == before
    with pytest.raises(PrivacyError, match="is a simulated site's ledger, and holds back nothing"):
        continue_ledger(site)


def test_a_fingerprint_is_read_once_a_process(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for with each message, and reads every selection."""
    found = data_fingerprint(site)
    monkeypatch.setattr(binding, "CellCache", None)
    assert data_fingerprint(site) == found


def test_cells_that_cannot_be_told_get_no_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = open_site(make_lab(tmp_path / "lab", cells=10))
    site.ledger.unlink()
    for mark in {mark.place for mark in marks(site)}:
        mark.unlink()
    cache = site.cells[0].folder
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != cache)
    with pytest.raises(PrivacyError, match=f"{cache}: cannot be written, so the cells cannot be"):
        create_ledger(site)
    assert not site.ledger.exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"source": 3}', "\udcff"])
def test_a_damaged_cache_beside_the_cells_own_says_nothing(site: Site, text: str) -> None:
    beside = site.cells[0].folder.parent / "damaged"
    beside.mkdir()
    (beside / META).write_bytes(text.encode("utf-8", "surrogateescape"))
    (beside / CACHE_MARK).write_text("{}")
    # Found when the lab was made.
    data_mark._places.cache_clear()
    try:
        open_ledger(site).close()
    finally:
        shutil.rmtree(beside)
