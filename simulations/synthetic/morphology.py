"""Draws the looks of one cell at random from the form of its type.

A value is normal; the form's range is its mean +- 2 standard deviations, so the tails of similar
types overlap. The maturing series (myeloblast to segmented neutrophil) is one axis, because cells
mature continuously and hematologists only draw borders between the stages. A cell's stage is
blurred along this axis, and the ranges of the two nearest types are blended.
"""

from dataclasses import dataclass, fields

import numpy as np

from simulations.synthetic.forms import FORMS, MATURING, Form, Range
from simulations.synthetic.patient import Patient


@dataclass(frozen=True, kw_only=True)
class Morphology:
    """The looks of one cell. Lengths are in um, angles in rad, densities relative to a typical
    nucleus."""

    diameter: float
    aspect: float = 1.06
    """Length of the cell over its width."""
    wobble: float = 0.25
    """Irregularity of the outline, um."""
    share: float = 0.5
    """Area of the nucleus over that of the cell."""
    elongation: float = 0.2
    """Length of the axis of the nucleus over half its thickness; 0: round."""
    bend: float = 0.0
    """Angle by which the axis of the nucleus turns from end to end."""
    lobes: float = 1.0
    """Number of lobes of the nucleus."""
    pinch: float = 0.0
    """How narrow the nucleus is between lobes, from 0 (not narrower) to 1 (a thread)."""
    ragged: float = 0.25
    """Irregularity of the edge of the nucleus, um."""
    clefts: float = 0.0
    """Number of clefts in the nucleus."""
    eccentricity: float = 0.3
    """Offset of the nucleus from the middle; 1: it touches the border."""
    chromatin: float = 0.9
    """Density of the nucleus."""
    clumping: float = 0.2
    """Contrast of the chromatin."""
    grain: float = 0.35
    """Size of the clumps of chromatin, um."""
    wheel: float = 0.0
    """How much the clumps are arranged like the numbers of a clock, 0 to 1."""
    membrane: float = 0.18
    """Extra density at the edge of the nucleus."""
    nucleoli: float = 0.0
    """Number of nucleoli."""
    basophilia: float = 0.3
    """Density of azure (blue) in the cytoplasm."""
    acidophilia: float = 0.15
    """Density of eosin (orange) in the cytoplasm."""
    haemoglobin: float = 0.0
    """Density of haemoglobin in the cell."""
    edge: float = 0.0
    """Extra basophilia along the border."""
    hof: float = 0.0
    """Strength of the pale zone beside the nucleus, 0 to 1."""
    mottle: float = 0.12
    """Unevenness of the cytoplasm."""
    dust: float = 0.0
    """Strength of the fine neutrophilic granulation, 0 to 1."""
    azurophil: float = 0.0
    """Number of magenta granules."""
    orange: float = 0.0
    """Number of eosinophilic granules."""
    dark: float = 0.0
    """Number of basophilic granules."""
    granule: float = 0.3
    """Diameter of the granules, um."""
    cover: float = 0.3
    """How likely a granule lies over the nucleus, relative to the cytoplasm, 0 to 1."""
    vacuoles: float = 0.0
    """Number of vacuoles."""
    rods: float = 0.0
    """Number of Auer rods."""
    hairs: float = 0.0
    """Number of fine projections of the border."""
    skirt: float = 0.0
    """How much the border is dented by red cells and flows around them, 0 to 1."""
    smear: float = 0.0
    """How much the nucleus is crushed (soft edge, streaks, no cytoplasm), 0 to 1."""


STAGE_BLUR = 0.24
"""Standard deviation of a cell's stage around that of its type, in stages."""

_COUNTS = frozenset({"nucleoli", "azurophil", "orange", "dark", "vacuoles", "rods", "hairs"})
_LOWEST = {"diameter": 5.0, "lobes": 1.0, "aspect": 1.0, "grain": 0.2, "granule": 0.2}
_HIGHEST = {
    "share": 0.93,
    "pinch": 0.93,
    "eccentricity": 1.0,
    "bend": 5.6,
    "hof": 1.0,
    "cover": 1.0,
}


def draw(cell_type: str, patient: Patient, rng: np.random.Generator) -> Morphology:
    """Return the looks of a random cell of `cell_type` in `patient`."""
    form = _form(cell_type, patient, rng)
    values: dict[str, float] = {}
    for field in fields(Morphology):
        if field.name not in form:
            continue
        low, high = form[field.name]
        deviation = float(np.clip(rng.standard_normal(), -3, 3))
        value = (low + high) / 2 + deviation * (high - low) / 4
        value = min(max(value, _LOWEST.get(field.name, 0.0)), _HIGHEST.get(field.name, np.inf))
        values[field.name] = float(round(value)) if field.name in _COUNTS else value
    values["diameter"] *= patient.size
    values["clumping"] *= patient.chromatin
    return Morphology(**values)


def _form(cell_type: str, patient: Patient, rng: np.random.Generator) -> Form:
    """Return the ranges of the type, blended with those of a neighbour in the maturing series."""
    if cell_type not in MATURING:
        return FORMS[cell_type]
    stage = MATURING.index(cell_type) + patient.maturity + rng.normal(0, STAGE_BLUR)
    stage = min(max(stage, 0.0), len(MATURING) - 1.0)
    younger = int(min(stage, len(MATURING) - 2))
    part = stage - younger
    return blend(FORMS[MATURING[younger]], FORMS[MATURING[younger + 1]], part)


def blend(first: Form, second: Form, part: float) -> Form:
    """Return ranges between two forms: those of `first` for `part` 0, those of `second` for 1.

    A field that a form leaves out counts with its default.

    >>> blend({"share": (0.5, 0.75)}, {"share": (0.25, 0.5)}, part=0.5)
    {'share': (0.375, 0.625)}
    """
    unmarked = Morphology(diameter=0.0)
    mixed: dict[str, Range] = {}
    for name in {**first, **second}:
        default = (getattr(unmarked, name),) * 2
        (a, b), (c, d) = first.get(name, default), second.get(name, default)
        mixed[name] = (a + part * (c - a), b + part * (d - b))
    return mixed
