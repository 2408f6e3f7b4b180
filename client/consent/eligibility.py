"""How many of a lab's cells can take part in a study: for the lab alone, before it decides."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from client.consent.exclusions import LeftOut
from client.data.site_cells import open_cells, selected
from client.data.splits import SPLITS
from client.data.store import CellCache
from common.config.study import Site, Study
from common.text import count

TOLERATED = 0.2
"""Fraction of the declared units by which those that train may differ before a person is asked."""


@dataclass(frozen=True)
class TakingPart:
    """Counts of the site's cells as the study uses them; they do not leave the site."""

    unit: str
    """image or patient: what the study protects, and what a site declares the number of."""
    role: str | None
    """The site's role in the study's cohort; None: the site is not in it."""
    declared: int
    """How many units the study declares for the site."""
    cells: dict[str, int]
    """Split -> number of its cells."""
    units: dict[str, int]
    """Split -> number of its images, or patients."""
    types: dict[str, dict[str, int]]
    """Cell type of the study -> split -> number of its cells."""
    left_out: LeftOut

    @property
    def nothing(self) -> str | None:
        """Why the site has nothing to take part with, or None."""
        needed = "train" if self.role == "train" else "test"
        if self.role is None or self.cells[needed]:
            return None
        if self.left_out.unknown and not sum(self.cells.values()):
            return (
                f"none of this site's cells can take part: the study protects each patient, and "
                f"of {count(self.left_out.unknown, 'cell')} nobody has said whose they are. Name "
                "the patients in the cells' CSV (column `patient`) and index again, or take part "
                "in a study with `unit: image`, where policy.yaml allows that"
            )
        verb = "train" if needed == "train" else "be tested on"
        return f"none of this site's cells can {verb}: {self.words}"

    @property
    def differs(self) -> str | None:
        """How the units that train differ from those declared, if by too much; or None."""
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
        """One line: how many cells take part in which split, and how many are left out, and why."""
        whole = sum(self.cells.values()) + self.left_out.total
        said = f"of {count(whole, 'cell')} take part: {', '.join(map(self._split, SPLITS))}"
        if self.left_out.total:
            said += f"; left out: {'; '.join(self.left_out.sentences)}"
        return f"{said}; declared: {count(self.declared, self.unit)}" if self.declared else said

    @property
    def by_type(self) -> str:
        """For each type, how many cells are for training, validation and test."""
        return ", ".join(
            f"{name} {'/'.join(str(splits[split]) for split in SPLITS)}"
            for name, splits in self.types.items()
        )

    def _split(self, split: str) -> str:
        of = f" of {count(self.units[split], 'patient')}" if self.unit == "patient" else ""
        return f"{self.cells[split]:,} {split}{of}"


def taking_part(site: Site, study: Study) -> TakingPart:
    """Count the site's cells. Raises DataError where they cannot be opened for the study."""
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
    caches = [selected(source, CellCache.open(source.folder))[0] for source in site.cells]
    return TakingPart(
        unit=study.privacy.unit,
        role=member.role if member else None,
        declared=member.units if member else 0,
        cells={split: len(r) for split, r in rows.items()},
        units=units,
        types=types,
        left_out=sum((LeftOut.of(cache, study) for cache in caches), LeftOut(Counter(), 0)),
    )
