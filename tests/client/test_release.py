"""What leaves of an evaluation: how much one unit may move it, and how much noise hides that."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from client import release
from client.account import Account
from client.batches import Inputs
from client.entropy import SystemEntropy
from client.ledger import Ledger
from client.policy import Policy
from client.release import released_tally
from client.site import open_site
from client.workspace import workspace
from common.cells import CELL_TYPES
from common.config import Member, Site, Study
from common.errors import PrivacyError
from common.metrics import Tally
from common.privacy.noise_source import NoiseSource
from common.protocol import Task
from tests.client.lab import OPEN, PRIVACY, make_lab, study

NOISED = OPEN.model_copy(update={"metrics": "noised"})
PATIENTS = PRIVACY | {"unit": "patient"}
EVERY_TYPE = tuple(cell.name for cell in CELL_TYPES)


def lab(folder: Path, policy: Policy = NOISED, cells: int = 120) -> Site:
    """Its ten patients have a tenth of the cells each."""
    return open_site(make_lab(folder, policy, cells))


def released(site: Site, of: Study, split: str = "test", number: int = 1) -> tuple[Tally, str]:
    inputs = workspace(site, of).inputs
    return released_tally(site, Task(of, number, split=split), inputs, SystemEntropy())


def silent(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """No noise is added from here on; what its sigma would have been."""
    asked: list[float] = []

    def zeros(n: int, sigma: float, _: NoiseSource) -> np.ndarray[Any, Any]:
        asked.append(sigma)
        return np.zeros(n, np.int64)

    monkeypatch.setattr(release, "discrete_gaussian", zeros)
    return asked


def of_split(site: Site, of: Study, split: str) -> np.ndarray[Any, Any]:
    """The patients of the split's cells."""
    cells = workspace(site, of).inputs.cells
    return cells.units[cells.rows(split)]


@pytest.mark.parametrize("most", [1, 3, 100])
def test_of_a_patient_no_more_cells_are_counted_than_the_cap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    silent(monkeypatch)
    of = study(privacy=PATIENTS | {"max_cells_per_patient": most})
    site = lab(tmp_path)
    counted = Counter(of_split(site, of, "test").tolist())
    assert counted and set(counted.values()) == {12}
    assert released(site, of)[0].total == sum(min(most, cells) for cells in counted.values())


def test_where_the_image_is_the_unit_every_cell_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent(monkeypatch)
    site, of = lab(tmp_path), study()
    assert released(site, of)[0].total == len(of_split(site, of, "test")) > 0


@pytest.mark.parametrize(
    ("privacy", "most"),
    [
        (PRIVACY | {"max_cells_per_patient": 9}, 1),
        (PATIENTS | {"max_cells_per_patient": 1}, 1),
        (PATIENTS | {"max_cells_per_patient": 9}, 9),
    ],
)
def test_the_noise_is_as_wide_as_what_one_unit_can_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, privacy: dict[str, Any], most: int
) -> None:
    """Measured, of thousands of counts without a cell: sigma is the multiplier times the cap, not
    its root; the 3 grid steps that the proof adds are hardly seen."""
    of = study(privacy=privacy, cell_types=EVERY_TYPE)
    monkeypatch.setattr(
        release, "pay_for_metrics", lambda *_: Account(noise_multiplier=50.0, head="row")
    )
    site, counts = lab(tmp_path, cells=10), []
    monkeypatch.setattr(release, "_counted", lambda *_: Tally.empty(len(of.cell_types)))
    for _ in range(12):
        tally, head = released(site, of)
        counts.append(tally.confusion)
        assert head == "row"
    drawn = np.stack(counts).astype(float)
    assert (drawn >= 0).all(), "a count below zero says that there was none"
    root = math.sqrt(2 * float(np.square(drawn).mean()))
    assert root == pytest.approx(50.0 * most, rel=0.08)


def test_counts_are_paid_for_before_a_cell_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, of = lab(tmp_path), study()

    def look(*_: object) -> Tally:
        with Ledger.read(site.ledger) as ledger:
            assert len(ledger.rows("debit")) == 1
        raise RuntimeError("looked")

    monkeypatch.setattr(release, "_counted", look)
    with pytest.raises(RuntimeError, match="looked"):
        released(site, of)


def test_what_cannot_be_paid_for_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, of = lab(tmp_path, NOISED.model_copy(update={"study_epsilon": 0.01})), study()
    monkeypatch.setattr(release, "_counted", lambda *_: pytest.fail("looked"))
    with pytest.raises(PrivacyError, match="the study would cost epsilon"):
        released(site, of)


def test_the_head_that_leaves_is_the_row_that_was_written(tmp_path: Path) -> None:
    site = lab(tmp_path)
    _, head = released(site, study())
    with Ledger.read(site.ledger) as ledger:
        assert head == ledger.head == ledger.rows("debit")[-1].hash


def test_exact_counts_are_every_cell_and_a_row_that_costs_nothing(tmp_path: Path) -> None:
    site, of = lab(tmp_path, OPEN), study(privacy=PATIENTS | {"max_cells_per_patient": 1})
    tally, head = released(site, of)
    assert tally.total == len(of_split(site, of, "test"))
    assert tally.metrics()["ece"] is not None
    with Ledger.read(site.ledger) as ledger:
        assert not ledger.rows("debit")
        (row,) = ledger.rows("unprotected")
        assert head == row.hash == ledger.head
        assert (row.study, row.attempt) == (of.digest, 0) and row.round < 0


def test_a_policy_that_lets_nothing_leave_lets_nothing_be_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = lab(tmp_path, OPEN.model_copy(update={"metrics": "none"}))
    monkeypatch.setattr(release, "_counted", lambda *_: pytest.fail("looked"))
    with pytest.raises(PrivacyError, match=r"lets no metrics leave \(metrics: none\)"):
        released(site, study())


def test_a_split_without_cells_is_noise_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = silent(monkeypatch)
    of = study(cell_types=("basophil", "monocyte"), cohort={"lab": Member(units=20)})
    tally, _ = released(lab(tmp_path), of)
    assert tally.total == 0 and tally.confusion.shape == (2, 2) and len(asked) == 1


@given(arrays(np.int64, st.integers(0, 60), elements=st.integers(0, 8)), st.integers(1, 5))
def test_one_patient_more_moves_the_counted_cells_by_that_patients_alone(
    units: np.ndarray[Any, Any], most: int
) -> None:
    """Whatever cells the others have: theirs are the same with and without the patient."""
    positions = 3 * np.arange(len(units))
    kept = release._few_a_patient(positions, units, most)
    assert (np.diff(kept) > 0).all()
    for unit in range(9):
        mine, others = positions[units == unit], units != unit
        assert np.isin(kept, mine).sum() == min(most, len(mine))
        without = release._few_a_patient(positions[others], units[others], most)
        assert np.array_equal(kept[~np.isin(kept, mine)], without)
        assert np.array_equal(kept[np.isin(kept, mine)], mine[:most]), "the first ones"


def test_counting_takes_the_labels_of_the_cells_that_were_predicted(tmp_path: Path) -> None:
    site, of = lab(tmp_path, OPEN), study()
    inputs: Inputs = workspace(site, of).inputs
    positions = np.arange(10)
    labels = inputs.cells.labels[positions]
    tally = release._counted(inputs, positions, 2)
    assert tally.confusion.sum(1).tolist() == np.bincount(labels, minlength=2).tolist()
    assert release._counted(inputs, positions[:0], 2).total == 0
