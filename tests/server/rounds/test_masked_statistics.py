"""Statistics that sites sum under masks: once, before the first round, whole or not at all."""

import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict

from common.config.study import Participant, Study
from common.errors import FederationError
from common.privacy.masking.pairwise_keys import EphemeralKey
from common.privacy.statistics_noise import COLOUR, COUNT
from common.wire.agreement import MaskingKey
from common.wire.messages import KEYS, STATISTICS, Task, masked_counts_content, refusal_content
from common.wire.reasons import Reason
from server.rounds import cell_statistics
from server.rounds.cell_statistics import CellStatistics
from server.rounds.observer import Observer
from server.rounds.rounds import Rounds
from tests.server.fake_grid import FakeGrid
from tests.server.rounds.test_masked_training import NAMES, PRIVACY, Site, play, study

ASKED = study(privacy=PRIVACY | {"statistics_epsilon": 2.0})
EACH = np.array([300 * COUNT, 100 * COUNT, 200 * COLOUR, -100 * COLOUR, 0])
"""One site's numbers: 300 and 100 cells, whose mean colour is 0.75, 0.375 and 0.5."""


def masking(name: str, kinds: list[str] | None = None) -> Any:
    """A site that gives `EACH`, under masks that cancel over all sites."""
    at = NAMES.index(name)
    masks = np.random.default_rng(5).integers(0, 2**64, (len(NAMES), len(EACH)), np.uint64)
    mine = masks[at] - masks[(at + 1) % len(NAMES)]

    def answer(kind: str, task: Task) -> Any:
        if kind == KEYS and task.agreement and task.agreement.purpose == "statistics":
            return MaskingKey(EphemeralKey(os.urandom(32)).public).content()
        if kind == STATISTICS:
            return masked_counts_content((EACH.astype("<i8").view(np.uint64) + mine).tobytes(), "")
        return True

    return answer


def everybody(**instead: Any) -> dict[str, Any]:
    return {name: masking(name) for name in NAMES} | instead


def failing(name: str, content: RecordDict | None) -> Any:
    return lambda kind, task: content if kind == STATISTICS else masking(name)(kind, task)


def asked(sites: dict[str, Site]) -> list[int]:
    return [sum(kind == STATISTICS for kind, *_ in site.asked) for site in sites.values()]


def kept(out: Path) -> CellStatistics:
    found = CellStatistics.read(out)
    assert found is not None
    return found


def test_the_sum_is_divided_and_kept_before_any_round(tmp_path: Path) -> None:
    sites = play(ASKED, tmp_path, **everybody())
    told = kept(tmp_path)
    assert told.sites == NAMES and told.study == ASKED.digest
    assert [one.value for one in told.cells.values()] == [1200, 400]
    assert [one.value for one in told.colours.values()] == [0.75, 0.375, 0.5]
    for one in (*told.cells.values(), *told.colours.values()):
        assert one.low < one.value < one.high
    for site in sites.values():
        kinds = [kind for kind, *_ in site.asked]
        assert kinds[:4] == [KEYS, STATISTICS, KEYS, "train"] and kinds.count(STATISTICS) == 1


def test_a_study_that_asks_for_none_keeps_none(tmp_path: Path) -> None:
    assert asked(play(study(), tmp_path)) == [0] * len(NAMES)
    assert CellStatistics.read(tmp_path) is None


@pytest.mark.parametrize(
    "content",
    [
        None,
        refusal_content(Reason.LOST_KEY, "0123abcd"),
        masked_counts_content(bytes(8), ""),
        masked_counts_content(np.full(5, 2**62, "<u8").tobytes(), ""),
    ],
    ids=["silent", "refused", "short", "no cells"],
)
def test_a_sum_that_lacks_a_site_is_none_and_the_rounds_go_on(
    tmp_path: Path, content: RecordDict | None
) -> None:
    sites = play(ASKED, tmp_path, **everybody(bee=failing("bee", content)))
    assert kept(tmp_path) == CellStatistics.none(ASKED)
    assert asked(sites) == [1] * len(NAMES)
    assert len((tmp_path / "rounds.jsonl").read_text().splitlines()) == ASKED.rounds


