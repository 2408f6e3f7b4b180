"""The 18 cell types of MLL23, in their fixed order.

Source: MLL23, Zenodo record 14277609; the folder names are the data set's own.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class CellType:
    """One peripheral-blood cell type."""

    name: str
    lineage: Literal["myeloid", "lymphoid", "none"]
    maturity: Literal["blast", "precursor", "mature", "none"]


CELL_TYPES: tuple[CellType, ...] = tuple(
    CellType(name=name, lineage=lineage, maturity=maturity)  # type: ignore[arg-type]
    for name, lineage, maturity in (
        ("myeloblast", "myeloid", "blast"),
        ("promyelocyte", "myeloid", "precursor"),
        ("promyelocyte_atypical", "myeloid", "precursor"),
        ("myelocyte", "myeloid", "precursor"),
        ("metamyelocyte", "myeloid", "precursor"),
        ("neutrophil_band", "myeloid", "mature"),
        ("neutrophil_segmented", "myeloid", "mature"),
        ("eosinophil", "myeloid", "mature"),
        ("basophil", "myeloid", "mature"),
        ("monocyte", "myeloid", "mature"),
        ("normoblast", "myeloid", "precursor"),
        ("lymphocyte", "lymphoid", "mature"),
        ("lymphocyte_large_granular", "lymphoid", "mature"),
        ("lymphocyte_reactive", "lymphoid", "mature"),
        ("lymphocyte_neoplastic", "lymphoid", "mature"),
        ("hairy_cell", "lymphoid", "mature"),
        ("plasma_cell", "lymphoid", "mature"),
        ("smudge_cell", "none", "none"),
    )
)
