"""Bounds that every picture of one stained cell keeps, whatever its lab's other pictures show."""

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
"""Least L of a picture's background. The darkest of 15,783 real pictures has 44. Samples of 14 bits
that are shown as 16 bits reach at most 27, and samples of 12 bits 5."""
GREYEST = 4.0
"""Least distance in a and b (Lab units) between a picture's nucleus and its background. The least
of the real pictures is 6; a picture without colour has 0."""


@dataclass(frozen=True, kw_only=True)
class Floor:
    """One bound, and what a picture beyond it is."""

    code: str
    """The finding's code."""
    what: str
    """What such a picture is."""
    advice: str
    """What a person can do about it."""


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
    """Make a finding for each bound that pictures break: a failure if most of the lab's do.

    Pictures that show nothing are the business of `outliers`.
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
