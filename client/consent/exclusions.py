"""Which of a lab's cells a study leaves out, and why. Only the lab sees this."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from client.data.site_cells import used
from client.data.store import CellCache
from common.config.study import Study
from common.text import count


@dataclass(frozen=True)
class LeftOut:
    """Numbers of cells that `client.data.site_cells.used` leaves out, each counted once.

    A cell of a type outside the study counts under `types`, whether or not its patient is known.
    """

    types: Counter[str]
    """Cell type that the study does not have -> number of cells."""
    unknown: int
    """Number of cells of the study's types whose patient is unknown, if it protects patients."""

    @classmethod
    def of(cls, cache: CellCache, study: Study) -> Self:
        types = Counter({n: c for n, c in cache.counts.items() if n not in study.cell_types})
        return cls(types, len(cache) - types.total() - len(used(cache, study)))

    def __add__(self, other: "LeftOut") -> "LeftOut":
        return LeftOut(self.types + other.types, self.unknown + other.unknown)

    @property
    def total(self) -> int:
        return self.types.total() + self.unknown

    @property
    def sentences(self) -> Iterator[str]:
        """A sentence for each reason that leaves out some cells."""
        if self.types:
            named = ", ".join(f"{name} {number:,}" for name, number in self.types.items())
            yield f"{count(self.types.total(), 'cell')} of types outside the study ({named})"
        if self.unknown:
            yield f"{count(self.unknown, 'cell')} of unknown patients (the study has unit: patient)"
