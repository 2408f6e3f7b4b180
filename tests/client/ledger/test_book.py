"""What a process remembers of a ledger is what the file says, or the file is read anew."""

import os
import sqlite3
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.ledger import book
from client.ledger.hash_chain import LedgerRow
from client.ledger.ledger import Ledger
from client.ledger.sqlite_file import LedgerFile
from common.errors import PrivacyError
from common.privacy.accounting import Event
from common.privacy.events import merge
from tests.client.ledger.test_ledger import CELLS, OTHER, STUDY, event

STUDIES = (STUDY, OTHER)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Ledger.create(tmp_path / "ledger.sqlite", CELLS) as ledger:
        for number in range(3):
            ledger.debit(STUDIES[0], number, 0, event(), 9)
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many rows each look at a ledger's file brought."""
    found: list[int] = []
    rows = LedgerFile.rows

    def counted(file: LedgerFile, start: int) -> list[LedgerRow]:
        brought = rows(file, start)
        found.append(len(brought))
        return brought

    monkeypatch.setattr(LedgerFile, "rows", counted)
    yield found


def known(path: Path) -> tuple[object, ...]:
    """All that a ledger says without reading its rows again."""
    with Ledger.open(path, CELLS) as ledger:
        return (
            ledger.head,
            ledger.identity,
            ledger.fingerprint,
            ledger.simulated,
            ledger.plans(),
            [merge(ledger.spent(study)) for study in STUDIES],
            [ledger.has(study, number) for study in STUDIES for number in range(-2, 4)],
            [ledger.has(study, 1, 1, "unprotected") for study in STUDIES],
        )


answers = st.tuples(
    st.sampled_from(STUDIES),
    st.integers(-2, 3),
    st.integers(0, 2),
    st.sampled_from([None, 4, 30]),
    st.sampled_from(["debit", "unprotected", "bind"]),
    st.builds(event, noise=st.sampled_from([1.0, 2.0]), steps=st.integers(1, 3)),
)


@given(st.lists(answers, max_size=12))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_remembered_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    asked: list[tuple[str, int, int, int | None, str, Event]],
) -> None:
    path = tmp_path_factory.mktemp("book") / "ledger.sqlite"
    Ledger.create(path, CELLS).close()
    for study, number, attempt, most, kind, what in asked:
        with Ledger.open(path, CELLS) as ledger:
            try:
                if kind == "debit":
                    ledger.debit(study, number, attempt, what, most)
                elif kind == "unprotected":
                    ledger.note_unprotected(study, number, attempt)
                else:
                    ledger.rebind("other cells")
            except PrivacyError:
                continue
    remembered = known(path)
    book._KEPT.clear()
    assert known(path) == remembered
    with Ledger.open(path, CELLS) as ledger:
        assert [merge(ledger.spent(study)) for study in STUDIES] == [
            merge(ledger.events(study)) for study in STUDIES
        ]


def test_rows_that_were_checked_are_not_read_again(path: Path, read: list[int]) -> None:
    with Ledger.open(path, CELLS) as ledger:
        ledger.debit(STUDIES[0], 3, 0, event(), 9)
    assert read == [1, 1]  # the last one, at the opening and before the debit
    book._KEPT.clear()
    with Ledger.open(path, CELLS):
        assert read[2:] == [5]


def test_rows_of_another_process_are_seen_and_only_those_are_read(
    path: Path, read: list[int]
) -> None:
    with Ledger.open(path, CELLS) as one:
        with Ledger.open(path, CELLS) as other:
            other.debit(STUDIES[1], 1, 0, event(), 9)
        del read[:]
        with pytest.raises(PrivacyError, match="already paid for"):
            one.debit(STUDIES[1], 1, 0, event(), 9)
        assert read == [2]  # the last one that was known, and the new one


@pytest.mark.parametrize("change", ["written", "touched", "replaced"])
def test_a_file_that_is_not_as_it_was_left_is_read_anew(
    path: Path, read: list[int], change: str
) -> None:
    if change == "written":
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("CREATE TABLE more (x)")
        connection.close()
    elif change == "touched":
        os.utime(path)
    else:
        copy = path.with_name("copy")
        copy.write_bytes(path.read_bytes())
        copy.replace(path)
    with Ledger.open(path, CELLS):
        assert sum(read) == 4


def test_an_older_copy_put_back_while_the_ledger_is_open_is_noticed(path: Path) -> None:
    older = path.read_bytes()
    with Ledger.open(path, CELLS) as ledger:
        ledger.debit(STUDIES[0], 3, 0, event(), 9)
    with Ledger.open(path, CELLS):
        path.write_bytes(older)  # the same file, by its number on the disk
    with pytest.raises(PrivacyError, match="row 4 is not the one that was there"):
        Ledger.open(path, CELLS)
    with Ledger.open(path, CELLS) as ledger:  # what it is, is then read
        assert ledger.head == Ledger.open(path, CELLS).head and ledger.verify() == 4


def alter(path: Path, **pragmas: int) -> sqlite3.Connection:
    """Another connection, still open, that has altered a row in the middle."""
    connection = sqlite3.connect(path, isolation_level=None)
    for name, value in pragmas.items():
        connection.execute(f"PRAGMA {name} = {value}")
    connection.execute("DROP TRIGGER no_update")
    connection.execute("UPDATE rows SET round = 70 WHERE number = 1")
    return connection


def test_a_row_altered_while_the_ledger_is_open_is_found_at_the_next_opening(path: Path) -> None:
    with Ledger.open(path, CELLS):
        alter(path).close()
    with pytest.raises(PrivacyError, match="row 1 does not follow"):
        Ledger.open(path, CELLS)


