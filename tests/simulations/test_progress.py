"""The terminal's bars: what may be cut, and what counts as done."""

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from common.wire.reply_status import OK
from server.rounds.record import RoundRecord, SiteRecord
from simulations.experiments import PlannedStudy
from simulations.partition import DealtSite, Share
from simulations.progress import Terminal, results_table
from tests.simulations.report import report_run
from tests.simulations.small import simulation

STUDY = simulation(study={"rounds": 60}).study
RECORD = RoundRecord(
    round=55,
    attempt=1,
    sites={name: SiteRecord(status=OK, epsilon=7.96) for name in "abcde"},
    evaluation={"global": {"balanced_accuracy": 0.713}},
)


def screen(terminal: Terminal) -> list[str]:
    console = terminal._bars.console
    with console.capture() as captured:
        console.print(terminal._bars.get_renderable())
    return captured.get().splitlines()


def terminal(width: int) -> Terminal:
    return Terminal(
        Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    )


def plans(folder: Path, *names: str) -> list[PlannedStudy]:
    return [PlannedStudy(name, STUDY, folder / name) for name in names]


@pytest.mark.parametrize("width", [80, 100])
def test_long_names_leave_counts_and_times_whole(tmp_path: Path, width: int) -> None:
    shown = terminal(width)
    shown.preparing(f"indexing {'a-university-hospital-' * 4}", 12_345, 54_321)
    (line,) = screen(shown)
    assert "12345/54321 0:00:00 -:--:--" in line and "…" in line
    found = plans(tmp_path, "federated", "centralised", "local_only-a")
    shown.planned(found, ())
    shown.preparing("features", 1, 5)
    shown.round_done(found[0], RECORD)
    lines = screen(shown)
    assert len(lines) == 4, "what was prepared before the plans is done with"
    assert "55/60 0:00:00 " in lines[0] and "balanced 71.3 %, epsilon 7.96" in lines[0]
    assert max(map(len, lines)) <= width


def test_rounds_of_an_earlier_run_count(tmp_path: Path) -> None:
    found = plans(tmp_path, "federated", "centralised", "local_only-a", "local_only-b")
    for plan, done in zip(found, (50, 60, 60, 10), strict=True):
        plan.folder.mkdir()
        (plan.folder / "rounds.jsonl").write_text("{}\n" * done)
    shown = terminal(100)
    shown.planned(found, ())
    for line, counted in zip(screen(shown), ("50/60", "60/60", "70/120"), strict=True):
        assert counted in line.replace(" ", "")
    shown.round_done(found[3], replace(RECORD, round=11))
    assert "71/120" in screen(shown)[2].replace(" ", "")


def test_the_tables_tell_of_patients_and_of_the_commonest_type() -> None:
    sites = (
        DealtSite("a", (), np.array([0, 0, 1]), np.array(["p", "p", "q"])),
        DealtSite("b", (), np.array([0]), np.array([""])),
    )
    shares = [np.array(["train", "train", "test"]), np.array(["train"])]
    dealt = [
        replace(site, shares=(Share(Path("x"), np.arange(len(splits)), splits),))
        for site, splits in zip(sites, shares, strict=True)
    ]
    shown = terminal(120)
    shown.planned([], tuple(dealt))
    said = shown._bars.console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"a +│ 2 +│ 1 +│ 0 +│ 1 ", said) and re.search(r"b +│ 1 +│ unknown ", said)
    console = Console(file=io.StringIO(), width=120)
    summary = report_run.summary(types=report_run.TYPES[:2], baselines=False)
    summary["confusion"] = [[1, 2], [3, 14]]
    console.print(results_table(summary))
    (line,) = [one for one in console.file.getvalue().splitlines() if "no model" in one]  # type: ignore[attr-defined]
    assert "myelocyte always" in line and "85.0" in line and "50.0" in line
