"""The privacy ledger: appended to, checked, never silently recreated."""

import hashlib
import math
import multiprocessing
import shutil
import sqlite3
from pathlib import Path

import pytest

from client.ledger.hash_chain import STATISTICS, LedgerRow, chained, event_body, planned
from client.ledger.ledger import Ledger
from client.ledger.sqlite_file import LedgerFile
from client.policy.budget import Budget
from common.errors import PrivacyError
from common.privacy.accounting import Event, calibrate, epsilon
from common.privacy.lifetime import used
from common.wire.reasons import Reason

STUDY = "a" * 64
OTHER = "b" * 64
CELLS = "fingerprint-of-the-cells"


def event(noise: float = 10.0, steps: int = 5, unit: str = "image") -> Event:
    return Event(
        mechanism="poisson_discrete_gaussian",
        sample_rate=1.0,
        noise_multiplier=noise,
        steps=steps,
        unit=unit,  # type: ignore[arg-type]
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Ledger.create(tmp_path / "ledger.sqlite", CELLS) as ledger:
        for number in range(3):
            ledger.debit(STUDY, number, 0, event())
    return tmp_path / "ledger.sqlite"


def tamper(path: Path, *statements: str) -> None:
    """Change the file behind the ledger's back, its triggers taken off first."""
    connection = sqlite3.connect(path, isolation_level=None)
    for trigger in ("no_update", "no_delete"):
        connection.execute(f"DROP TRIGGER {trigger}")
    for statement in statements:
        connection.execute(statement)
    connection.close()


def test_rows_come_back_in_order_with_their_events(path: Path) -> None:
    with Ledger.open(path, CELLS) as ledger:
        ledger.debit(OTHER, 0, 0, event(noise=2.0))
        assert ledger.events(STUDY) == (event(),) * 3
        assert ledger.events() == (*(event(),) * 3, event(noise=2.0))
        assert ledger.has(STUDY, 2) and ledger.has(STUDY, 2, 0)
        assert not ledger.has(STUDY, 3) and not ledger.has(STUDY, 2, 1)
        assert ledger.verify() == 5


def test_an_attempt_is_paid_for_once(path: Path) -> None:
    with Ledger.open(path, CELLS) as ledger:
        with pytest.raises(PrivacyError, match="already paid"):
            ledger.debit(STUDY, 2, 0, event())
        ledger.debit(STUDY, 2, 1, event())
        assert len(ledger.events()) == 4


def test_a_full_disk_refuses_the_debit_and_loses_nothing(path: Path) -> None:
    with Ledger.open(path, CELLS) as ledger:
        connection = ledger._file._connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        number = 3
        with pytest.raises(PrivacyError, match="full"):
            for number in range(3, 200):
                ledger.debit(STUDY, number, 0, event())
        assert not ledger.has(STUDY, number)
        connection.execute("PRAGMA max_page_count = 100000")
        ledger.debit(STUDY, number, 0, event())
    with Ledger.open(path, CELLS) as ledger:
        assert ledger.verify() == number + 2


def test_a_missing_ledger_is_an_error_and_stays_missing(tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match="missing"):
        Ledger.open(tmp_path / "ledger.sqlite", CELLS)
    assert list(tmp_path.iterdir()) == []


def test_create_never_replaces(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(PrivacyError, match="never replaced"):
        Ledger.create(path, CELLS)
    assert path.read_bytes() == before


def test_another_data_sets_ledger_is_refused(path: Path) -> None:
    with pytest.raises(PrivacyError, match="data set"):
        Ledger.open(path, "other-cells")


def test_rebinding_keeps_what_was_spent(path: Path) -> None:
    with Ledger.open(path, CELLS) as ledger:
        ledger.rebind("more-cells")
    for cells in (CELLS, "more-cells"):
        with Ledger.open(path, cells) as ledger:
            assert ledger.events() == (event(),) * 3
    with pytest.raises(PrivacyError, match="data set"):
        Ledger.open(path, "other-cells")


@pytest.mark.parametrize(
    "statement",
    [
        """UPDATE rows SET body = replace(body, '"steps":5', '"steps":1') WHERE number = 2""",
        "UPDATE rows SET round = 7 WHERE number = 1",
        "UPDATE rows SET time = '2000-01-01' WHERE number = 3",
        "DELETE FROM rows WHERE number = 2",
        "DELETE FROM rows WHERE number = 0",
        "DELETE FROM rows",
        "INSERT INTO rows SELECT 4, kind, study, 9, attempt, body, time, hash FROM rows "
        "WHERE number = 3",
        "UPDATE rows SET number = number + 1 WHERE number = 3",
    ],
)
def test_a_changed_row_is_found(path: Path, statement: str) -> None:
    tamper(path, statement)
    with pytest.raises(PrivacyError, match="row"):
        Ledger.open(path, CELLS)


def test_rows_cannot_be_changed_through_sql(path: Path) -> None:
    connection = sqlite3.connect(path)
    for statement in ("DELETE FROM rows", "UPDATE rows SET round = 1"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
    connection.close()


def test_tampering_while_open_is_found_by_verify_and_by_debit(path: Path) -> None:
    with Ledger.open(path, CELLS) as ledger:
        tamper(
            path,
            "INSERT INTO rows SELECT 4, kind, study, 9, attempt, body, time, hash FROM rows "
            "WHERE number = 3",
        )
        with pytest.raises(PrivacyError, match="row 4"):
            ledger.debit(STUDY, 10, 0, event())
        with pytest.raises(PrivacyError, match="row 4"):
            ledger.verify()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("DROP TRIGGER no_delete", "append-only"),
        ("DROP INDEX once", "append-only"),
        ("INSERT INTO rows SELECT -1, kind, study, 9, attempt, body, time, hash FROM rows "
         "WHERE number = 3", "1 rows stand before"),
    ],
)  # fmt: skip
def test_verify_finds_what_stands_beside_the_chain(path: Path, how: str, said: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(how)
    connection.close()
    with Ledger.open(path, CELLS) as ledger, pytest.raises(PrivacyError, match=said):
        ledger.verify()


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        (0, r"can read \(format 0, it reads 2\)"),
        (100, "cannot be used .database disk image is malformed"),
        (4096, "cannot be used .database disk image is malformed"),
        (6000, "cannot be used .database disk image is malformed"),
        (-1, "SQLite finds it damaged"),
    ],
)
def test_a_file_cut_short_is_found(path: Path, kept: int, said: str) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:kept])
    with pytest.raises(PrivacyError, match=said), Ledger.open(path, CELLS) as ledger:
        ledger.verify()


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_text("not a database " * 100)
    with pytest.raises(PrivacyError, match="not a database"):
        Ledger.open(path, CELLS)


