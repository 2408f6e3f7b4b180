"""One cell's looks, drawn from its type's form.

A value is normal with the form's range as mean +- 2 standard deviations, so neighbours overlap in
their tails. The maturing series (myeloblast to segmented neutrophil) is one axis: a cell's stage
is blurred along it and the ranges of the two nearest types are blended, for a hematologist's
borders between stages are drawn on a continuum.
"""

from dataclasses import dataclass, fields

import numpy as np

from simulations.synthetic.forms import FORMS, MATURING, Form, Range
from simulations.synthetic.patient import Patient


@dataclass(frozen=True, kw_only=True)
class Morphology:
    """One cell. Lengths in um, angles in rad, densities relative to a typical nucleus."""

    diameter: float
    aspect: float = 1.06
    wobble: float = 0.25
    """Irregularity of the outline, um."""
    share: float = 0.5
    """Nucleus-to-cell area."""
    elongation: float = 0.2
    """Length of the nucleus' axis over its half thickness; 0: round."""
    bend: float = 0.0
    """Angle by which the axis turns from end to end."""
    lobes: float = 1.0
    pinch: float = 0.0
    """How far the nucleus narrows between lobes, 0 to 1 (a thread)."""
    ragged: float = 0.25
    """Irregularity of the nucleus' edge, um."""
    clefts: float = 0.0
    eccentricity: float = 0.3
    """Offset of the nucleus, 1: it touches the border."""
    chromatin: float = 0.9
    clumping: float = 0.2
    grain: float = 0.35
    """Size of chromatin clumps."""
    wheel: float = 0.0
    """Clumps set like the figures of a clock, 0 to 1."""
    membrane: float = 0.18
    nucleoli: float = 0.0
    basophilia: float = 0.3
    acidophilia: float = 0.15
    haemoglobin: float = 0.0
    edge: float = 0.0
    """Extra basophilia along the border."""
    hof: float = 0.0
    """Pale zone beside the nucleus, 0 to 1."""
    mottle: float = 0.12
    """Unevenness of the cytoplasm."""
    dust: float = 0.0
    """Fine neutrophilic granulation, 0 to 1."""
    azurophil: float = 0.0
    """Magenta granules, count."""
    orange: float = 0.0
    """Eosinophilic granules, count."""
    dark: float = 0.0
    """Basophilic granules, count."""
    granule: float = 0.3
    """Diameter of the granules."""
    cover: float = 0.3
    """Chance that a granule over the nucleus is seen, 0 to 1."""
    vacuoles: float = 0.0
    rods: float = 0.0
    """Auer rods, count."""
    hairs: float = 0.0
    skirt: float = 0.0
    """How far the border gives way to red cells and flows around them, 0 to 1."""
    smear: float = 0.0
    """How far the nucleus is crushed: soft edge, streaks, no cytoplasm, 0 to 1."""


STAGE_BLUR = 0.24
"""Standard deviation of a cell's stage about its type's, in stages."""

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
    """One cell of `cell_type` in `patient`."""
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
    """The type's ranges, blended with a neighbour's in the maturing series."""
    if cell_type not in MATURING:
        return FORMS[cell_type]
    stage = MATURING.index(cell_type) + patient.maturity + rng.normal(0, STAGE_BLUR)
    stage = min(max(stage, 0.0), len(MATURING) - 1.0)
    younger = int(min(stage, len(MATURING) - 2))
    part = stage - younger
    return blend(FORMS[MATURING[younger]], FORMS[MATURING[younger + 1]], part)


def blend(first: Form, second: Form, part: float) -> Form:
    """Ranges `part` of the way from `first` to `second`; absent names count as the default."""
    unmarked = Morphology(diameter=0.0)
    mixed: dict[str, Range] = {}
    for name in {**first, **second}:
        default = (getattr(unmarked, name),) * 2
        (a, b), (c, d) = first.get(name, default), second.get(name, default)
        mixed[name] = (a + part * (c - a), b + part * (d - b))
    return mixed
