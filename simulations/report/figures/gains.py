"""Compares, on each site's own cells, the federated model with the site's own model."""

from typing import Any

from matplotlib.axes import Axes

from simulations.report import formatting
from simulations.report.chart import (
    ACCENT,
    MANY_SITES,
    MUTED,
    ROSE,
    Chart,
    canvas,
    percent_axis,
    png,
)
from simulations.report.run_folder import Run

METRIC = "balanced_accuracy"
FEW = 30
"""A site with fewer test cells than this gets a warning in the caption."""
Pair = tuple[str, float, float]
"""(site, balanced accuracy of its own model, that of the federated model), on its test cells."""


def pairs(run: Run) -> list[Pair]:
    """Return the sites that have both scores, the largest gain first."""
    found = []
    for name, part in (run.local_only or {"sites": {}})["sites"].items():
        alone, shared = part["own"][METRIC], run.sites[name][METRIC]
        if alone is not None and shared is not None:
            found.append((name, float(alone), float(shared)))
    return sorted(found, key=lambda pair: pair[1] - pair[2])


def chart(run: Run) -> Chart | None:
    """Draw both scores of each site; None if no site has both."""
    found = pairs(run)
    if not found:
        return None
    few = len(found) <= MANY_SITES
    figure, axes = canvas(5.0, 1.0 + (0.3 * max(len(found), 4) if few else 3.2))
    _draw(axes, found)
    if few:
        axes.set_yticks(range(len(found)), [formatting.short(name) for name, _, _ in found])
    else:
        axes.set_yticks([])
        axes.set_ylabel(f"{len(found)} sites, largest gain first")
    axes.set_ylim(len(found) - 0.5, -0.5)
    percent_axis(axes, "x")
    axes.set_title("balanced accuracy, the site's own test cells", fontsize=8.5, color=MUTED)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, frameon=False)
    return Chart(
        name="gains",
        title="What each site gains for its own cells",
        caption=caption(found, {name: run.sites[name]["n_test"] for name, _, _ in found}),
        alt=f"Dot chart for {len(found)} sites: balanced accuracy of the site's own model and of "
        "the federated model on the site's own test cells.",
        png=png(figure),
    )


def _draw(axes: Axes, found: list[Pair]) -> None:
    for place, (_, alone, shared) in enumerate(found):
        axes.plot((alone, shared), (place, place), color=ACCENT if shared >= alone else ROSE)
    places = range(len(found))
    own = [pair[1] for pair in found]
    federated = [pair[2] for pair in found]
    marks: dict[str, Any] = {
        "marker": "o",
        "markersize": 6 if len(found) <= MANY_SITES else 2.5,
        "linestyle": "",
        "clip_on": False,
    }
    hollow: dict[str, Any] = {"color": "white", "markeredgecolor": MUTED}
    axes.plot(own, places, label="its own model", **hollow, **marks)
    axes.plot(federated, places, label="federated model", color=ACCENT, **marks)


def caption(found: list[Pair], tested: dict[str, int]) -> str:
    gains = [(shared - alone, name) for name, alone, shared in found]
    better = [gain for gain, _ in gains if gain > 0]
    losers = [f"{name} (by {formatting.points(gain)})" for gain, name in gains[::-1] if gain < 0]
    number = formatting.count(len(found), "site")
    share = f"all {number}" if len(better) == len(found) else f"{len(better) or 'none'} of {number}"
    parts = [f"The shared model is better for {share}."]
    if better:
        parts.append(f"{gains[0][1]} gains the most, {formatting.points(gains[0][0])}.")
    if losers:
        parts.append(
            f"Its own model serves {formatting.listing(losers)} better, on cells like its own."
        )
    few = [name for name, number in tested.items() if number < FEW]
    if few:
        parts.append(f"Fewer than {FEW} test cells, so read with care: {formatting.listing(few)}.")
    parts.append(
        "A site's own cells are the easiest test for its own model: it need not know other "
        "stains, nor types that the site never sees."
    )
    return " ".join(parts)