def test_an_older_copy_is_found_by_the_acknowledged_head(path: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup.sqlite"
    shutil.copy(path, backup)
    with Ledger.open(path, CELLS) as ledger:
        acknowledged = ledger.head
        ledger.debit(STUDY, 3, 0, event())
        newest = ledger.head
    Ledger.open(path, CELLS, expected_head=acknowledged).close()
    Ledger.open(path, CELLS, expected_head=newest).close()
    shutil.copy(backup, path)
    Ledger.open(path, CELLS, expected_head=acknowledged).close()
    with pytest.raises(PrivacyError, match="older"):
        Ledger.open(path, CELLS, expected_head=newest)


def test_the_last_rows_removed_are_found_by_the_acknowledged_head(path: Path) -> None:
    with Ledger.open(path, CELLS) as ledger:
        head = ledger.head
    tamper(path, "DELETE FROM rows WHERE number = 3")
    with pytest.raises(PrivacyError, match="older"):
        Ledger.open(path, CELLS, expected_head=head)


def test_a_ledger_made_again_for_the_same_cells_is_another(tmp_path: Path) -> None:
    heads = set()
    for name in ("one", "two"):
        with Ledger.create(tmp_path / name, CELLS) as ledger:
            heads.add(ledger.head)
    assert len(heads) == 2


def test_noise_zero_and_a_second_unit_are_refused(path: Path) -> None:
    with Ledger.open(path, CELLS) as ledger:
        with pytest.raises(PrivacyError, match="protects nobody"):
            ledger.debit(STUDY, 3, 0, event(noise=0.0))
        with pytest.raises(PrivacyError, match="patient"):
            ledger.debit(STUDY, 3, 0, event(unit="patient"))
        assert len(ledger.events()) == 3


def fitting(bound: float) -> int:
    """How many single steps a lifetime budget has room for."""
    steps = 1
    while used([event(steps=1)] * (steps + 1), bound, 1e-5) <= 1:
        steps += 1
    return steps


def test_the_budget_is_spent_to_the_last_step_that_fits_and_no_further(tmp_path: Path) -> None:
    bound = 1.5
    with Ledger.create(
        tmp_path / "ledger", CELLS, budget=Budget(epsilon=bound, delta=1e-5)
    ) as ledger:
        for number in range(fitting(bound)):
            ledger.debit(STUDY, number, 0, event(steps=1))
        with pytest.raises(PrivacyError, match="all studies together would use"):
            ledger.debit(OTHER, 0, 0, event(steps=1))
        assert epsilon(ledger.events(), 1e-5) <= bound
        assert epsilon(ledger.events(), 1e-5) > 0.9 * bound


def test_a_study_once_begun_is_paid_for_to_its_end(tmp_path: Path) -> None:
    """The lifetime's budget counts all its answers from the first on."""
    noise, most = calibrate(1.0, 1e-5, 1.0, 10), 10
    budget = Budget(epsilon=1.01, delta=1e-5)
    with Ledger.create(tmp_path / "ledger", CELLS, budget=budget) as ledger:
        ledger.debit(STUDY, 1, 0, event(noise=noise, steps=1), most)
        assert used([plan.event for plan in ledger.plans()], 1.01, 1e-5) > 0.9
        with pytest.raises(PrivacyError, match="all studies together would use"):
            ledger.debit(OTHER, 1, 0, event(noise=noise, steps=1), most)
        for number in range(2, most + 1):
            ledger.debit(STUDY, number, 0, event(noise=noise, steps=1), most)
        assert len(ledger.plans()) == 1


def test_training_and_metrics_of_the_same_noise_are_two_plans(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "ledger", CELLS) as ledger:
        for number in (1, 2, -3, -5):
            ledger.debit(STUDY, number, 0, event(steps=1), 4)
        parts = [(plan.part, plan.event.steps) for plan in ledger.plans()]
    assert parts == [("training", 4), ("metrics", 4)]


def test_what_leaves_without_noise_is_a_row_and_no_event(tmp_path: Path) -> None:
    budget = Budget(epsilon=1.0, delta=1e-5)
    with Ledger.create(tmp_path / "ledger", CELLS, budget=budget) as ledger:
        row = ledger.note_unprotected(STUDY, 1, 0)
        assert ledger.head == row.hash and ledger.verify() == 2
        assert ledger.has(STUDY, 1, 0, "unprotected") and not ledger.has(STUDY, 1, 0)
        assert ledger.events() == () and ledger.plans() == ()
        ledger.debit(OTHER, 1, 0, event(noise=40.0))


def test_an_answer_without_noise_is_written_down_once_over_restarts(tmp_path: Path) -> None:
    """A copy of an order that was answered is refused, as one under privacy is."""
    path = tmp_path / "ledger"
    with Ledger.create(path, CELLS) as ledger:
        ledger.note_unprotected(STUDY, 1, 0)
    with Ledger.open(path, CELLS) as ledger:
        with pytest.raises(PrivacyError, match="round 1, attempt 0: already answered"):
            ledger.note_unprotected(STUDY, 1, 0)
        assert ledger.verify() == 2
        ledger.note_unprotected(STUDY, 1, 1)
        ledger.note_unprotected(STUDY, -3, 0)
        ledger.note_unprotected(OTHER, 1, 0)
        ledger.debit(STUDY, 1, 0, event(noise=40.0))
        assert ledger.verify() == 6


def test_a_study_has_a_bound_of_its_own(tmp_path: Path) -> None:
    budget = Budget(epsilon=100.0, delta=1e-5, study_epsilon=epsilon([event(steps=5)], 1e-5))
    with Ledger.create(tmp_path / "ledger", CELLS, budget=budget) as ledger:
        ledger.debit(STUDY, 0, 0, event())
        with pytest.raises(PrivacyError, match="the study would cost"):
            ledger.debit(STUDY, 1, 0, event())
        ledger.debit(OTHER, 0, 0, event())


@pytest.mark.parametrize("bad", [0.0, -0.5, math.inf, math.nan])
def test_a_budget_without_bounds_is_refused(bad: float) -> None:
    for bounds in (
        {"epsilon": bad, "delta": 1e-5},
        {"epsilon": bad, "delta": 1e-5, "study_epsilon": 1.0},
        {"epsilon": 1.0, "delta": 1e-5, "study_epsilon": bad},
        {"epsilon": 1.0, "delta": bad},
        {"epsilon": 1.0, "delta": 1.0},
    ):
        with pytest.raises(PrivacyError, match="expected finite epsilons above 0"):
            Budget(**bounds)
    Budget(epsilon=1e-9, delta=0.999, study_epsilon=1e-9)


def test_a_lifetime_may_be_used_up_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = Budget(epsilon=1.0, delta=1e-5)
    for part, fits in ((1.0, True), (math.nextafter(1, 2), False), (math.nan, False)):
        monkeypatch.setattr("client.policy.budget.used", lambda *_, part=part: part)
        assert (budget.excess([event()], [event()]) is None) == fits


def test_no_more_answers_are_given_than_the_noise_was_calibrated_for(tmp_path: Path) -> None:
    """Rounds and evaluations each for themselves, and each study for itself."""
    with Ledger.create(tmp_path / "ledger", CELLS) as ledger:
        for number in (1, -1):
            ledger.debit(OTHER, number, 0, event(), 3)
        for numbers, what in (((1, 2, 3), "rounds"), ((-1, -2, -3), "evaluations")):
            for number in numbers[:2]:
                ledger.debit(STUDY, number, 0, event(), 3)
            ledger.debit(STUDY, numbers[0], 1, event(), 3)
            for number in numbers:
                with pytest.raises(PrivacyError, match=f"all 3 {what} that the study's epsilon"):
                    ledger.debit(STUDY, number, 2, event(), 3)
        assert len(ledger.events(STUDY)) == 6 and len(ledger.events(OTHER)) == 2


@pytest.mark.parametrize("attempt", [0, 1])
def test_statistics_are_paid_for_once_and_beside_the_rounds(tmp_path: Path, attempt: int) -> None:
    with Ledger.create(tmp_path / "ledger", CELLS) as ledger:
        ledger.debit(STUDY, STATISTICS, 0, event(), 1)
        with pytest.raises(PrivacyError, match="a site gives them once") as caught:
            ledger.debit(STUDY, STATISTICS, attempt, event(), 1)
        assert caught.value.reason is Reason.ANSWERED
        for number in (1, 2, -1, -2):
            ledger.debit(STUDY, number, 0, event(), 2)
        ledger.debit(OTHER, STATISTICS, 0, event(), 1)
        assert len(ledger.events(STUDY)) == 5 and len(ledger.plans()) == 4


def test_a_ledger_is_known_by_its_first_row_and_bound_by_its_last(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "ledger", CELLS) as ledger:
        identity = ledger.head
        ledger.debit(STUDY, 0, 0, event())
        ledger.rebind("some-cells")
        row = ledger.rebind("more-cells")
        assert ledger.head == row.hash and ledger.path == tmp_path / "ledger"
        ledger.debit(STUDY, 1, 0, event())
        assert (ledger.identity, ledger.fingerprint) == (identity, "more-cells")
        assert (row.study, row.round, row.attempt, row.simulated) == ("", 0, 0, False)
        assert not ledger.simulated
    with Ledger.create(tmp_path / "simulated", CELLS, simulated=True) as ledger:
        ledger.rebind("more-cells")
        assert ledger.simulated


def test_a_rows_hash_is_of_text_that_any_version_writes() -> None:
    """A ledger outlives its program: by this text the chain is checked in years to come."""
    fields = {
        "number": 7,
        "kind": "debit",
        "study": "s",
        "round": -1,
        "attempt": 0,
        "body": "{}",
        "time": "2026-11-30T12:00:00.000+00:00",
    }
    text = (
        '["before",{"attempt":0,"body":"{}","kind":"debit","number":7,"round":-1,"study":"s",'
        '"time":"2026-11-30T12:00:00.000+00:00"}]'
    )
    for order in (fields, dict(reversed(fields.items()))):
        assert chained("before", order).hash == hashlib.sha256(text.encode()).hexdigest()
    assert event_body(event(), 3) == (
        '{"event":{"mechanism":"poisson_discrete_gaussian","mode":"local","noise_multiplier":10.0,'
        '"sample_rate":1.0,"steps":5,"unit":"image"},"most":3}'
    )


def test_a_binding_of_an_earlier_version_is_no_simulations() -> None:
    row = LedgerRow(
        number=0,
        kind="bind",
        study="",
        round=0,
        attempt=0,
        body='{"fingerprint": "cells", "nonce": "0"}',
        time="",
        hash="",
    )
    assert row.fingerprint == "cells" and not row.simulated


@pytest.mark.parametrize(
    ("number", "part"), [(0, "statistics"), (1, "training"), (-1, "metrics"), (-2, "metrics")]
)
def test_a_round_says_what_it_is_for(number: int, part: str) -> None:
    plan = planned(STUDY, number, event(steps=5), 3)
    assert (plan.study, plan.part, plan.event) == (STUDY, part, event(steps=15))


def test_what_another_process_wrote_meanwhile_is_followed(path: Path) -> None:
    with Ledger.open(path, CELLS) as ledger, Ledger.open(path, CELLS) as other:
        for number, write in enumerate(
            (
                lambda: other.rebind("more-cells"),
                lambda: other.note_unprotected(STUDY, 9, 0),
                lambda: other.debit(STUDY, 9, 0, event()),
            )
        ):
            ledger.debit(OTHER, number, 0, event())
            write()
            assert other.head != ledger.head
        assert ledger.verify() == other.verify() == 10


def test_verify_reads_each_event(path: Path) -> None:
    """Of a row that follows from the one before it, and is not what this version wrote."""
    with Ledger.open(path, CELLS) as ledger:
        with ledger._file.transaction():
            ledger._file.append(ledger.rows()[-1], "debit", STUDY, 7, 0, "{}")
        with pytest.raises(PrivacyError, match="row 4: its event cannot be read"):
            ledger.verify()


def test_a_ledger_that_is_refused_is_closed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its home may be on a disk that is to be taken out."""
    closed: list[Path] = []
    close = LedgerFile.close

    def closing(self: LedgerFile) -> None:
        closed.append(self.path)
        close(self)

    monkeypatch.setattr(LedgerFile, "close", closing)
    with pytest.raises(PrivacyError, match="data set"):
        Ledger.open(path, "other-cells")
    tamper(path, "DELETE FROM rows WHERE number = 2")
    with pytest.raises(PrivacyError, match="row 2"):
        Ledger.open(path, CELLS)
    assert closed == [path, path]


def _debit_many(path: Path, study: str, bound: float) -> None:
    with Ledger.open(path, CELLS, budget=Budget(epsilon=bound, delta=1e-5)) as ledger:
        for number in range(40):
            try:
                ledger.debit(study, number, 0, event(steps=1))
            except PrivacyError as error:
                assert "would use" in str(error)
                return


def test_two_processes_share_one_budget(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    bound = 1.5
    Ledger.create(path, CELLS).close()
    spawn = multiprocessing.get_context("fork")
    workers = [
        spawn.Process(target=_debit_many, args=(path, study, bound)) for study in (STUDY, OTHER)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    with Ledger.open(path, CELLS) as ledger:
        assert ledger.verify() == fitting(bound) + 1
        assert len(ledger.events()) == fitting(bound)
