"""What a cell looks like, type by type, and how one cell is drawn from its type.

A type is a table of ranges; a cell's value is normal with the range as mean +- 2 standard
deviations, so neighbours overlap in their tails. The maturing series (myeloblast to segmented
neutrophil) is one axis: a cell's stage is blurred along it and the ranges of the two nearest types
are blended, as a hematologist's borders between stages are drawn on a continuum.

Sizes and features follow the descriptions in Bain, Blood Cells: A Practical Guide (5th ed.,
chapters 1 and 3), and the examples of MLL23 and of Acevedo et al. 2020 (PBC).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from common.cells import CELL_TYPES
from simulations.synthetic.patient import Patient

Range = tuple[float, float]
Form = Mapping[str, Range]


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
    membrane: float = 0.12
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


MATURING: tuple[str, ...] = (
    "myeloblast",
    "promyelocyte",
    "myelocyte",
    "metamyelocyte",
    "neutrophil_band",
    "neutrophil_segmented",
)
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

FORMS: Mapping[str, Form] = {
    "myeloblast": {
        "diameter": (12.0, 17.0),
        "aspect": (1.0, 1.22),
        "wobble": (0.15, 0.5),
        "share": (0.60, 0.84),
        "elongation": (0.0, 0.5),
        "bend": (0.0, 0.6),
        "eccentricity": (0.1, 0.8),
        "chromatin": (0.52, 0.72),
        "clumping": (0.05, 0.12),
        "grain": (0.22, 0.30),
        "nucleoli": (0.8, 4.2),
        "basophilia": (0.75, 1.4),
        "acidophilia": (0.0, 0.1),
        "edge": (0.0, 0.4),
        "azurophil": (-4.0, 5.0),
        "granule": (0.25, 0.35),
    },
    "promyelocyte": {
        "diameter": (15.0, 20.0),
        "aspect": (1.0, 1.2),
        "wobble": (0.15, 0.5),
        "share": (0.45, 0.68),
        "elongation": (0.0, 0.6),
        "bend": (0.0, 0.7),
        "eccentricity": (0.3, 0.95),
        "chromatin": (0.62, 0.80),
        "clumping": (0.09, 0.18),
        "grain": (0.26, 0.38),
        "nucleoli": (-0.6, 2.6),
        "basophilia": (0.5, 1.1),
        "acidophilia": (0.05, 0.2),
        "edge": (0.0, 0.3),
        "hof": (0.0, 0.7),
        "azurophil": (45.0, 150.0),
        "granule": (0.30, 0.42),
        "cover": (0.3, 0.8),
    },
    "myelocyte": {
        "diameter": (12.5, 17.0),
        "aspect": (1.0, 1.2),
        "wobble": (0.15, 0.5),
        "share": (0.36, 0.56),
        "elongation": (0.1, 0.8),
        "bend": (0.0, 1.0),
        "eccentricity": (0.3, 0.95),
        "chromatin": (0.76, 0.92),
        "clumping": (0.14, 0.26),
        "grain": (0.32, 0.46),
        "basophilia": (0.2, 0.6),
        "acidophilia": (0.12, 0.28),
        "hof": (-0.2, 0.4),
        "dust": (0.2, 0.7),
        "azurophil": (4.0, 34.0),
        "granule": (0.26, 0.36),
        "cover": (0.1, 0.5),
    },
    "metamyelocyte": {
        "diameter": (12.0, 15.5),
        "aspect": (1.0, 1.18),
        "wobble": (0.15, 0.5),
        "share": (0.32, 0.46),
        "elongation": (0.9, 1.9),
        "bend": (1.1, 2.5),
        "eccentricity": (0.2, 0.85),
        "chromatin": (0.86, 1.0),
        "clumping": (0.18, 0.30),
        "grain": (0.36, 0.50),
        "basophilia": (0.1, 0.32),
        "acidophilia": (0.16, 0.34),
        "dust": (0.4, 0.9),
        "azurophil": (-4.0, 12.0),
        "granule": (0.25, 0.34),
        "cover": (0.1, 0.4),
    },
    "neutrophil_band": {
        "diameter": (11.5, 14.5),
        "aspect": (1.0, 1.16),
        "wobble": (0.12, 0.45),
        "share": (0.25, 0.36),
        "elongation": (3.0, 5.0),
        "bend": (2.4, 4.8),
        "lobes": (1.8, 3.2),
        "pinch": (0.0, 0.30),
        "eccentricity": (0.0, 0.5),
        "chromatin": (0.95, 1.08),
        "clumping": (0.22, 0.34),
        "grain": (0.38, 0.52),
        "basophilia": (0.04, 0.16),
        "acidophilia": (0.18, 0.38),
        "dust": (0.5, 1.0),
        "azurophil": (-6.0, 8.0),
        "granule": (0.25, 0.34),
    },
    "neutrophil_segmented": {
        "diameter": (11.5, 14.5),
        "aspect": (1.0, 1.16),
        "wobble": (0.12, 0.45),
        "share": (0.23, 0.34),
        "elongation": (4.6, 7.2),
        "bend": (2.4, 5.6),
        "lobes": (2.7, 5.1),
        "pinch": (0.62, 0.92),
        "eccentricity": (0.0, 0.5),
        "chromatin": (1.0, 1.14),
        "clumping": (0.22, 0.34),
        "grain": (0.38, 0.52),
        "basophilia": (0.0, 0.12),
        "acidophilia": (0.18, 0.40),
        "dust": (0.5, 1.0),
        "azurophil": (-6.0, 8.0),
        "granule": (0.25, 0.34),
    },
    "promyelocyte_atypical": {
        "diameter": (13.5, 19.0),
        "aspect": (1.0, 1.28),
        "wobble": (0.3, 0.8),
        "share": (0.48, 0.70),
        "elongation": (0.8, 2.4),
        "bend": (0.4, 2.6),
        "lobes": (1.4, 2.4),
        "pinch": (0.1, 0.75),
        "ragged": (0.3, 0.7),
        "clefts": (-0.4, 1.6),
        "eccentricity": (0.1, 0.7),
        "chromatin": (0.62, 0.82),
        "clumping": (0.08, 0.17),
        "grain": (0.26, 0.38),
        "nucleoli": (-0.8, 1.6),
        "basophilia": (0.25, 0.8),
        "acidophilia": (0.15, 0.45),
        "azurophil": (30.0, 230.0),
        "granule": (0.34, 0.52),
        "cover": (0.2, 0.8),
        "rods": (-2.0, 4.0),
    },
    "eosinophil": {
        "diameter": (12.0, 16.0),
        "aspect": (1.0, 1.2),
        "wobble": (0.12, 0.5),
        "share": (0.25, 0.37),
        "elongation": (3.2, 5.0),
        "bend": (1.4, 3.4),
        "lobes": (1.7, 2.7),
        "pinch": (0.6, 0.92),
        "eccentricity": (0.3, 0.9),
        "chromatin": (0.86, 1.04),
        "clumping": (0.18, 0.30),
        "grain": (0.38, 0.52),
        "basophilia": (0.02, 0.2),
        "acidophilia": (0.1, 0.3),
        "orange": (170.0, 420.0),
        "granule": (0.55, 0.85),
        "cover": (0.0, 0.25),
    },
    "basophil": {
        "diameter": (10.0, 13.5),
        "aspect": (1.0, 1.22),
        "wobble": (0.15, 0.6),
        "share": (0.38, 0.58),
        "elongation": (1.5, 3.2),
        "bend": (0.8, 2.8),
        "lobes": (1.6, 3.2),
        "pinch": (0.2, 0.7),
        "ragged": (0.3, 0.7),
        "eccentricity": (0.0, 0.5),
        "chromatin": (0.50, 0.76),
        "clumping": (0.10, 0.22),
        "grain": (0.40, 0.60),
        "membrane": (0.0, 0.06),
        "basophilia": (0.1, 0.35),
        "acidophilia": (0.12, 0.35),
        "dark": (45.0, 190.0),
        "granule": (0.50, 0.85),
        "cover": (0.7, 1.0),
        "vacuoles": (-2.0, 4.0),
    },
    "monocyte": {
        "diameter": (14.5, 20.0),
        "aspect": (1.0, 1.35),
        "wobble": (0.4, 1.5),
        "share": (0.34, 0.56),
        "elongation": (0.7, 2.6),
        "bend": (0.7, 3.4),
        "lobes": (1.0, 2.6),
        "pinch": (0.0, 0.35),
        "ragged": (0.4, 1.0),
        "clefts": (-0.8, 1.2),
        "eccentricity": (0.1, 0.7),
        "chromatin": (0.60, 0.82),
        "clumping": (0.14, 0.26),
        "grain": (0.24, 0.36),
        "basophilia": (0.45, 0.95),
        "acidophilia": (0.05, 0.25),
        "mottle": (0.12, 0.25),
        "dust": (0.1, 0.5),
        "azurophil": (-10.0, 22.0),
        "granule": (0.22, 0.30),
        "vacuoles": (-3.0, 9.0),
    },
    "normoblast": {
        "diameter": (7.8, 12.0),
        "aspect": (1.0, 1.24),
        "wobble": (0.1, 0.5),
        "share": (0.26, 0.56),
        "elongation": (0.0, 0.25),
        "ragged": (0.05, 0.2),
        "eccentricity": (0.0, 0.8),
        "chromatin": (1.0, 1.35),
        "clumping": (0.10, 0.34),
        "grain": (0.40, 0.60),
        "membrane": (0.05, 0.2),
        "basophilia": (0.15, 0.9),
        "acidophilia": (0.0, 0.1),
        "haemoglobin": (0.2, 0.95),
        "mottle": (0.03, 0.12),
    },
    "lymphocyte": {
        "diameter": (8.0, 11.5),
        "aspect": (1.0, 1.22),
        "wobble": (0.15, 0.55),
        "share": (0.62, 0.90),
        "elongation": (0.0, 0.5),
        "bend": (0.0, 0.9),
        "eccentricity": (0.1, 0.8),
        "chromatin": (0.90, 1.18),
        "clumping": (0.10, 0.22),
        "grain": (0.42, 0.66),
        "basophilia": (0.5, 1.1),
        "acidophilia": (0.0, 0.08),
        "edge": (0.0, 0.3),
        "azurophil": (-2.0, 2.0),
    },
    "lymphocyte_large_granular": {
        "diameter": (11.0, 15.0),
        "aspect": (1.0, 1.25),
        "wobble": (0.25, 0.8),
        "share": (0.36, 0.60),
        "elongation": (0.0, 0.8),
        "bend": (0.0, 1.1),
        "eccentricity": (0.4, 1.0),
        "chromatin": (0.86, 1.08),
        "clumping": (0.12, 0.24),
        "grain": (0.42, 0.62),
        "basophilia": (0.16, 0.46),
        "acidophilia": (0.0, 0.10),
        "edge": (0.0, 0.2),
        "mottle": (0.03, 0.12),
        "azurophil": (2.0, 18.0),
        "granule": (0.36, 0.54),
        "cover": (0.0, 0.2),
    },
    "lymphocyte_reactive": {
        "diameter": (14.0, 20.0),
        "aspect": (1.0, 1.4),
        "wobble": (0.6, 1.4),
        "share": (0.32, 0.54),
        "elongation": (0.2, 1.2),
        "bend": (0.0, 1.4),
        "ragged": (0.2, 0.6),
        "eccentricity": (0.2, 0.9),
        "chromatin": (0.74, 0.96),
        "clumping": (0.12, 0.24),
        "grain": (0.32, 0.50),
        "nucleoli": (-1.2, 1.8),
        "basophilia": (0.35, 0.85),
        "acidophilia": (0.0, 0.06),
        "edge": (0.4, 1.3),
        "mottle": (0.05, 0.16),
        "azurophil": (-5.0, 6.0),
        "vacuoles": (-3.0, 3.0),
        "skirt": (0.5, 1.0),
    },
    "lymphocyte_neoplastic": {
        "diameter": (9.5, 15.0),
        "aspect": (1.0, 1.26),
        "wobble": (0.2, 0.8),
        "share": (0.62, 0.88),
        "elongation": (0.2, 1.4),
        "bend": (0.2, 2.0),
        "lobes": (1.0, 2.4),
        "pinch": (0.0, 0.4),
        "ragged": (0.4, 0.9),
        "clefts": (0.4, 3.0),
        "eccentricity": (0.1, 0.7),
        "chromatin": (0.80, 1.06),
        "clumping": (0.14, 0.28),
        "grain": (0.34, 0.56),
        "nucleoli": (-1.0, 1.8),
        "basophilia": (0.4, 1.0),
        "acidophilia": (0.0, 0.06),
    },
    "hairy_cell": {
        "diameter": (11.0, 15.5),
        "aspect": (1.0, 1.2),
        "wobble": (0.2, 0.7),
        "share": (0.36, 0.60),
        "elongation": (0.1, 1.3),
        "bend": (0.0, 1.6),
        "eccentricity": (0.1, 0.8),
        "chromatin": (0.74, 0.94),
        "clumping": (0.07, 0.16),
        "grain": (0.28, 0.42),
        "nucleoli": (-1.2, 1.2),
        "basophilia": (0.26, 0.60),
        "acidophilia": (0.0, 0.06),
        "mottle": (0.08, 0.2),
        "hairs": (14.0, 46.0),
    },
    "plasma_cell": {
        "diameter": (12.0, 18.0),
        "aspect": (1.08, 1.5),
        "wobble": (0.2, 0.7),
        "share": (0.22, 0.42),
        "elongation": (0.0, 0.4),
        "ragged": (0.1, 0.3),
        "eccentricity": (0.75, 1.1),
        "chromatin": (0.86, 1.08),
        "clumping": (0.24, 0.42),
        "grain": (0.50, 0.74),
        "basophilia": (0.9, 1.7),
        "acidophilia": (0.0, 0.25),
        "edge": (0.0, 0.4),
        "hof": (0.5, 1.0),
        "mottle": (0.08, 0.2),
        "vacuoles": (-4.0, 4.0),
    },
    "smudge_cell": {
        "diameter": (11.0, 19.0),
        "aspect": (1.0, 1.6),
        "wobble": (0.8, 2.2),
        "share": (0.9, 0.92),
        "elongation": (0.0, 1.2),
        "bend": (0.0, 1.2),
        "ragged": (0.6, 1.6),
        "eccentricity": (0.0, 0.2),
        "chromatin": (0.36, 0.66),
        "clumping": (0.12, 0.30),
        "grain": (0.30, 0.60),
        "membrane": (0.0, 0.02),
        "nucleoli": (-1.5, 1.5),
        "smear": (0.55, 1.0),
    },
}
"""The 18 types. A count whose range goes below 0 is often 0."""


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


assert set(FORMS) == {cell.name for cell in CELL_TYPES}
