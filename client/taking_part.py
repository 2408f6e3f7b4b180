"""How many of a lab's cells can take part in a study: told to the lab alone, before it says yes."""

from dataclasses import dataclass

import numpy as np

from client.site import open_cells, selected
from common.cells import CELL_TYPES
from common.config import Site, Study
from common.data.splits import SPLITS
from common.data.store import CellCache
from common.words import count

TOLERATED = 0.2
"""Of the declared units, by which those that train may differ without a second yes."""


@dataclass(frozen=True)
class TakingPart:
    """The site's cells as the study uses them; nothing of it leaves."""

    unit: str
    """image or patient: what is protected, and what a site declares."""
    role: str | None
    """In the study's cohort; None: the site is not in it."""
    declared: int
    cells: dict[str, int]
    """Split -> its cells."""
    units: dict[str, int]
    """Split -> its images, or patients."""
    types: dict[str, dict[str, int]]
    """Cell type of the study -> split -> its cells."""
    other_types: int
    """Cells that are left out: of types that the study does not tell apart,"""
    unknown_patients: int
    """and of the study's types, of nobody knows which patient, where patients are protected."""

    @property
    def nothing(self) -> str | None:
        """Why the site has nothing to take part with, or None."""
        needed = "test" if self.role == "test" else "train"
        if self.role is None or self.cells[needed if self.role != "held_out" else "test"]:
            return None
        if self.unknown_patients and not sum(self.cells.values()):
            return (
                f"none of this site's cells can take part: the study protects each patient, and "
                f"of {count(self.unknown_patients, 'cell')} nobody has said whose they are. Name "
                "the patients in the cells' CSV (column `patient`) and index again, or take part "
                "in a study with `unit: image`, where policy.yaml allows that"
            )
        verb = "train" if needed == "train" and self.role == "train" else "be tested on"
        return f"none of this site's cells can {verb}: {self.words}"

    @property
    def differs(self) -> str | None:
        """How the units that train differ from those declared, where it is too much; or None."""
        units = self.units["train"]
        if self.role != "train" or abs(units - self.declared) <= TOLERATED * self.declared:
            return None
        return (
            f"the study declares {count(self.declared, self.unit)} of this site, and {units:,} "
            "would train. A step's sum is divided by the declared number, so steps are too "
            f"{'long' if units > self.declared else 'short'} by the difference; ask the operator "
            "for a study with the right number"
        )

    @property
    def words(self) -> str:
        """In a line: what takes part, in which split, and what is left out, by reason."""
        whole = sum(self.cells.values()) + self.other_types + self.unknown_patients
        said = f"of {count(whole, 'cell')} take part: {', '.join(map(self._split, SPLITS))}"
        left = [
            (self.other_types, "of types that the study does not have"),
            (self.unknown_patients, "of unknown patients"),
        ]
        out = [f"{number:,} {reason}" for number, reason in left if number]
        said += f"; left out: {', '.join(out)}" if out else ""
        return f"{said}; declared: {count(self.declared, self.unit)}" if self.declared else said

    @property
    def by_type(self) -> str:
        """Each type's cells that train, are for validation and for test."""
        return ", ".join(
            f"{name} {'/'.join(str(splits[split]) for split in SPLITS)}"
            for name, splits in self.types.items()
        )

    def _split(self, split: str) -> str:
        of = f" of {count(self.units[split], 'patient')}" if self.unit == "patient" else ""
        return f"{self.cells[split]:,} {split}{of}"


def taking_part(site: Site, study: Study) -> TakingPart:
    """Count. Raises DataError where the cells cannot be opened for the study."""
    cells = open_cells(site, study)
    member = study.cohort.get(site.name)
    rows = {split: cells.rows(split) for split in SPLITS}
    if cells.held_out:
        rows = {split: rows[split] if split == "test" else rows[split][:0] for split in SPLITS}
    of_patients = study.privacy.unit == "patient"
    units = {s: len(np.unique(cells.units[r])) if of_patients else len(r) for s, r in rows.items()}
    types = {
        name: {split: int((cells.labels[r] == code).sum()) for split, r in rows.items()}
        for code, name in enumerate(study.cell_types)
    }
    other, unknown = _left_out(site, study)
    return TakingPart(
        unit=study.privacy.unit,
        role=member.role if member else None,
        declared=member.units if member else 0,
        cells={split: len(r) for split, r in rows.items()},
        units=units,
        types=types,
        other_types=other,
        unknown_patients=unknown,
    )


def _left_out(site: Site, study: Study) -> tuple[int, int]:
    """Cells of other types, and those of the study's types whose patient is not known."""
    ours = np.array([cell.name in study.cell_types for cell in CELL_TYPES])
    other = unknown = 0
    for source in site.cells:
        part, _ = selected(source, CellCache.open(source.folder))
        fits = ours[part.labels]
        other += int((~fits).sum())
        if study.privacy.of_patients:
            unknown += int((fits & (part.patients == "")).sum())
    return other, unknown