def test_a_row_altered_behind_a_link_is_found(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    Ledger.open(link, CELLS).close()
    other = alter(path, wal_autocheckpoint=0)
    with pytest.raises(PrivacyError, match="row 1 does not follow"):
        Ledger.open(link, CELLS)
    other.close()


def test_a_relative_path_is_the_file_that_was_opened(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = path.parent / "away"
    away.mkdir()
    (away / path.name).write_bytes(path.read_bytes())
    alter(away / path.name).close()
    monkeypatch.chdir(path.parent)
    with Ledger.open(Path(path.name), CELLS):
        monkeypatch.chdir(away)
    with pytest.raises(PrivacyError, match="row 1 does not follow"):
        Ledger.open(Path(path.name), CELLS)


def test_a_ledger_made_anew_in_the_place_of_an_open_one_is_another(path: Path) -> None:
    with Ledger.open(path, CELLS) as ledger:
        path.unlink()
        Ledger.create(path, CELLS).close()
        gone = ledger.identity
    with Ledger.open(path, CELLS) as ledger:
        assert ledger.identity != gone


def test_a_ledger_is_closed_once(path: Path) -> None:
    one = Ledger.open(path, CELLS)
    one.close()
    with Ledger.open(path, CELLS) as other:
        one.close()
        with Ledger.open(path, CELLS) as third:
            assert third._book is not other._book


def test_many_threads_may_open_and_close_ledgers(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.sqlite" for number in range(12)]
    for one in paths:
        Ledger.create(one, CELLS).close()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda at: Ledger.read(paths[at % 12]).close(), range(200)))
    finally:
        sys.setswitchinterval(before)


def test_a_write_in_the_same_tick_of_the_clock_is_noticed(path: Path, read: list[int]) -> None:
    """A file's times are coarser than two writes may be apart; what a close leaves is not."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("DROP TRIGGER no_update")
    connection.execute("UPDATE rows SET round = 7 WHERE number = 1")
    connection.close()
    with pytest.raises(PrivacyError, match="row 1 does not follow"):
        Ledger.open(path, CELLS)


def test_a_ledger_that_was_found_altered_is_not_remembered_as_sound(
    path: Path, read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LedgerFile, "alteration", lambda _: "something was taken out")
    with Ledger.open(path, CELLS) as ledger, pytest.raises(PrivacyError, match="was taken out"):
        ledger.verify()
    del read[:]
    with Ledger.open(path, CELLS):
        assert sum(read) == 4


def test_what_is_remembered_is_bounded_and_the_newest_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book, "_MOST_ROWS", 3)
    for name in "abcde":
        Ledger.create(tmp_path / name, CELLS).close()
    kept = [Path(one).name for one in book._KEPT]
    assert kept[-3:] == ["c", "d", "e"] and len(kept) == 3


def test_what_does_not_follow_makes_a_book_unsound(path: Path) -> None:
    with Ledger.open(path, CELLS) as ledger:
        rows = ledger.rows()
    found = book.Book("a ledger")
    assert len(found) == 0 and found.sound
    found.add(rows[:2])
    assert len(found) == 2 and found.sound
    with pytest.raises(PrivacyError, match="row 2 does not follow"):
        found.add(rows[3:])
    assert not found.sound


def test_debits_of_equal_settings_are_one_event(path: Path) -> None:
    with Ledger.open(path, CELLS) as ledger:
        ledger.debit(STUDIES[0], 3, 0, event(steps=2), 99)
        assert ledger.spent(STUDIES[0]) == (event(steps=17),)


def test_a_head_that_is_no_hash_was_never_there(path: Path) -> None:
    with pytest.raises(PrivacyError, match="does not contain the row none of ours"):
        Ledger.open(path, CELLS, expected_head="none of ours")


def test_the_newest_book_is_kept_however_long_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book, "_MOST_ROWS", 0)
    for name in "ab":
        Ledger.create(tmp_path / name, CELLS).close()
    assert [Path(one).name for one in book._KEPT] == ["b"]


def test_a_close_gives_the_file_a_time_of_its_own(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the nanosecond: a file system's own are as coarse as the kernel's ticks."""
    monkeypatch.setattr(book.time, "time_ns", lambda: 1_700_000_000_123_456_789)
    Ledger.open(path, CELLS).close()
    assert path.stat().st_mtime_ns == 1_700_000_000_123_456_789


def test_a_file_that_is_gone_is_remembered_by_nobody(path: Path) -> None:
    path.unlink()
    assert book.kept_book(path) is None
    Ledger.create(path, CELLS).close()
    with Ledger.open(path, CELLS):
        path.unlink()
    assert book.kept_book(path) is None


def test_rows_are_all_from_the_first(path: Path) -> None:
    with Ledger.open(path, CELLS) as ledger:
        assert [(row.number, row.kind) for row in ledger.rows()][:2] == [(0, "bind"), (1, "debit")]


def test_a_row_taken_out_while_the_ledger_is_open_stops_its_debits(path: Path) -> None:
    with Ledger.open(path, CELLS) as ledger:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("DROP TRIGGER no_delete")
        connection.execute("DELETE FROM rows WHERE number = 3")
        connection.close()
        with pytest.raises(PrivacyError, match="row 3 is not the one that was there"):
            ledger.debit(STUDIES[0], 4, 0, event(), 9)
    with Ledger.open(path, CELLS) as ledger:  # what it is, is then read
        assert not ledger.has(STUDIES[0], 2) and len(ledger.rows()) == 3
