"""What one noised sum says of the sites' training cells, and the file that keeps it."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from common.config.study import Study
from common.errors import FederationError
from common.files import write_text
from common.noised_tally import Z_95
from common.privacy.statistics_noise import COLOUR, COLOURS, COUNT, statistics_sigma

STATISTICS = "statistics.json"
"""The name of the file in the folder of a run."""


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval, from the noise alone: the cells are all there are."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class CellStatistics:
    """The training cells of the sites in one sum."""

    study: str
    """The study's digest."""
    sites: tuple[str, ...]
    """The sites whose cells they are; none where no sum came about."""
    cells: dict[str, Estimate]
    """Cell type -> its number of cells, of which a patient has at most the study's limit where it
    protects patients. A value may lie below 0, its interval not."""
    colours: dict[str, Estimate]
    """Colour -> its mean over all cells, in [0, 1]; none where the noise hides it."""

    @classmethod
    def none(cls, study: Study) -> Self:
        """What is known where no sum came about."""
        return cls(study=study.digest, sites=(), cells={}, colours={})

    @classmethod
    def of_sum(cls, study: Study, sites: tuple[str, ...], total: NDArray[np.int64]) -> Self:
        """What the sum (K + 3,) over `sites` says (see `common.privacy.statistics_noise`)."""
        types, noise = len(study.cell_types), math.sqrt(len(sites)) * statistics_sigma(study)
        counts = total[:types] / COUNT
        cells = {
            name: Estimate(value, max(value - half, 0.0), max(value + half, 0.0))
            for name, value in zip(study.cell_types, counts.tolist(), strict=True)
            for half in [Z_95 * noise / COUNT]
        }
        of_all, spread = float(counts.sum()), math.sqrt(types) * noise / COUNT
        found = (_colour(sum_ / COLOUR, noise / COLOUR, of_all, spread) for sum_ in total[types:])
        colours = {name: one for name, one in zip(COLOURS, found, strict=True) if one is not None}
        return cls(study=study.digest, sites=sites, cells=cells, colours=colours)

    def write(self, out: Path) -> None:
        """Keep them in the folder of the run; they are on disk on return."""
        write_text(out / STATISTICS, json.dumps(asdict(self), indent=2))

    @classmethod
    def read(cls, out: Path) -> Self | None:
        """Return those that the folder of a run keeps; None: it keeps none.

        Raises:
            FederationError: the file cannot be read.
        """
        path = out / STATISTICS
        if not path.exists():
            return None
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            cells = {name: Estimate(**one) for name, one in kept["cells"].items()}
            colours = {name: Estimate(**one) for name, one in kept["colours"].items()}
            sites = tuple(map(str, kept["sites"]))
            return cls(study=str(kept["study"]), sites=sites, cells=cells, colours=colours)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise FederationError(
                f"{path}: the statistics cannot be read ({error}); the sites give them once, so "
                "restore the file, or delete it and go on without them once a round is done"
            ) from error


def _colour(total: float, noise: float, cells: float, spread: float) -> Estimate | None:
    """The mean colour (1 + total / cells) / 2 and its interval; None where the noise hides it.

    The interval is Fieller's (1954): all means that `total` and `cells`, with noise of standard
    deviations `noise` and `spread`, do not contradict.
    """
    square = cells**2 - (Z_95 * spread) ** 2
    if cells <= 0 or square <= 0:
        return None
    root = math.hypot(Z_95 * noise * math.sqrt(square), Z_95 * spread * total) / square
    middle = cells * total / square
    low, value, high = middle - root, total / cells, middle + root
    if high - low >= 2:
        return None
    bounded = (min(max((1 + one) / 2, 0.0), 1.0) for one in (value, low, high))
    return Estimate(*bounded)
