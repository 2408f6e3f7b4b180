"""Statistics of the training cells, through the real simulation: asked once, the same bits always,
near the truth, paid for, and in the report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.data.site_cells import open_cells
from client.ledger.cost import StudyCost
from client.ledger.hash_chain import STATISTICS as ROUND
from client.ledger.ledger import Ledger
from client.site import open_site
from client.training.statistics_release import statistics
from common.config.loading import load
from common.config.study import Study
from common.privacy.statistics_noise import COLOUR, COLOURS, COUNT, statistics_sigma
from server.rounds.cell_statistics import STATISTICS, CellStatistics
from server.rounds.record import RoundRecord
from simulations.config import Simulation
from simulations.experiments import PlannedStudy
from simulations.run import federate, run
from tests.simulations.small import MASKED, Silent, numbers, simulation


def config(**changes: Any) -> Simulation:
    asked = MASKED | {"statistics_epsilon": 4.0}
    return simulation(**({"study": {"rounds": 2, "privacy": asked}} | changes))


def exact(out: Path) -> tuple[Study, Any]:
    """The study as it ran, and the sum of the labs' statistics without noise."""
    study = load(Study, out / "study.yaml")
    files = sorted((out / "sites").glob("*/site.yaml"))
    return study, sum(statistics(open_cells(open_site(file), study), study) for file in files)


class Stopped(Exception):
    """Stands for Ctrl-C at the end of a round."""


class Stops(Silent):
    def round_done(self, plan: PlannedStudy, record: RoundRecord) -> None:
        raise Stopped


def test_one_worker_two_and_a_resumed_run_give_the_same_bits(tmp_path: Path) -> None:
    for workers in (1, 2):
        federate(config(runtime={"workers": workers}), tmp_path / str(workers), Silent())
    with pytest.raises(Stopped):
        federate(config(), tmp_path / "cut", Stops())
    told = (tmp_path / "cut" / STATISTICS).read_bytes()
    federate(config(), tmp_path / "cut", Silent())
    assert (tmp_path / "1" / STATISTICS).read_bytes() == told
    assert (tmp_path / "2" / STATISTICS).read_bytes() == told
    assert (tmp_path / "cut" / STATISTICS).read_bytes() == told
    assert numbers(tmp_path / "1") == numbers(tmp_path / "2") == numbers(tmp_path / "cut")


def test_they_are_near_the_truth_paid_for_and_in_the_report(tmp_path: Path) -> None:
    run(config(baselines=["centralised"]), tmp_path, Silent())
    kept, (study, total) = CellStatistics.read(tmp_path), exact(tmp_path)
    assert kept and kept.sites == study.training_sites and kept.study == study.digest
    counts, colours = total[:-3] / COUNT, total[-3:] / COLOUR
    assert list(kept.cells) == list(study.cell_types)
    errors = np.array([one.value for one in kept.cells.values()]) - counts
    noise = np.sqrt(len(kept.sites)) * statistics_sigma(study) / COUNT
    assert 0.5 * noise < errors.std() < 1.6 * noise and abs(errors).max() < 5 * noise
    means = (1 + colours / counts.sum()) / 2
    found = np.array([kept.colours[name].value for name in COLOURS])
    assert abs(found - means).max() < 0.1
    for name in study.training_sites:
        with Ledger.read(open_site(tmp_path / "sites" / name / "site.yaml").ledger) as ledger:
            (row,) = (row for row in ledger.rows("debit") if row.round == ROUND)
        assert row.event == StudyCost(study).statistics
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["statistics"]["sites"] == list(study.training_sites)
    privacy = summary["privacy"]
    spent = [site["epsilon"] for site in summary["sites"].values()]
    assert privacy["epsilon"] < max(spent) <= privacy["agreed"] < max(spent) + 0.002
    page = (tmp_path / "report.html").read_text()
    assert "The agreed amount was not exceeded." in page
    assert f"ε = {privacy['agreed']:g}<small>" in page and "one answer with statistics" in page
    assert f"(ε = {privacy['agreed']:g}, " in page
    assert "Training cells of 3 sites together" in page and "mean red, of 255" in page
