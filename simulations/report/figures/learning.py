"""Shows balanced accuracy by round, at each site and over all sites."""

from matplotlib.axes import Axes

from common.pages.label_placement import spread
from simulations.report import formatting
from simulations.report.chart import (
    ACCENT,
    INK,
    MANY_SITES,
    MUTED,
    SITE_COLOURS,
    Chart,
    canvas,
    percent_axis,
    png,
    round_axis,
)
from simulations.report.run_folder import Run

METRIC = "balanced_accuracy"
Curve = tuple[list[int], list[float]]


def curve(run: Run, site: str | None) -> Curve:
    """Return the evaluated rounds and their balanced accuracies at `site`; None: over all sites."""
    rounds, values = [], []
    for number, evaluation in run.evaluations:
        part = evaluation["global"] if site is None else evaluation["sites"].get(site)
        value = part.get(METRIC) if part else None
        if value is not None:
            rounds.append(number)
            values.append(float(value))
    return rounds, values


def chart(run: Run) -> Chart | None:
    """Draw balanced accuracy by round; None if there is no evaluation over all sites."""
    overall = curve(run, None)
    if not overall[0]:
        return None
    sites = {name: found for name in run.sites if (found := curve(run, name))[0]}
    figure, axes = canvas(5.4, 3.2)
    if len(sites) > MANY_SITES:
        for rounds, values in sites.values():
            axes.plot(rounds, values, color=MUTED, linewidth=0.7, alpha=0.35)
        labels = [("all sites", overall[1][-1], ACCENT)]
    else:
        labels = _lines(run, axes, sites)
        labels.append(("all sites", overall[1][-1], ACCENT))
    marker = "o" if len(overall[0]) <= 15 else ""
    axes.plot(*overall, color=ACCENT, linewidth=2.6, marker=marker, markersize=4, zorder=4)
    _finish(run, axes, overall, labels)
    return Chart(
        name="learning",
        title="Learning, round by round",
        caption=caption(run, overall, sites),
        alt=f"Line chart of balanced accuracy by round: all sites together and {len(sites)} "
        "sites one by one.",
        png=png(figure),
        wide=True,
    )


def _lines(run: Run, axes: Axes, sites: dict[str, Curve]) -> list[tuple[str, float, str]]:
    labels = []
    for index, (name, (rounds, values)) in enumerate(sites.items()):
        colour = SITE_COLOURS[index % len(SITE_COLOURS)]
        held_out = run.sites[name]["role"] == "held_out"
        dashes = "--" if held_out else "-" if index < len(SITE_COLOURS) else ":"
        marker = "o" if len(rounds) <= 15 else ""
        axes.plot(rounds, values, dashes, color=colour, linewidth=1.3, marker=marker, markersize=2)
        labels.append(
            (formatting.short(name) + (" (held out)" if held_out else ""), values[-1], colour)
        )
    return labels


def _finish(run: Run, axes: Axes, overall: Curve, labels: list[tuple[str, float, str]]) -> None:
    single = len(overall[0]) == 1
    first, last = overall[0][0] - single, overall[0][-1]
    width = last - first
    chance = 1 / len(run.cell_types)
    percent_axis(axes, "y", 0, 1)
    axes.set_xlim(first - 0.02 * width, last + 0.02 * width)
    round_axis(axes, overall[0])
    axes.axhline(chance, color=MUTED, linewidth=0.9, linestyle=":")
    axes.annotate("chance", (first, chance), (2, 2), textcoords="offset points", color=MUTED)
    axes.axvline(run.summary["best_round"], color=ACCENT, linewidth=0.9, linestyle=":")
    axes.set_title("balanced accuracy on validation cells", fontsize=8.5, color=MUTED)
    for (text, value, colour), place in zip(
        labels, spread([label[1] for label in labels], 0.052), strict=True
    ):
        x = last + 0.02 * width
        axes.annotate(
            text,
            (x, value),
            (x + 0.06 * width, place),
            ha="left",
            va="center",
            annotation_clip=False,
            color=INK,
            fontweight="bold" if text == "all sites" else "normal",
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 1.0,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
        )


def caption(run: Run, overall: Curve, sites: dict[str, Curve]) -> str:
    rounds, values = overall
    best = run.summary["best_round"]
    chance = 1 / len(run.cell_types)
    if len(rounds) == 1:
        text = f"Evaluated once, after round {rounds[0]}: {formatting.percent(values[0])}."
    else:
        text = (
            f"Over all sites, balanced accuracy goes from {formatting.percent(values[0])} at round "
            f"{rounds[0]} to {formatting.percent(values[-1])} at round {rounds[-1]}; the model "
            f"kept is round {best}'s (dotted upright line). {_tail(rounds, values)}"
        )
    parts = [text, f"Chance is {formatting.percent(chance)} (dotted)."]
    ends = sorted((values[-1], name) for name, (_, values) in sites.items())
    if len(ends) > 1:
        parts.append(
            f"At the end {ends[-1][1]} is ahead ({formatting.percent(ends[-1][0])}) and "
            f"{ends[0][1]} behind ({formatting.percent(ends[0][0])})."
        )
    held_out = [name for name in run.held_out if name in sites]
    if held_out:
        parts.append(f"{formatting.listing(held_out)} took no part in training (dashed).")
    if len(sites) > MANY_SITES:
        parts.append(f"Each grey line is one of {len(sites)} sites.")
    return " ".join(parts)


def _tail(rounds: list[int], values: list[float]) -> str:
    """Return a sentence on whether balanced accuracy still rises in the last quarter."""
    start = max(0, len(values) - 1 - max(1, len(values) // 4))
    change = values[-1] - values[start]
    span = f"Since round {rounds[start]} it has "
    if len(values) < 4:
        return "Too few evaluations to say whether it has levelled off."
    if change > 0.01:
        return f"{span}risen by {formatting.points(change)}: more rounds may still help."
    if change < -0.01:
        return f"{span}fallen by {formatting.points(change)}."
    return f"{span}levelled off (a change of {formatting.points(change)})."
