"""What a site's own log remembers of its ledger, and what ties the ledger to the data."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from client.data.cache import prepare
from client.ledger.binding import data_fingerprint
from client.ledger.ledger import Ledger
from client.ledger.rollback import adopt, check_own_ledger, remembered_rows
from client.site import open_site
from common.audit.log import AuditLog
from common.config.study import CellSource, Site
from common.errors import DataError, PrivacyError
from common.identity.keys import make_signing_key
from tests.client.lab import SPENT, make_lab
from tests.client.service.test_message_audit import Setting

FORMER = "a" * 64


class Lab:
    """A site with a ledger and the log that names its rows."""

    def __init__(self, folder: Path) -> None:
        self.site = open_site(make_lab(folder, cells=10))
        self.path = folder / "audit.log"
        self.log = AuditLog.open(self.path, make_signing_key())

    def release(self) -> str:
        """A debit and the log's line of it; the row."""
        with Ledger.read(self.site.ledger) as ledger:
            row = ledger.debit("s" * 64, len(ledger.rows()), 0, SPENT).hash
        self.log.append("released", ledger=row, round=1)
        return row

    def restore(self, backup: Path) -> None:
        for file in self.site.ledger.parent.glob("ledger.sqlite*"):
            file.unlink()
        shutil.copy(backup, self.site.ledger)

    def check(self) -> None:
        check_own_ledger(self.site, self.path)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    one = Lab(tmp_path / "lab")
    yield one
    one.log.close()


def test_the_log_names_the_row_of_each_release_in_order(lab: Lab) -> None:
    assert remembered_rows(lab.path.with_name("none.log")) == []
    rows = [lab.release() for _ in range(3)]
    lab.log.append("released", ledger="", round=2)
    lab.log.append("refused", reason='"event":"released"')
    assert remembered_rows(lab.path) == rows
    lab.check()


@pytest.mark.parametrize("releases", [1, 2, 5])
def test_a_copy_that_lacks_the_last_row_alone_is_found(
    lab: Lab, tmp_path: Path, releases: int
) -> None:
    """It holds every row that the log names but the last."""
    for _ in range(releases):
        lab.release()
    backup = shutil.copy(lab.site.ledger, tmp_path / "backup.sqlite")
    lab.release()
    lab.check()
    lab.restore(backup)
    with pytest.raises(PrivacyError, match="it is an older or another copy"):
        lab.check()


def test_a_row_beyond_the_logs_last_is_no_fault(lab: Lab) -> None:
    """A crash between the debit and the log's line wastes a debit and stops nobody."""
    lab.release()
    with Ledger.read(lab.site.ledger) as ledger:
        ledger.debit("s" * 64, 9, 0, SPENT)
    lab.check()


def test_a_log_that_names_no_row_asks_for_none(lab: Lab, tmp_path: Path) -> None:
    lab.log.append("refused", reason="no")
    lab.log.append("released", ledger="", round=1)
    lab.site.ledger.unlink()
    lab.check()
    check_own_ledger(lab.site, tmp_path / "none.log")


def test_a_ledger_that_the_log_names_rows_of_is_not_missing(lab: Lab) -> None:
    lab.release()
    lab.site.ledger.unlink()
    with pytest.raises(PrivacyError, match="the privacy ledger is missing"):
        lab.check()


def test_a_simulated_sites_ledger_is_no_labs_whatever_the_log_names(lab: Lab) -> None:
    lab.site.ledger.unlink()
    Ledger.create(lab.site.ledger, data_fingerprint(lab.site), simulated=True).close()
    with pytest.raises(PrivacyError, match="is a simulated site's ledger"):
        lab.check()


def test_what_was_adopted_stands_for_all_before_it(lab: Lab) -> None:
    lab.log.append("released", ledger=FORMER, round=1)
    with pytest.raises(PrivacyError, match=f"does not contain the row {FORMER[:12]}"):
        lab.check()
    with Ledger.read(lab.site.ledger) as ledger:
        head = ledger.head
    lab.log.append("ledger_adopted", ledger=head, lost=1)
    assert remembered_rows(lab.path) == [head]
    lab.check()
    assert remembered_rows(lab.path) == [head]
    row = lab.release()
    assert remembered_rows(lab.path) == [head, row]


def test_rows_are_found_in_the_rotated_parts_of_the_log_too(tmp_path: Path) -> None:
    key, path = make_signing_key(), tmp_path / "audit.log"
    with AuditLog.open(path, key, rotate_bytes=2000) as log:
        rows = [f"{number:064x}" for number in range(40)]
        for row in rows:
            log.append("released", ledger=row, round=1)
    assert len(list(tmp_path.iterdir())) > 2
    assert remembered_rows(path) == rows


def fingerprints(folder: Path) -> Iterator[str]:
    """Of a site on one cache, and of others that differ in what they take from it."""
    site = open_site(make_lab(folder, cells=10))
    cache = site.cells[0].folder
    chosen = np.zeros(2, [("row", np.int64), ("split", "U10")])
    for name, rows in (("none", None), ("one", (0, 1)), ("two", (0, 2))):
        selection = None
        if rows:
            chosen["row"], selection = rows, folder / f"{name}.npy"
            np.save(selection, chosen)
        yield data_fingerprint(
            Site(name="lab", cells=(CellSource(folder=cache, selection=selection),))
        )
    twice = Site(name="lab", cells=(CellSource(folder=cache), CellSource(folder=cache)))
    yield data_fingerprint(twice)


def test_other_cells_have_another_fingerprint_and_the_same_ones_the_same(tmp_path: Path) -> None:
    first = list(fingerprints(tmp_path / "a"))
    assert len(set(first)) == 4 and all(len(one) == 64 for one in first)
    site = open_site(tmp_path / "a" / "site.yaml")
    assert data_fingerprint(site) == first[0]
    table = tmp_path / "a" / "images" / "cells.csv"
    table.write_text(table.read_text().replace("p3", "p4"))
    cache = prepare(tmp_path / "a" / "images", 16)
    assert data_fingerprint(Site(name="lab", cells=(CellSource(folder=cache),))) != first[0]


def test_a_selection_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    site = open_site(make_lab(tmp_path / "a", cells=10))
    lost = CellSource(folder=site.cells[0].folder, selection=tmp_path / "lost.npy")
    with pytest.raises(DataError, match=r"lost.npy: cannot be read \(No such file"):
        data_fingerprint(Site(name="lab", cells=(lost,)))


def test_a_damaged_ledger_is_not_adopted(tmp_path: Path) -> None:
    setting = Setting(make_lab(tmp_path / "lab", cells=10).parent, tmp_path / "server")
    site = open_site(setting.home.site_file)
    with closing(sqlite3.connect(site.ledger, isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER no_delete")
    with pytest.raises(PrivacyError, match="append-only was taken out"):
        adopt(site, setting.membership)
    assert setting.lines("ledger_adopted") == []
    setting.log.close()
    setting.server_log.close()
