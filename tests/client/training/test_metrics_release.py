"""What leaves of an evaluation: how much one unit may move it, and how much noise hides that."""

import errno
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.app import client_app
from client.ledger.ledger import Ledger
from client.ledger.spending import Account
from client.policy.policy import Policy
from client.randomness import SystemEntropy
from client.site import open_site
from client.training import metrics_release
from client.training.inputs import Inputs
from client.training.metrics_release import released_tally
from client.training.own_figures import read_figures
from client.training.workspace import workspace
from common import log_file
from common.cell_types import CELL_TYPES
from common.config.study import Participant, Site, Study
from common.errors import PrivacyError
from common.metrics import Tally
from common.noised_tally import NoisedTally
from common.privacy.metrics_noise import metrics_sigma
from common.privacy.noise_source import NoiseSource
from common.wire.messages import Task, read_tally
from tests.client.lab import OPEN, PRIVACY, context, make_lab, message, request, study

NOISED = OPEN.model_copy(update={"metrics": "noised"})
PATIENTS = PRIVACY | {"unit": "patient"}
EVERY_TYPE = tuple(cell.name for cell in CELL_TYPES)


def lab(folder: Path, policy: Policy = NOISED, cells: int = 120) -> Site:
    """Its ten patients have a tenth of the cells each."""
    return open_site(make_lab(folder, policy, cells))


def released(site: Site, of: Study, split: str = "test") -> tuple[Tally, str]:
    inputs = workspace(site, of).inputs
    tally, head = released_tally(request(site, Task(of, 1, split=split)), inputs, SystemEntropy())
    assert isinstance(tally, Tally)
    return tally, head


def noised(site: Site, of: Study) -> tuple[NoisedTally, str]:
    inputs = workspace(site, of).inputs
    tally, head = released_tally(request(site, Task(of, 1, split="test")), inputs, SystemEntropy())
    assert isinstance(tally, NoisedTally)
    return tally, head


def silent(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """No noise is added from here on; what its sigma would have been."""
    asked: list[float] = []

    def zeros(n: int, sigma: float, _: NoiseSource) -> np.ndarray[Any, Any]:
        asked.append(sigma)
        return np.zeros(n, np.int64)

    monkeypatch.setattr(metrics_release, "discrete_gaussian", zeros)
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
    tally, _ = noised(site, of)
    few = sum(min(most, cells) for cells in counted.values())
    assert tally.right + tally.wrong == tally.confusion.sum() == few


def test_where_the_image_is_the_unit_every_cell_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent(monkeypatch)
    site, of = lab(tmp_path), study()
    tally, _ = noised(site, of)
    assert tally.right + tally.wrong == tally.confusion.sum() == len(of_split(site, of, "test")) > 0


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
    """Measured, of thousands of counts: sigma is the multiplier times the cap (not its root) times
    the root of 2, for a cell is counted twice; the 3 grid steps that the proof adds are hardly
    seen. The counts are as drawn: as many below zero as above."""
    of = study(privacy=privacy, cell_types=EVERY_TYPE)
    monkeypatch.setattr(
        metrics_release, "pay_for_metrics", lambda *_: Account(noise_multiplier=50.0, head="row")
    )
    site, counts = lab(tmp_path, cells=10), []
    monkeypatch.setattr(
        metrics_release, "_counted", lambda *_, **__: Tally.empty(len(of.cell_types))
    )
    for _ in range(24):
        tally, head = noised(site, of)
        counts.append(tally.counts)
        assert head == "row"
        assert tally.variance == pytest.approx(50.0**2 * 2 * most**2, rel=0.01)
    drawn = np.stack(counts).astype(float)
    assert 0.45 < (drawn < 0).mean() < 0.55
    assert drawn.std() == pytest.approx(50.0 * most * math.sqrt(2), rel=0.08)
    # The two that count all cells bear as much as any other.
    assert 0.5 < drawn[:, :2].std() / drawn.std() < 1.6


@pytest.mark.parametrize("kind", [{}, {"unit": "patient", "max_cells_per_patient": 9}])
def test_the_server_knows_the_noise_without_being_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: dict[str, Any]
) -> None:
    asked, of = silent(monkeypatch), study(privacy=PRIVACY | kind)
    reply = client_app()(message(of, "evaluate"), context(make_lab(tmp_path, NOISED, 120)))
    read = read_tally(reply, of)
    assert isinstance(read, NoisedTally)
    assert asked == [metrics_sigma(of)] and read.variance == asked[0] ** 2


