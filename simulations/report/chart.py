"""Styles, draws and saves the report's charts, without pyplot and its global state."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator
from numpy.typing import NDArray

INK, MUTED, LINE = "#221c2e", "#756b83", "#e3ddea"
ACCENT, ROSE, TEAL, AMBER = "#5b2a86", "#d6336c", "#0b7285", "#b7791f"
SITE_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a8d00", "#777")
"""Okabe and Ito's palette, which colour-blind readers can tell apart, too."""
MANY_SITES = 12
"""With more sites than this, a chart shows them as a crowd and not by name."""

PURPLES = LinearSegmentedColormap.from_list("stain", ["#ffffff", "#d9c8ea", "#8d5fbf", "#3b1263"])

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One figure of the report, with a caption that says what it shows in this run."""

    name: str
    """The name of its file, without the suffix."""
    title: str
    caption: str
    alt: str
    """The text for readers who cannot see the figure."""
    png: bytes
    wide: bool = False
    """Whether the figure takes the whole width of the page."""
    dense: bool = False
    """Whether the figure is too fine to be shrunk to a phone's width; there it scrolls instead."""


@contextmanager
def style() -> Iterator[None]:
    """Give figures that are made and saved inside the `with` block the report's look."""
    with matplotlib.rc_context(_STYLE):
        yield


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure of `width` x `height` inches with one set of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def png(figure: Figure) -> bytes:
    """Return the figure as PNG; the same picture gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=200, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def percent_axis(axes: Axes, which: str, low: float = 0.0, high: float = 1.0) -> None:
    """Make an axis ("x" or "y") show shares from `low` to `high` in per cent, with a grid."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    step = 0.2 if high - low > 0.5 else 0.1
    ticks = np.arange(np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9) + 1) * step
    axis.set_ticks(list(ticks), [f"{abs(100 * tick):.0f} %" for tick in ticks])
    axis.grid(True)
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)


def round_axis(axes: Axes, at: Sequence[int] = ()) -> None:
    """Make the x axis show rounds as whole numbers; with `at`, only as many of these as fit."""
    axes.xaxis.set_major_locator(FixedLocator(_some(at)) if at else MaxNLocator(integer=True))
    axes.set_xlabel("round")


def _some(rounds: Sequence[int], most: int = 10) -> Sequence[int]:
    """Return at most `most` of the rounds: all, or every 2nd, 5th, 10th, 20th ...

    >>> _some(range(1, 31), most=6)
    range(5, 31, 5)
    """
    steps = (digit * 10**power for power in count() for digit in (1, 2, 5))
    return next(some for step in steps if len(some := rounds[step - 1 :: step]) <= most)


def matrix(axes: Axes, shares: NDArray[np.float64], texts: list[list[str]], size: float) -> None:
    """Draw a heat map with a text in each square; dark squares get light text.

    Args:
        axes: where it is drawn.
        shares: (rows, columns) from 0 to 1; a larger share is darker.
        texts: the text of each square, row by row; may be empty.
        size: of the texts, in points.
    """
    axes.imshow(shares, cmap=PURPLES, vmin=0, vmax=1, aspect="auto")
    rows, columns = shares.shape
    axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#f1ecf5", linewidth=0.9 if columns <= 30 else 0.0)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    for row, line in enumerate(texts):
        for column, text in enumerate(line):
            colour = "white" if shares[row, column] > 0.5 else INK if shares[row, column] else MUTED
            axes.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)