def test_a_site_that_gives_no_key_is_summed_without_as_long_as_there_are_enough(
    tmp_path: Path,
) -> None:
    def keyless(kind: str, task: Task) -> Any:
        of_these = task.agreement and task.agreement.purpose == "statistics"
        return refusal_content(Reason.HOURS, "0123abcd") if kind == KEYS and of_these else True

    sites = play(ASKED, tmp_path / "one", **everybody(dog=keyless))
    # The masks of this test cancel over all sites alone, so the sum is none of cells.
    assert asked(sites) == [1, 1, 1, 0] and kept(tmp_path / "one").sites == ()
    sites = play(ASKED, tmp_path / "two", **everybody(dog=keyless, cow=keyless))
    assert asked(sites) == [0] * len(NAMES), "nobody pays for a sum that is none"
    assert kept(tmp_path / "two").sites == ()


class Noting(Observer):
    """Notes of which sites it is told, and why."""

    def __init__(self) -> None:
        self.said: list[tuple[int, str, str]] = []

    def left_out(self, number: int, site: str, reason: str) -> None:
        self.said.append((number, site, reason))


@pytest.mark.parametrize("at", [KEYS, STATISTICS])
def test_an_operator_is_told_which_site_refused_and_why(tmp_path: Path, at: str) -> None:
    """And nothing of evaluations, where a policy lets no counts out."""

    def refusing(kind: str, task: Task) -> Any:
        if kind == at and task.agreement and task.agreement.purpose == "statistics":
            return refusal_content(Reason.ANSWERED, "0123abcd")
        return masking("dog")(kind, task)

    def site(name: str) -> Site:
        return Site(ASKED, NAMES.index(name), refusing if name == "dog" else masking(name))

    seen = Noting()
    Rounds(ASKED, FakeGrid({name: site(name) for name in NAMES}), tmp_path, seen).run()
    assert seen.said == [(0, "dog", "refused: answered before (see 0123abcd in its log)")]


def test_nobody_pays_while_another_site_of_the_sum_is_gone(tmp_path: Path) -> None:
    grid = FakeGrid({name: Site(ASKED, at, masking(name)) for at, name in enumerate(NAMES)})
    given = grid._sites["bee"]

    def leaving(message: Message) -> RecordDict | None:
        if Task.read(message).round == 0:
            grid._names = {node: name for node, name in grid._names.items() if name != "bee"}
        return given(message)

    grid._sites["bee"] = leaving
    Rounds(ASKED, grid, tmp_path, Observer()).run()
    agreements = [
        one.sites
        for one in grid._sites["ant"].agreements  # type: ignore[attr-defined]
        if one.purpose == "statistics"
    ]
    assert agreements == [("ant", "cow", "dog")]


def test_a_site_that_only_tests_does_not_stand_for_one_that_trains(tmp_path: Path) -> None:
    """Enough of the cohort are there, but too few of those whose cells are summed."""
    cohort = ASKED.cohort | {"eve": Participant(units=1, role="held_out")}
    of = study(privacy=ASKED.privacy, cohort=cohort)
    sites = {name: Site(of, at, masking(name)) for at, name in enumerate(NAMES)}
    grid = FakeGrid(sites | {"eve": Site(of, 9)})
    whole, looks = grid._names, itertools.count()
    late = {node: name for node, name in whole.items() if name not in ("cow", "dog")}
    grid.get_node_ids = lambda: list(late if next(looks) < 3 else whole)  # type: ignore[method-assign]
    Rounds(of, grid, tmp_path, Observer()).run()
    assert kept(tmp_path).sites == NAMES


class Killed(Exception):
    """Stands for the end of the server's process."""


