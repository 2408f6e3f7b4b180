"""Shows F1, precision and recall of each cell type."""

import numpy as np

from simulations.report import formatting
from simulations.report.chart import ACCENT, INK, MUTED, ROSE, Chart, canvas, percent_axis, png
from simulations.report.run_folder import Run

FEW = 30
"""With fewer test cells than this, one cell changes recall by more than three points."""


def ranked(run: Run) -> list[tuple[str, float, int]]:
    """Return (type, F1, test cells), best first; types without test cells or F1 are left out."""
    found = [
        (kind, float(part["f1"]), int(part["support"]))
        for kind, part in run.summary["per_class"].items()
        if part["support"] and part["f1"] is not None
    ]
    return sorted(found, key=lambda row: -row[1])


def chart(run: Run) -> Chart | None:
    """Draw the three scores of each type; None if no type has them."""
    found = ranked(run)
    if not found:
        return None
    wide = len(found) > 12
    height = 0.9 + 0.2 * len(found) if wide else 1.0 + 0.31 * max(len(found), 4)
    figure, axes = canvas(5.4 if wide else 5.0, height)
    places = range(len(found))
    axes.barh(places, [f1 for _, f1, _ in found], height=0.62, color="#d8c9e6")
    for key, mark, colour in (("precision", "d", ROSE), ("recall", "o", ACCENT)):
        values = [run.summary["per_class"][kind][key] for kind, _, _ in found]
        shown = [(v, p) for v, p in zip(values, places, strict=True) if v is not None]
        at = np.array(shown).reshape(-1, 2).T  # none where no type was ever predicted
        axes.plot(*at, mark, color=colour, markersize=4.5, label=key, clip_on=False)
    axes.set_yticks(places, [f"{formatting.cell(kind)} ({n:,})" for kind, _, n in found])
    axes.set_ylim(len(found) - 0.5, -0.5)
    for place, (_, f1, _) in enumerate(found):
        axes.text(1.03, place, f"{f1:.2f}", va="center", color=INK, fontsize=8)
    axes.text(1.03, -0.75, "F1", va="bottom", color=MUTED)
    percent_axis(axes, "x")
    axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.06), ncols=2, frameon=False)
    return Chart(
        name="per_class",
        title="F1 of each cell type",
        caption=caption(found),
        alt=f"Bar chart of F1 for {len(found)} cell types, with precision and recall as marks.",
        png=png(figure),
        wide=wide,
    )


def caption(found: list[tuple[str, float, int]]) -> str:
    best, worst = found[0], found[-1]
    parts = [
        f"Best is {formatting.cell(best[0])} (F1 {best[1]:.2f}), "
        f"worst {formatting.cell(worst[0])} (F1 {worst[1]:.2f}).",
        "Where precision lies right of recall, the model names the type too seldom; where left, "
        "too often. Test cells in brackets.",
    ]
    lost = [formatting.cell(kind) for kind, f1, _ in found if f1 == 0]
    if lost:
        parts.append(f"Never recognised: {formatting.listing(lost)}.")
    few = [formatting.cell(kind) for kind, _, n in found if n < FEW]
    if few:
        parts.append(f"Fewer than {FEW} test cells, so read with care: {formatting.listing(few)}.")
    return " ".join(parts)
