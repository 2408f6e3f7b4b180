"""The 18 cell types of MLL23, in their fixed order, and other data sets' names for them.

Source: MLL23, Zenodo record 14277609; the folder names are the data set's own. A label is stored
as a cell type's position in `CELL_TYPES`.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from common.errors import DataError

Lineage = Literal["myeloid", "lymphoid", "none"]
Maturity = Literal["blast", "precursor", "mature", "none"]

SKIP = "skip"
"""What a site's label map says of a name whose images are to be left out."""


@dataclass(frozen=True, kw_only=True)
class CellType:
    """One peripheral-blood cell type."""

    name: str
    lineage: Lineage
    maturity: Maturity


def _myeloid(name: str, maturity: Maturity) -> CellType:
    return CellType(name=name, lineage="myeloid", maturity=maturity)


def _lymphoid(name: str) -> CellType:
    return CellType(name=name, lineage="lymphoid", maturity="mature")


CELL_TYPES: tuple[CellType, ...] = (
    _myeloid("myeloblast", "blast"),
    _myeloid("promyelocyte", "precursor"),
    _myeloid("promyelocyte_atypical", "precursor"),
    _myeloid("myelocyte", "precursor"),
    _myeloid("metamyelocyte", "precursor"),
    # A band circulates in healthy blood and is counted with the neutrophils (ICSH 2015, 4.1).
    _myeloid("neutrophil_band", "mature"),
    _myeloid("neutrophil_segmented", "mature"),
    _myeloid("eosinophil", "mature"),
    _myeloid("basophil", "mature"),
    _myeloid("monocyte", "mature"),
    # Erythroid: of the common myeloid progenitor, so myeloid in the two-way division.
    _myeloid("normoblast", "precursor"),
    _lymphoid("lymphocyte"),
    _lymphoid("lymphocyte_large_granular"),
    _lymphoid("lymphocyte_reactive"),
    # Neoplastic lymphocytes and hairy cells are of mature B- or T-cell neoplasms (WHO 2022).
    _lymphoid("lymphocyte_neoplastic"),
    _lymphoid("hairy_cell"),
    _lymphoid("plasma_cell"),
    # What is left of a cell that burst; from which lineage cannot be seen.
    CellType(name="smudge_cell", lineage="none", maturity="none"),
)

CODES: dict[str, int] = {cell.name: code for code, cell in enumerate(CELL_TYPES)}
"""Name of a cell type -> its position in `CELL_TYPES`."""

ALIASES: dict[str, dict[str, str]] = {
    "Acevedo-20": {
        "sne": "neutrophil_segmented",
        "bne": "neutrophil_band",
        "ly": "lymphocyte",
        "mo": "monocyte",
        "eo": "eosinophil",
        "ba": "basophil",
        "erb": "normoblast",
        "pmy": "promyelocyte",
        "my": "myelocyte",
        "mmy": "metamyelocyte",
    },
    "Matek-19": {
        "ngs": "neutrophil_segmented",
        "ngb": "neutrophil_band",
        "myo": "myeloblast",
        "lyt": "lymphocyte",
        "mon": "monocyte",
        "eos": "eosinophil",
        "bas": "basophil",
        "ebo": "normoblast",
        "pmo": "promyelocyte",
        "myb": "myelocyte",
        "mmz": "metamyelocyte",
        "ksc": "smudge_cell",
    },
    "plain names": {
        "neutrophil": "neutrophil_segmented",
        "segmented_neutrophil": "neutrophil_segmented",
        "band_neutrophil": "neutrophil_band",
        "erythroblast": "normoblast",
        "nucleated_red_blood_cell": "normoblast",
        "nrbc": "normoblast",
        "typical_lymphocyte": "lymphocyte",
        "lymphocyte_typical": "lymphocyte",
        "large_granular_lymphocyte": "lymphocyte_large_granular",
        "lgl": "lymphocyte_large_granular",
        "reactive_lymphocyte": "lymphocyte_reactive",
        "neoplastic_lymphocyte": "lymphocyte_neoplastic",
        "atypical_promyelocyte": "promyelocyte_atypical",
        "hairy": "hairy_cell",
        "plasma": "plasma_cell",
        "smudge": "smudge_cell",
    },
}
"""Data set -> its name or code (folded) -> MLL23's name.

Sources: Acevedo et al. 2020 (Data in Brief 30:105474), the prefixes of the file names; Matek et al.
2019 (Nat. Mach. Intell. 1:538), the folders. Left out, because they are not one of the 18 or are
more than one: Acevedo's `ig` and platelets; Matek's LYA, MOB and PMB.
"""

_FOLDED: dict[str, str] = {name: name for name in CODES} | {
    alias: name for names in ALIASES.values() for alias, name in names.items()
}


def resolve(label: str, label_map: Mapping[str, str] | None = None) -> str:
    """MLL23's name for `label`, or `SKIP` where the site's own `label_map` says so.

    The site's map is asked first; then the 18 names and `ALIASES`, with case, spaces, hyphens and
    brackets ignored. Raises DataError with the nearest known names for an unknown label.
    """
    own = {_fold(name): target for name, target in (label_map or {}).items()}
    folded = _fold(label)
    if folded in own:
        target = _fold(own[folded])
        if target == SKIP:
            return SKIP
        if target not in _FOLDED:
            raise DataError(
                f"label_map: {label!r} is mapped to {own[folded]!r}, which is not a cell type; "
                f"{_nearest(target)}, or {SKIP!r} to leave its images out"
            )
        return _FOLDED[target]
    if folded not in _FOLDED:
        raise DataError(
            f"label {label!r} is not a known cell type; {_nearest(folded)}. If it is a name of "
            f"this site's own, map it in label_map (to one of the 18, or to {SKIP!r})"
        )
    return _FOLDED[folded]


def _fold(label: str) -> str:
    return re.sub(r"[^0-9a-z]+", "_", label.casefold()).strip("_")


def _nearest(folded: str) -> str:
    names = difflib.get_close_matches(folded, _FOLDED, 3, 0.5)
    if not names:
        return "known: " + ", ".join(CODES)
    return "nearest: " + ", ".join(dict.fromkeys(_FOLDED[name] for name in names))
