"""The plan as a picture."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from common.files import replacing
from common.privacy.plan import Plan


def draw(plan: Plan, path: Path) -> None:
    """Write a PNG: epsilon by round, and by a patient's number of images."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    rounds, values = zip(*plan.by_round, strict=True)
    left.plot(rounds, values, marker="o", color="#2b6cb0")
    left.axhline(plan.epsilon_asked, linestyle="--", color="#718096")
    left.annotate(
        "asked", (rounds[0], plan.epsilon_asked), xytext=(0, 3), textcoords="offset points"
    )
    left.set(xlabel="rounds done", ylabel=f"epsilon at delta {plan.delta:g}", ylim=(0, None))
    left.set_title(f"Each site, per {plan.unit}")
    names, each = zip(*((str(images), value) for images, value in plan.by_patient), strict=True)
    bars = right.bar(names, each, color="#c05621")
    right.bar_label(bars, fmt="{:.3g}")
    right.set_yscale("log")
    right.margins(y=0.15)
    right.set(xlabel="images of one patient", ylabel="epsilon of that patient")
    right.set_title("What it is worth to a patient")
    figure.suptitle(f"{plan.study}: noise multiplier {plan.noise_multiplier:.4g}")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
