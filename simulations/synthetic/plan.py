"""Which cells a site has: its patients, their mixes of types, and a random stream for each.

Everything about cell i of a site follows from (seed, site, i): patients come one after the other,
and more cells only means more patients at the end.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np

from common.cell_types import CELL_TYPES
from simulations.synthetic.patient import Patient
from simulations.synthetic.site_style import SiteStyle

_PATIENT_FOCUS = 6.0
"""Concentration of a patient's own mix about the site's: lower, more one-sided patients."""


@dataclass(frozen=True, kw_only=True)
class SiteSpec:
    """A site to render."""

    style: SiteStyle
    cells: int
    mix: Mapping[str, float] | None = None
    """Weight of each cell type; types left out do not occur. None: drawn by `alpha`."""
    alpha: float = 5.0
    """Concentration of the Dirichlet that draws `mix`: low, one-sided; high, even."""


@dataclass(frozen=True)
class PlannedCell:
    """Which picture is drawn, and where it goes."""

    number: int
    cell_type: str
    patient: int
    path: str
    """Below the site's folder."""


def class_mix(site: str, spec: SiteSpec, seed: int) -> dict[str, float]:
    """Each cell type's share at the site, in MLL23's order; sums to 1."""
    names = [cell.name for cell in CELL_TYPES]
    if spec.mix is None:
        weights = generator(seed, site, "mix").dirichlet([spec.alpha] * len(names))
    else:
        weights = np.array([spec.mix.get(name, 0.0) for name in names], dtype=np.float64)
    return {name: float(w / weights.sum()) for name, w in zip(names, weights, strict=True)}


def plan(site: str, spec: SiteSpec, seed: int) -> list[PlannedCell]:
    """The site's cells, patient by patient: 1 to 50 cells each, most with few."""
    counts: Counter[str] = Counter()
    planned: list[PlannedCell] = []
    draws = _patients(class_mix(site, spec, seed), site, seed)
    for number, (patient, cell_type) in enumerate(islice(draws, spec.cells)):
        counts[cell_type] += 1
        path = f"{cell_type}/{cell_type}_{counts[cell_type]:04d}.jpg"
        planned.append(PlannedCell(number, cell_type, patient, path))
    return planned


def _patients(mix: Mapping[str, float], site: str, seed: int) -> Iterator[tuple[int, str]]:
    """(patient, cell type) for ever."""
    names = [name for name, weight in mix.items() if weight > 0]
    weights = np.array([mix[name] for name in names])
    patient = 0
    while True:
        rng = generator(seed, site, "patient", patient)
        size = int(np.clip(np.exp(rng.normal(1.7, 0.9)), 1, 50))
        own = rng.dirichlet(weights * _PATIENT_FOCUS + 1e-3)
        for index in rng.choice(len(names), size, p=own):
            yield patient, names[index]
        patient += 1


def draw_patient(site: str, patient: int, seed: int) -> Patient:
    """The looks of the site's patient number `patient`."""
    return Patient.random(generator(seed, site, "looks", patient))


def generator(seed: int, site: str, purpose: str, *numbers: int) -> np.random.Generator:
    """A generator of its own for each (seed, site, purpose, numbers)."""
    key = hashlib.sha256(f"{site}\0{purpose}".encode()).digest()[:8]
    return np.random.default_rng([seed, int.from_bytes(key, "little"), *numbers])
