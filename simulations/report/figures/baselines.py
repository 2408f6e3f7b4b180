"""Compares the federated model with models trained without federation, on the same test cells."""

from dataclasses import dataclass

from matplotlib.axes import Axes

from simulations.report import formatting
from simulations.report.chart import (
    ACCENT,
    MANY_SITES,
    MUTED,
    TEAL,
    Chart,
    canvas,
    percent_axis,
    png,
)
from simulations.report.majority import no_better
from simulations.report.run_folder import Run, interval

METRIC = "balanced_accuracy"
SAME = 0.0005
"""Shares that differ by less than this look the same in the report."""


@dataclass(frozen=True)
class Bar:
    """A row of the chart: a model's score, and its 95 % interval if it has one."""

    label: str
    value: float
    bounds: tuple[float, float] | None
    colour: str


def rows(run: Run) -> list[Bar]:
    """Return the chart's rows; a model that has no score is left out.

    The order is: all cells in one place, the federation, and single sites.
    """
    found = []
    if run.centralised:
        found.append(_row("all cells in one place", run.centralised, TEAL))
    found.append(_row("federated", run.summary, ACCENT))
    if run.local_only:
        found.append(_row("one site alone, mean", run.local_only["mean"], MUTED))
        sites = run.local_only["sites"]
        if len(sites) <= MANY_SITES:
            found += [_row(f"{formatting.short(name)} alone", sites[name], MUTED) for name in sites]
    return [row for row in found if row is not None]


def _row(label: str, part: dict[str, object], colour: str) -> Bar | None:
    value = part.get(METRIC)
    if not isinstance(value, int | float):
        return None
    return Bar(label, float(value), interval(part, METRIC), colour)


def chart(run: Run) -> Chart | None:
    """Draw each model's score; None if there are fewer than two models."""
    found = rows(run)
    if len(found) < 2:
        return None
    figure, axes = canvas(5.0, 1.0 + 0.3 * max(len(found), 4))
    own = interval(run.summary, METRIC)
    if own:
        axes.axvspan(*own, color=ACCENT, alpha=0.1, linewidth=0)
    for place, row in enumerate(found):
        if row.bounds:
            axes.plot(row.bounds, (place, place), color=row.colour, linewidth=2.2)
        axes.plot(row.value, place, "o", color=row.colour, markersize=6, clip_on=False)
    _crowd(run, axes, found)
    axes.set_yticks(range(len(found)), [row.label for row in found])
    axes.set_ylim(len(found) - 0.5, -0.5)
    percent_axis(axes, "x")
    axes.set_title("balanced accuracy, training sites' test cells", fontsize=8.5, color=MUTED)
    return Chart(
        name="baselines",
        title="Together, alone, or in one place",
        caption=caption(run),
        alt="Dot chart of balanced accuracy with 95 % intervals: federated, trained by single "
        "sites, and trained on all cells in one place.",
        png=png(figure),
    )


def _crowd(run: Run, axes: Axes, found: list[Bar]) -> None:
    """If there are many sites, draw each as a small line in the row of their mean."""
    sites = run.local_only["sites"] if run.local_only else {}
    if len(sites) > MANY_SITES:
        values = [part[METRIC] for part in sites.values() if part[METRIC] is not None]
        place = [row.label for row in found].index("one site alone, mean")
        axes.plot(values, [place] * len(values), "|", color=MUTED, markersize=9, alpha=0.5)


def caption(run: Run) -> str:
    """Return the caption, which compares the federation with the other models."""
    parts = [_against_local(run), _against_centralised(run)]
    parts.append(
        f"Lines are 95 % bootstrap intervals over {_drawn(run)}; the shaded band is the federated "
        "model's. They do not include the luck of another training run."
    )
    return " ".join(part for part in parts if part)


def _drawn(run: Run) -> str:
    """Return in words what the intervals resample."""
    if run.summary["intervals_over"] == "patients":
        return "the test cells' patients, for cells of one are alike"
    return "test cells"


def verdict(run: Run) -> str | None:
    """Return whether the federated model is "better" or "worse" than the mean of single sites.

    It is "same" if the mean lies within the federated model's interval. The result is None if
    there is no mean or no interval.
    """
    mean = run.local_only["mean"][METRIC] if run.local_only else None
    bounds = interval(run.summary, METRIC)
    if mean is None or bounds is None:
        return None
    return "better" if bounds[0] > mean else "worse" if bounds[1] < mean else "same"


def _against_local(run: Run) -> str:
    if not run.local_only or None in (run.local_only["mean"][METRIC], run.summary[METRIC]):
        return ""
    mean, own = run.local_only["mean"][METRIC], run.summary[METRIC]
    opening = _opening(run, mean, own)
    values = {
        name: part[METRIC]
        for name, part in run.local_only["sites"].items()
        if part[METRIC] is not None
    }
    if not values:
        return opening
    best = max(values, key=lambda name: values[name])
    ahead = _side(values[best], own)
    return f"{opening} The best site alone is {best} ({formatting.percent(values[best])}), {ahead}."


def _opening(run: Run, mean: float, own: float) -> str:
    """Return a sentence on which is better, the federated model or the mean of single sites.

    If the federated model is not surely better than no model, the sentence says so.
    """
    gap = formatting.points(own - mean)
    side = f"{gap} {'above' if own >= mean else 'below'} the mean"
    if doubt := no_better(run.summary):
        return f"{doubt} That the shared model is {side} of single sites says little."
    return {
        "better": f"Federation helped: the shared model is {gap} above the mean of single sites.",
        "worse": f"Federation did not help: the shared model is {gap} below the mean of sites.",
        "same": "Federation changed little: the mean of single sites lies inside the federated "
        f"model's interval (difference {gap}).",
        None: f"The shared model is {side} of sites.",
    }[verdict(run)]


def _side(alone: float, shared: float) -> str:
    if abs(alone - shared) < SAME:
        return "as good"
    return "and still below it" if alone < shared else "and ahead of it"


def _against_centralised(run: Run) -> str:
    if not run.centralised or None in (run.centralised[METRIC], run.summary[METRIC]):
        return ""
    gap = run.centralised[METRIC] - run.summary[METRIC]
    bounds, own = interval(run.centralised, METRIC), interval(run.summary, METRIC)
    if bounds and own and bounds[0] <= own[1] and own[0] <= bounds[1]:
        return (
            "Training on all cells in one place, which the sites avoid, gives "
            f"{formatting.percent(run.centralised[METRIC])}: the two intervals overlap."
        )
    side = "more" if gap > 0 else "less"
    return f"Training on all cells in one place gives {formatting.points(gap)} {side}."
