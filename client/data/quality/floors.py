"""What no picture of one stained cell looks like, whatever the rest of its lab looks like."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.data.listing import ListedImage
from client.data.quality.duplicates import plain
from client.data.quality.findings import Finding, Instance, Severity
from client.data.quality.measurements import Measured, Records
from common.text import count

DARKEST = 35.0
"""L of the lightest quarter of a picture: the darkest of 15,783 real ones has 44; 14 bits shown in
16 have 27 at most, 12 bits 5."""
GREYEST = 4.0
"""Lab units between the colours, without their lightness, of a picture's nucleus and background:
the least of the real ones is 6; without colour it is 0."""


@dataclass(frozen=True, kw_only=True)
class Floor:
    """One thing that pictures of a cell never are."""

    code: str
    what: str
    advice: str


_DARK = Floor(
    code="too-dark",
    what="too dark to be one through a microscope with its lamp on",
    advice="Samples of 10, 12 or 14 bits that were saved as 16 look so: stretch them to the whole "
    "range and export them as 8-bit RGB. Else look at lamp, exposure and file.",
)
_GREY = Floor(
    code="grey",
    what="grey where the stain should be",
    advice="One channel of several, a colour camera set to grey, or no stain: export the RGB "
    "picture. Models tell the cells apart by their stain too.",
)
_SEVERAL = Floor(
    code="several-cells",
    what="of several nucleated cells that lie apart, by their look",
    advice="Look at them: a label is for one cell, in the middle. Cut fields of view into pictures "
    "of one cell, or leave them out.",
)


def findings(entries: Sequence[ListedImage], measured: Measured) -> list[Finding]:
    """A finding for each floor that pictures lie under: a failure where most of the lab's do.

    Pictures that show nothing are left to `outliers`.
    """
    rows = measured.readable
    rows = rows[~plain(measured.records, rows)]
    found = []
    for floor, under in _under(measured.records, rows):
        if under.any():
            found.append(_finding(floor, [entries[row] for row in rows[under]], len(rows)))
    return found


def _under(records: Records, rows: NDArray[np.int64]) -> list[tuple[Floor, NDArray[np.bool_]]]:
    nucleus, background = records["nucleus"][rows], records["background"][rows]
    stained = np.linalg.norm(nucleus[:, 1:] - background[:, 1:], axis=1)
    return [
        (_DARK, background[:, 0] < DARKEST),
        (_GREY, stained < GREYEST),
        (_SEVERAL, records["nuclei"][rows] > 1),
    ]


def _finding(floor: Floor, under: Sequence[ListedImage], images: int) -> Finding:
    most = 2 * len(under) > images
    return Finding(
        severity=Severity.FAILURE if most else Severity.WARNING,
        code=floor.code,
        what=f"{count(len(under), 'picture')} of {images:,}: {floor.what}",
        advice=floor.advice,
        cases=tuple(Instance(files=(entry.name,)) for entry in under),
    )
