"""Draws a plan as a picture."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from common.files import replacing
from common.pages.label_placement import spread
from common.privacy.planning.plan import PrivacyPlan
from common.privacy.planning.threat_models import AdversaryView

_LOCAL = "#2b6cb0"
_DISTRIBUTED = ("#2f855a", "#b7791f", "#6b46c1")
"""The colours of the adversaries, from the weakest to the second strongest."""
_STRONGEST = "#c53030"
_LINE_HEIGHT = 0.055
"""The height of a label, as a share of the axes' height."""


def draw(plan: PrivacyPlan, path: Path) -> None:
    """Write a PNG with two charts to `path`, whole or not at all.

    They show epsilon by round against each adversary, and a patient's epsilon by the number of the
    patient's images.
    """
    figure = Figure(figsize=(12, 5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(7, 4))
    _draw_rounds(plan, left)
    names, each = zip(*((str(images), value) for images, value in plan.by_patient), strict=True)
    bars = right.bar(names, each, color="#c05621")
    right.bar_label(bars, fmt="{:.3g}")
    right.set_yscale("log")
    right.margins(y=0.15)
    right.set(xlabel="images of one patient", ylabel="epsilon of that patient")
    right.set_title("To a patient, where the whole noise is left")
    figure.suptitle(f"{plan.study}: noise multiplier {plan.noise_multiplier:.4g}")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _draw_rounds(plan: PrivacyPlan, axes: Axes) -> None:
    top = 1.08 * max(plan.epsilon_asked, *(view.epsilon for view in plan.views))
    axes.set(xlabel="rounds done", ylabel=f"epsilon at delta {plan.delta:g}", ylim=(0, top))
    axes.set_xlim(0, plan.rounds + plan.spare_rounds)
    axes.set_title(f"Each site, per {plan.unit}, by who attacks it{_sharing(plan)}", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    middle = (plan.rounds / 2, plan.epsilon_asked)
    axes.axhline(plan.epsilon_asked, linestyle=":", color="#718096")
    axes.annotate("asked", middle, xytext=(0, 3), textcoords="offset points")
    colours = [_LOCAL, *_DISTRIBUTED[: len(plan.views) - 2], _STRONGEST]
    heights = spread([view.epsilon / top for view in plan.views], _LINE_HEIGHT)
    for view, colour, height in zip(plan.views, colours, heights, strict=True):
        _draw_view(view, axes, colour, height)


def _sharing(plan: PrivacyPlan) -> str:
    forecast = "; a forecast" if plan.forecast else ""
    return (
        f"\ndistributed: {plan.cohort.sites} sites, each 1/sqrt({plan.cohort.shares}) of the "
        f"noise{forecast}"
    )


def _draw_view(view: AdversaryView, axes: Axes, colour: str, height: float) -> None:
    """Draw a view's curve, and a label beside its end, at `height` as a share of the axes' height.

    The curve of local mode is wide and pale, so that others on it stay visible.
    """
    rounds, spent = zip(*view.by_round, strict=True)
    local = view.mode == "local"
    axes.plot(
        rounds,
        spent,
        color=colour,
        linewidth=5 if local else 1.5,
        alpha=0.5 if local else 1,
        marker="o",
        markersize=3,
        clip_on=False,
    )
    axes.annotate(
        f"{view.mode}: {view.adversary}, {view.epsilon:.3g}",
        (rounds[-1], view.epsilon),
        xytext=(1.04, height),
        textcoords="axes fraction",
        color=colour,
        verticalalignment="center",
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "relpos": (0, 0.5)},
    )
