"""Shows the epsilon that each site has spent, by round."""

import math

from simulations.report import formatting
from simulations.report.chart import (
    ACCENT,
    MUTED,
    ROSE,
    SITE_COLOURS,
    Chart,
    canvas,
    png,
    round_axis,
)
from simulations.report.run_folder import Run


def spent(run: Run) -> dict[str, tuple[list[int], list[float]]]:
    """Return site -> (rounds, the epsilon spent by the end of each)."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    for one in run.rounds:
        for name, site in one.sites.items():
            if site.epsilon is not None:
                rounds, values = found.setdefault(name, ([], []))
                rounds.append(one.round)
                values.append(site.epsilon)
    return found


def chart(run: Run) -> Chart | None:
    """Draw each site's epsilon; None if the run has no privacy or no site has spent any."""
    found = spent(run)
    if not run.private or not found:
        return None
    budget = run.agreed
    figure, axes = canvas(5.0, 3.1)
    alike = _alike(found)
    for index, (rounds, values) in enumerate(found.values()):
        colour = ACCENT if alike else SITE_COLOURS[index % len(SITE_COLOURS)]
        name = "every site" if alike else formatting.short(list(found)[index])
        marker = "o" if len(rounds) == 1 else ""
        label = name if (not alike and index < len(SITE_COLOURS)) or not index else None
        axes.plot(rounds, values, color=colour, linewidth=1.8, marker=marker, label=label)
    axes.axhline(budget, color=ROSE, linewidth=1.2, linestyle="--", label="agreed")
    top = max(budget, *(max(values) for _, values in found.values()))
    axes.set_ylim(0, top * 1.1)
    round_axis(axes)
    axes.grid(axis="y")
    axes.set_title(
        f"ε spent, at δ = {formatting.tiny(run.summary['privacy']['delta'])}",
        fontsize=8.5,
        color=MUTED,
    )
    axes.legend(loc="lower right", frameon=False)
    return Chart(
        name="epsilon",
        title="Privacy spent, round by round",
        caption=caption(run, found, budget),
        alt=f"Line chart of epsilon by round for {len(found)} sites, with the agreed {budget:g}.",
        png=png(figure),
    )


def _alike(found: dict[str, tuple[list[int], list[float]]]) -> bool:
    """Return whether all sites spent the same epsilon in every round, up to a thousandth of it."""
    first, *others = found.values()
    return all(
        other[0] == first[0]
        and all(math.isclose(a, b, rel_tol=1e-3) for a, b in zip(other[1], first[1], strict=True))
        for other in others
    )


def caption(run: Run, found: dict[str, tuple[list[int], list[float]]], budget: float) -> str:
    ends = {name: values[-1] for name, (_, values) in found.items()}
    low, high = min(ends.values()), max(ends.values())
    rounds = max(rounds[-1] for rounds, _ in found.values())
    if high - low < 0.005 * max(high, 1e-9):
        parts = [f"After round {rounds} every site has spent ε = {high:.2f} of {budget:g}."]
    else:
        most = max(ends, key=lambda name: ends[name])
        parts = [
            f"After round {rounds} the sites have spent between ε = {low:.2f} and {high:.2f} "
            f"({most}) of {budget:g}."
        ]
    parts.append(
        "The agreed amount was not exceeded."
        if high <= budget * (1 + 1e-6)
        else "The agreed amount was exceeded: do not release this model."
    )
    first = min(values[0] for _, values in found.values())
    if rounds > 2 and first > high / rounds * 2:
        parts.append("The curve is steep first and flattens: noise from many rounds adds slowly.")
    return " ".join(parts)
