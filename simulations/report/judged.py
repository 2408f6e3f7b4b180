"""A model's predictions of test cells with their patients, which are known in a simulation.

The cells of a patient are alike, so many cells of few patients say less than as many cells of many
patients. An interval that treats the cells as independent is too narrow.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.data.site_cells import SiteCells, open_cells
from client.site import open_site
from client.training.evaluation import predict
from client.training.workspace import workspace
from common.metrics import NAMES, Tally, interval_of, metrics_of, places_of
from common.models.released import MODEL, read_model
from simulations.experiments import PlannedStudy

_RESAMPLES = 1000
"""The number of resamples of a bootstrap."""
_AT_ONCE = 100
"""How many resamples are in memory at a time."""

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Judged:
    """A model's predictions of N cells of K classes."""

    classes: int
    """K."""
    places: Numbers
    """(N,) the position of each cell in the flattened counts of a tally."""
    confidence: NDArray[np.float64]
    """(N,) the probability of the predicted class."""
    patients: Numbers
    """(N,) the number of the patient; a cell of an unknown patient has a number of its own."""

    @classmethod
    def of(cls, probabilities: NDArray[np.float64], labels: Numbers, patients: Numbers) -> "Judged":
        """Make it from probabilities (N, K), labels (N,) in 0..K-1 and patients' numbers (N,)."""
        return cls(probabilities.shape[1], *places_of(probabilities, labels), patients)

    @classmethod
    def together(cls, parts: Iterable["Judged"]) -> "Judged":
        """Join the cells of one or more sites; no two sites have a patient in common."""
        found = list(parts)
        numbers, start = [], 0
        for part in found:
            numbers.append(part.patients + start)
            start += int(part.patients.max(initial=-1)) + 1
        return cls(
            found[0].classes,
            np.concatenate([part.places for part in found]),
            np.concatenate([part.confidence for part in found]),
            np.concatenate(numbers),
        )

    def intervals(self, seed: int = 0) -> dict[str, list[float] | None]:
        """Return metric -> its 95 % interval [low, high], or None if it is not defined.

        This is the percentile bootstrap over patients (Efron & Tibshirani 1993, ch. 8): patients
        are drawn with replacement, each with all its cells.
        """
        if not len(self.places):
            return dict.fromkeys(NAMES)
        used, place = np.unique(self.places, return_inverse=True)
        known, patient = np.unique(self.patients, return_inverse=True)
        cells = np.zeros((len(known), len(used)))
        sure = np.zeros((len(known), len(used)))
        np.add.at(cells, (patient, place), 1.0)
        np.add.at(sure, (patient, place), self.confidence)
        rng = np.random.default_rng(seed)
        drawn = [self._metrics(used, cells, sure, rng) for _ in range(_RESAMPLES // _AT_ONCE)]
        return {name: interval_of(np.concatenate([one[name] for one in drawn])) for name in NAMES}

    def _metrics(
        self,
        used: Numbers,
        cells: NDArray[np.float64],
        sure: NDArray[np.float64],
        rng: np.random.Generator,
    ) -> dict[str, NDArray[np.float64]]:
        """Return the metrics of _AT_ONCE draws of patients.

        cells and sure: (patients, places) the counts and confidences that each patient adds.
        """
        patients = len(cells)
        times = rng.multinomial(patients, np.full(patients, 1 / patients), size=_AT_ONCE)
        empty = Tally.empty(self.classes).counts
        counts, confidence = (np.zeros((_AT_ONCE, empty.size)) for _ in range(2))
        counts[:, used], confidence[:, used] = times @ cells, times @ sure
        shape = (_AT_ONCE, *empty.shape)
        return metrics_of(counts.reshape(shape), confidence.reshape(shape))


def judge(plan: PlannedStudy) -> dict[str, Judged]:
    """Return site -> the predictions of the plan's released model on the site's test cells.

    Sites without test cells are left out. If no site has two test cells of one known patient, the
    result is empty, because a tally then says as much.
    """
    sites = [open_site(file) for file in plan.site_files]
    if not any(_knows_patients(open_cells(site, plan.study)) for site in sites):
        return {}
    found, weights = {}, read_model(plan.folder / MODEL)
    for site in sites:
        bench = workspace(site, plan.study)
        bench.model.load_state_dict(weights)
        cells = bench.inputs.cells
        rows = cells.rows("test")
        if len(rows):
            probabilities = predict(bench.inputs, rows)
            found[site.name] = Judged.of(probabilities, cells.labels[rows], cells.units[rows])
    return found


def _knows_patients(cells: SiteCells) -> bool:
    units = cells.units[cells.rows("test")]
    return len(np.unique(units)) < len(units)