@pytest.mark.parametrize("when", ["while they are asked for", "after a round"])
def test_a_server_that_is_started_anew_asks_for_none_again(tmp_path: Path, when: str) -> None:
    def dying(kind: str, task: Task) -> Any:
        if kind == STATISTICS and when == "while they are asked for":
            raise Killed
        if kind == "train" and task.round == 2 and when == "after a round":
            raise Killed
        return masking("dog")(kind, task)

    with pytest.raises(Killed):
        play(ASKED, tmp_path, **everybody(dog=dying))
    told = kept(tmp_path)
    assert bool(told.sites) == (when == "after a round")
    sites = play(ASKED, tmp_path, **everybody())
    assert asked(sites) == [0] * len(NAMES) and kept(tmp_path) == told


def test_a_folder_of_another_study_is_not_taken(tmp_path: Path) -> None:
    CellStatistics.none(study()).write(tmp_path)
    with pytest.raises(FederationError, match="has the statistics of study"):
        play(ASKED, tmp_path, **everybody())


def broken(change: dict[str, Any]) -> str:
    whole: dict[str, Any] = {"study": "a", "sites": ["b"], "cells": {}, "colours": {}}
    return json.dumps(whole | change)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", broken({"cells": {"a": 1}}), broken({"colours": {"red": {"low": 0}}})]
)
def test_a_file_that_is_damaged_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / cell_statistics.STATISTICS).write_text(text)
    with pytest.raises(FederationError, match=r"statistics\.json: the statistics cannot be read"):
        play(ASKED, tmp_path, **everybody())


def test_what_is_kept_is_read_again_as_it_was(tmp_path: Path) -> None:
    told = CellStatistics.of_sum(ASKED, NAMES, EACH)
    told.write(tmp_path / "new" / "folder")
    assert CellStatistics.read(tmp_path / "new" / "folder") == told


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Counts and colours, few cells and many; 95 % within what 2,000 draws can show."""
    rng, of = np.random.default_rng(3), study(privacy=PRIVACY | {"statistics_epsilon": 1.0})
    for cells in (60, 600):
        numbers = np.array([cells, cells // 2]) * COUNT
        true = np.array([0.9, 0.2, 0.5])
        colours = (2 * true - 1) * COLOUR * numbers.sum() / COUNT
        held = np.array([drawn(of, np.concatenate([numbers, colours]), rng) for _ in range(2000)])
        assert (abs(np.nanmean(held, 0) - 0.95) < 0.02).all()


def drawn(of: Study, exact: Any, rng: np.random.Generator) -> list[float]:
    """For each number whether its interval holds the truth; NaN where none is given."""
    sigma = np.sqrt(len(NAMES)) * cell_statistics.statistics_sigma(of)
    total = np.rint(exact + rng.normal(0, sigma, len(exact))).astype(np.int64)
    told = CellStatistics.of_sum(of, NAMES, total)
    counts = zip(told.cells.values(), exact[:2] / COUNT, strict=True)
    found: list[float] = [one.low <= true <= one.high for one, true in counts]
    for name, at in zip(("red", "green", "blue"), (2, 3, 4), strict=True):
        true = (1 + exact[at] / COLOUR / (exact[:2].sum() / COUNT)) / 2
        one = told.colours.get(name)
        found.append(np.nan if one is None else one.low <= true <= one.high)
    return found


def test_colours_that_the_noise_hides_are_not_told() -> None:
    nothing = CellStatistics.of_sum(ASKED, NAMES, np.array([0, 0, 5, 5, 5]))
    assert nothing.colours == {} and all(one.low == 0 for one in nothing.cells.values())
    fewer = CellStatistics.of_sum(ASKED, NAMES, np.array([-9 * COUNT, -9 * COUNT, 5, 5, 5]))
    assert fewer.colours == {} and all(one.value == -9 for one in fewer.cells.values())
    assert all(one.low == 0 <= one.high for one in fewer.cells.values())
