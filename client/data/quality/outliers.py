"""Images that differ from the rest of their site in size, brightness, colour or sharpness."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.data.listing import ListedImage
from client.data.quality.duplicates import plain
from client.data.quality.findings import Finding, Instance, Severity
from client.data.quality.measurements import Measured, Records
from common.text import count

LIMIT = 6.0
"""An outlier lies more than this many robust standard deviations from the median."""
ENOUGH = 30
"""A cell type with at least so many images is compared with itself, others with the whole site."""

Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Trait:
    """One property of an image."""

    code: str
    """The finding's code."""
    names: tuple[str, str]
    """What an image far below the median is, and one far above."""
    unit: str
    """The unit of the values in a finding."""
    floor: float
    """Least robust standard deviation: if all images agree, small differences mean nothing."""
    by_type: bool
    """Whether cell types differ in this property by nature."""
    advice: str
    """What a person can do about outliers."""


_RETAKE = "Look at them: retake or leave out what a person could not classify either."
_COLOUR = "Look for another stain, scanner setting or white balance, and say so in the study."

TRAITS = (
    Trait(
        code="size", names=("smaller", "larger"), unit="px", floor=0.1, by_type=False,
        advice="Check that they are crops of one cell at the site's scale.",
    ),
    Trait(
        code="brightness", names=("darker", "brighter"), unit="L", floor=1.5, by_type=True,
        advice=_RETAKE,
    ),
    Trait(
        code="blur", names=("more blurred", "noisier"), unit="", floor=0.1, by_type=True,
        advice=_RETAKE,
    ),
    Trait(
        code="nucleus-red", names=("less red", "redder"), unit="a", floor=1.5, by_type=True,
        advice=_COLOUR,
    ),
    Trait(
        code="nucleus-blue", names=("bluer", "less blue"), unit="b", floor=1.5, by_type=True,
        advice=_COLOUR,
    ),
    Trait(
        code="background-red", names=("greener", "redder"), unit="a", floor=1.5, by_type=False,
        advice=_COLOUR,
    ),
    Trait(
        code="background-blue", names=("bluer", "yellower"), unit="b", floor=1.5,
        by_type=False, advice=_COLOUR,
    ),
)  # fmt: skip


def _values(records: Records, rows: NDArray[np.int64]) -> dict[str, Values]:
    def column(name: str) -> Values:
        return np.asarray(records[name][rows], dtype=np.float64)

    nucleus, background = column("nucleus"), column("background")
    return {
        "size": np.log2(np.maximum(column("size"), 1).prod(axis=1)) / 2,
        "brightness": column("lightness"),
        "blur": column("sharpness"),
        "nucleus-red": nucleus[:, 1],
        "nucleus-blue": nucleus[:, 2],
        "background-red": background[:, 1],
        "background-blue": background[:, 2],
    }


def robust_z(values: Values, floor: float) -> Values:
    """The distance of each of `values` (N,) from their median, in robust standard deviations.

    A robust standard deviation is 1.4826 times the median absolute deviation (Rousseeuw and Croux
    1993, JASA 88:1273), and `floor` at least.

    >>> robust_z(np.array([1.0, 2.0, 3.0, 9.0, 2.0]), floor=1.0).round(2).tolist()
    [-0.67, 0.0, 0.67, 4.72, 0.0]
    """
    if not len(values):
        return values
    middle = np.median(values)
    spread = 1.4826 * np.median(np.abs(values - middle))
    return np.asarray((values - middle) / max(float(spread), floor))


def findings(entries: Sequence[ListedImage], measured: Measured) -> list[Finding]:
    """Make a finding for each trait with outliers, and one for pictures that show nothing."""
    rows = measured.readable
    blank = plain(measured.records, rows)
    found = [_blank(entries, rows[blank])] if blank.any() else []
    rows = rows[~blank]
    labels = np.array([entries[row].label for row in rows], dtype=str)
    measures = _values(measured.records, rows)
    for trait in TRAITS:
        values = measures[trait.code]
        z = _scores(values, labels if trait.by_type else None, trait.floor)
        far = np.flatnonzero(np.abs(z) > LIMIT)
        if len(far):
            order = far[np.argsort(-np.abs(z[far]), kind="stable")]
            cases = [
                Instance(
                    files=(entries[rows[at]].name,),
                    note=_note(trait, values[at], z[at], measured.records["size"][rows[at]]),
                )
                for at in order
            ]
            found.append(_finding(trait, cases, z[far], len(rows)))
    return found


def _scores(values: Values, labels: NDArray[np.str_] | None, floor: float) -> Values:
    z = robust_z(values, floor)
    if labels is not None:
        for label in np.unique(labels):
            members = labels == label
            if members.sum() >= ENOUGH:
                z[members] = robust_z(values[members], floor)
    return z


def _finding(trait: Trait, cases: list[Instance], z: Values, images: int) -> Finding:
    below, above = int((z < 0).sum()), int((z > 0).sum())
    sides = [
        f"{number:,} {name}"
        for number, name in ((below, trait.names[0]), (above, trait.names[1]))
        if number
    ]
    of = "of the nucleus " if trait.code.startswith("nucleus") else ""
    of = "of the background " if trait.code.startswith("background") else of
    kind = f"Colour {of}" if of else f"{trait.code.capitalize()} "
    share = 100 * len(cases) / images
    few = "under 0.1" if share < 0.1 else f"{share:.1f}"
    return Finding(
        severity=Severity.WARNING,
        code=trait.code,
        what=f"{kind}unlike the rest: {' and '.join(sides)} ({few} % of images)",
        advice=trait.advice,
        cases=tuple(cases),
    )


def _note(trait: Trait, value: float, z: float, size: NDArray[np.int32]) -> str:
    shown = f"{size[0]} x {size[1]} px" if trait.code == "size" else f"{trait.unit} {value:.2f}"
    return f"{trait.names[int(z > 0)]}: {shown.strip()}, {abs(z):.0f} deviations"


def _blank(entries: Sequence[ListedImage], rows: NDArray[np.int64]) -> Finding:
    return Finding(
        severity=Severity.WARNING,
        code="blank",
        what=f"{count(len(rows), 'image shows', 'images show')} an even field, no cell",
        advice="Leave them out.",
        cases=tuple(Instance(files=(entries[row].name,)) for row in rows),
        leave_out=tuple(entries[row].name for row in rows),
    )
