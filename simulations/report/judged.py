"""Test cells and what a model said of them, each with its patient: in a simulation they are known.

The cells of one patient are alike, so that many of few patients say less than as many of many. An
interval that takes them for independent is too narrow.
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
_AT_ONCE = 100
"""Resamples that are in memory at a time."""

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Judged:
    """Predictions of N cells, of K classes."""

    classes: int
    places: Numbers
    """(N,) position of each cell in a tally's counts, laid out in a row."""
    confidence: NDArray[np.float64]
    """(N,) of the class that was named."""
    patients: Numbers
    """(N,) number of the patient; a cell of an unknown one is a patient of its own."""

    @classmethod
    def of(cls, probabilities: NDArray[np.float64], labels: Numbers, patients: Numbers) -> "Judged":
        """Probabilities (N, K), labels (N,) in 0..K-1."""
        return cls(probabilities.shape[1], *places_of(probabilities, labels), patients)

    @classmethod
    def together(cls, parts: Iterable["Judged"]) -> "Judged":
        """Several sites' cells; patients of two sites are two, whatever their numbers."""
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
        """95 % percentile bootstrap over the patients (Efron & Tibshirani 1993, ch. 8), of each
        metric: patients are drawn, each with all its cells. None where a metric is not defined."""
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
        """The metrics of _AT_ONCE draws; cells and sure (patients, places) are what each adds."""
        patients = len(cells)
        times = rng.multinomial(patients, np.full(patients, 1 / patients), size=_AT_ONCE)
        empty = Tally.empty(self.classes).counts
        counts, confidence = (np.zeros((_AT_ONCE, empty.size)) for _ in range(2))
        counts[:, used], confidence[:, used] = times @ cells, times @ sure
        shape = (_AT_ONCE, *empty.shape)
        return metrics_of(counts.reshape(shape), confidence.reshape(shape))


def judge(plan: PlannedStudy) -> dict[str, Judged]:
    """Site -> its test cells as the plan's released model sees them; of sites that have some.

    Empty where no two test cells of a site are known to be of one patient: then a tally says it.
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
