"""Intervals over patients hold what they promise where cells of one patient are alike."""

import json
from pathlib import Path

import numpy as np
import pytest

from common.metrics import NAMES, Tally
from simulations.report.judged import Judged
from simulations.run import run
from tests.simulations.small import Silent, simulation

RIGHT = 0.7


def predictions(
    seed: int, patients: int, cells: int, alike: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities, labels and patients of a model that is right for RIGHT of the cells: where
    they are alike, patient by patient with chances of its own."""
    rng = np.random.default_rng(seed)
    spread = rng.beta(RIGHT, 1 - RIGHT, patients) if alike else np.full(patients, RIGHT)
    number = np.repeat(np.arange(patients), cells)
    right = rng.random(patients * cells) < spread[number]
    labels = rng.integers(0, 3, patients * cells)
    named = np.where(right, labels, (labels + 1) % 3)
    sure = rng.uniform(0.5, 1.0, patients * cells)
    probabilities = np.full((patients * cells, 3), 0.0) + (1 - sure[:, None]) / 2
    probabilities[np.arange(len(named)), named] = sure
    return probabilities, labels, number


def covered(alike: bool, by_patient: bool, studies: int = 150) -> float:
    """Share of studies whose interval holds the true accuracy."""
    hits = 0
    for seed in range(studies):
        probabilities, labels, patients = predictions(seed, 40, 10, alike)
        judged = Judged.of(probabilities, labels, patients)
        tally = Tally.of(probabilities, labels)
        bounds = (judged if by_patient else tally).intervals()["accuracy"]
        assert bounds is not None
        hits += bounds[0] <= RIGHT <= bounds[1]
    return hits / studies


@pytest.mark.parametrize("alike", [True, False])
def test_the_truth_lies_in_the_interval_as_often_as_promised(alike: bool) -> None:
    assert covered(alike, by_patient=True) >= 0.88


def test_over_cells_of_few_patients_the_truth_is_missed_too_often() -> None:
    assert covered(True, by_patient=False) < 0.75


def test_patients_of_two_sites_are_two() -> None:
    parts = [Judged.of(*predictions(seed, 4, 5, True)) for seed in (1, 2)]
    both = Judged.together(parts)
    assert len(np.unique(both.patients)) == 8 and len(both.places) == 40
    assert set(both.intervals()) == set(NAMES)


def test_the_summary_says_over_what_its_intervals_are(tmp_path: Path) -> None:
    """Rendered cells have patients; without them an interval is over the cells."""
    whole = simulation(
        study={"cell_types": ("lymphocyte", "monocyte", "myeloblast")},
        data={"source": "rendered", "rendered": {"sites": 3, "cells": 120, "side": 32}},
        baselines=["local_only", "centralised"],
    )
    summary = run(whole, tmp_path, Silent())
    assert summary["intervals_over"] == "patients"
    said = (tmp_path / "report.html").read_text()
    assert "95 % bootstrap intervals over the test cells&#39; patients" in said
    parts = [summary, *summary["sites"].values(), summary["baselines"]["centralised"]]
    parts += summary["baselines"]["local_only"]["sites"].values()
    assert all(set(part["intervals"]) == set(NAMES) for part in parts)
    assert summary == json.loads((tmp_path / "summary.json").read_text())