def test_counts_are_paid_for_before_a_cell_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, of = lab(tmp_path), study()

    def look(*_: object) -> Tally:
        with Ledger.read(site.ledger) as ledger:
            assert len(ledger.rows("debit")) == 1
        raise RuntimeError("looked")

    monkeypatch.setattr(metrics_release, "predict", look)
    with pytest.raises(RuntimeError, match="looked"):
        noised(site, of)


def test_what_cannot_be_paid_for_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, of = lab(tmp_path, NOISED.model_copy(update={"study_epsilon": 0.01})), study()
    monkeypatch.setattr(metrics_release, "predict", lambda *_: pytest.fail("looked"))
    with pytest.raises(PrivacyError, match="the study would cost epsilon"):
        noised(site, of)


def test_the_head_that_leaves_is_the_row_that_was_written(tmp_path: Path) -> None:
    site = lab(tmp_path)
    _, head = noised(site, study())
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
    """The time that it took would tell how many cells there are, as often as it is asked."""
    site = lab(tmp_path, OPEN.model_copy(update={"metrics": "none"}))
    monkeypatch.setattr(metrics_release, "predict", lambda *_: pytest.fail("looked"))
    with pytest.raises(PrivacyError, match=r"lets no metrics leave \(metrics: none\)"):
        released(site, study())


def test_a_split_without_cells_is_noise_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = silent(monkeypatch)
    of = study(cell_types=("basophil", "monocyte"), cohort={"lab": Participant(units=20)})
    tally, _ = noised(lab(tmp_path), of)
    assert not tally.counts.any() and tally.confusion.shape == (2, 2) and len(asked) == 1


@pytest.mark.parametrize("metrics", ["exact", "noised"])
def test_a_site_sees_its_exact_figures_whatever_leaves(tmp_path: Path, metrics: str) -> None:
    """All its cells, those beyond a patient's cap too, of the right labels."""
    of = study(privacy=PATIENTS | {"max_cells_per_patient": 1})
    site = lab(tmp_path, OPEN.model_copy(update={"metrics": metrics}))
    inputs: Inputs = workspace(site, of).inputs
    released_tally(request(site, Task(of, 1, split="test")), inputs, SystemEntropy())
    (mine,) = read_figures(site.figures)
    cells = inputs.cells
    labels = cells.labels[cells.rows("test")]
    assert (mine.study, mine.round, mine.split) == (of.name, 1, "test")
    assert mine.tally.confusion.sum(1).tolist() == np.bincount(labels, minlength=2).tolist()
    accuracy = mine.tally.metrics()["accuracy"]
    assert accuracy is not None
    (line,) = site.log.read_text().splitlines()
    assert f"round 1, {len(labels)} test cells, accuracy {100 * accuracy:.1f} %" in line


def test_a_full_disk_keeps_no_paid_answer_from_leaving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    site, of = lab(tmp_path), study()
    monkeypatch.setattr(log_file, "keep_short", full)
    assert noised(site, of)[1]
    assert read_figures(site.figures) == [] and not site.log.exists()


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    site, of = lab(tmp_path), study()
    noised(site, of)
    whole = site.figures.read_text()
    odd = whole.replace('"counts": [[', '"counts": [[99, 99, 99, ')
    site.figures.write_text(whole + odd + '{"study": "sma')
    assert len(read_figures(site.figures)) == 1


def test_figures_that_were_put_aside_are_read_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, of = lab(tmp_path), study()
    noised(site, of)
    monkeypatch.setattr(log_file.keep_short, "__defaults__", (10,))
    released_tally(request(site, Task(of, 2)), workspace(site, of).inputs, SystemEntropy())
    assert [one.round for one in read_figures(site.figures)] == [1, 2]
