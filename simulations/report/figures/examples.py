"""Shows test cells with the model's right and wrong answers."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from simulations.report import formatting
from simulations.report.chart import Chart, png
from simulations.report.run_folder import Run

SHOWN = 24
COLUMNS = 6
FITTING = 22
"""Most letters of a type's name that fit above its picture."""
GOOD, BAD = "#1c7a4a", "#b3261e"


def chosen(run: Run) -> list[int]:
    """Return the rows of the examples to show, wrong answers first.

    The types take turns, so that each is shown. Right and wrong answers alternate as far as there
    are enough of both. Within a turn, a type that has both waits for the types that have only the
    wanted kind.
    """
    label, right = run.examples.label, run.examples.label == run.examples.predicted
    left = [
        [np.flatnonzero((label == kind) & (right == hit)).tolist() for hit in (False, True)]
        for kind in np.unique(label)
    ]
    turns = [0] * len(left)
    picked: tuple[list[int], list[int]] = ([], [])
    for _ in range(min(SHOWN, len(label))):
        wanted = int(len(picked[1]) < len(picked[0]))
        kind = min(
            (kind for kind, rows in enumerate(left) if any(rows)),
            key=lambda kind: (turns[kind], not left[kind][wanted], all(left[kind])),
        )
        hit = wanted if left[kind][wanted] else 1 - wanted
        picked[hit].append(left[kind][hit].pop(0))
        turns[kind] += 1
    return sorted(picked[0]) + sorted(picked[1])


def chart(run: Run) -> Chart | None:
    """Draw the chosen examples; None if there are none."""
    rows = chosen(run)
    if not rows:
        return None
    lines = -(-len(rows) // COLUMNS)
    figure = Figure(figsize=(7.2, 1.62 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(lines, COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, row in zip(grid.flat, rows, strict=False):
        answer, truth = run.examples.predicted[row], run.examples.label[row]
        said, true = (
            formatting.short(formatting.cell(run.cell_types[k]), FITTING) for k in (answer, truth)
        )
        right = answer == truth
        axes.imshow(run.examples.images[row])
        title = f"✓ {said}" if right else f"✗ {said}\n(is {true})"
        axes.set_title(title, fontsize=6, color=GOOD if right else BAD, loc="left")
    return Chart(
        name="examples",
        title="Example cells",
        caption=caption(run, rows),
        alt=f"Contact sheet of {len(rows)} test cells with the model's answers.",
        png=png(figure),
        wide=True,
    )


def caption(run: Run, rows: list[int]) -> str:
    found = run.examples
    right = found.label[rows] == found.predicted[rows]
    parts = [
        f"{formatting.count(int(right.sum()), 'right answer')} and "
        f"{formatting.count(int((~right).sum()), 'wrong one')}, picked to show both: neither their "
        "proportion nor how sure they are is the model's in general."
    ]
    if (off := run.summary.get("ece")) is not None:
        parts.append(
            f"Over all test cells, how sure it says it is and how often it is right differ by "
            f"{formatting.percent(off)} in the mean (calibration error)."
        )
    if run.rendered:
        parts.append("The cells are rendered by a program, not photographed.")
    return " ".join(parts)
