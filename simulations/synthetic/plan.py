"""Plans the cells of a site: its patients, the mix of types of each, and their random streams.

Everything about cell i of a site follows from the seed, the site and i. The patients come one after
the other, and a larger number of cells only adds cells and patients at the end.
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
"""Concentration of the Dirichlet that draws a patient's mix around the site's mix. The lower it is,
the fewer types a patient has."""


@dataclass(frozen=True, kw_only=True)
class SiteSpec:
    """A site to render."""

    style: SiteStyle
    cells: int
    """The number of its cells."""
    mix: Mapping[str, float] | None = None
    """Cell type -> weight; a type that is left out does not occur. None: a random mix."""
    alpha: float = 5.0
    """Concentration of the Dirichlet that draws a random mix: low gives few types, high gives all
    types evenly."""


@dataclass(frozen=True)
class PlannedCell:
    """A cell of a site that is to be rendered."""

    number: int
    """Its number at the site, from 0."""
    cell_type: str
    patient: int
    """The number of its patient at the site, from 0."""
    path: str
    """Where its picture goes, relative to the site's folder."""


def class_mix(site: str, spec: SiteSpec, seed: int) -> dict[str, float]:
    """Return cell type -> its share at the site, in the order of MLL23; the sum is 1."""
    names = [cell.name for cell in CELL_TYPES]
    if spec.mix is None:
        weights = generator(seed, site, "mix").dirichlet([spec.alpha] * len(names))
    else:
        weights = np.array([spec.mix.get(name, 0.0) for name in names], dtype=np.float64)
    return {name: float(w / weights.sum()) for name, w in zip(names, weights, strict=True)}


def plan(site: str, spec: SiteSpec, seed: int) -> list[PlannedCell]:
    """Return the site's cells, patient by patient. A patient has 1 to 50 cells, most have few."""
    counts: Counter[str] = Counter()
    planned: list[PlannedCell] = []
    draws = _patients(class_mix(site, spec, seed), site, seed)
    for number, (patient, cell_type) in enumerate(islice(draws, spec.cells)):
        counts[cell_type] += 1
        path = f"{cell_type}/{cell_type}_{counts[cell_type]:04d}.jpg"
        planned.append(PlannedCell(number, cell_type, patient, path))
    return planned


def _patients(mix: Mapping[str, float], site: str, seed: int) -> Iterator[tuple[int, str]]:
    """Yield (patient, cell type) without end."""
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
    """Return the traits of the site's patient number `patient`."""
    return Patient.random(generator(seed, site, "looks", patient))


def generator(seed: int, site: str, purpose: str, *numbers: int) -> np.random.Generator:
    """Return the random generator of this seed, site, purpose and numbers; no others share it."""
    key = hashlib.sha256(f"{site}\0{purpose}".encode()).digest()[:8]
    return np.random.default_rng([seed, int.from_bytes(key, "little"), *numbers])
