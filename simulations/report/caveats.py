"""The caveats that a reader should know before believing a run's figures."""

from typing import Any

from simulations.report import formatting
from simulations.report.majority import no_better


def caveats(summary: dict[str, Any]) -> list[str]:
    """Return sentences on doubts about the run: its accuracy, its privacy, its validation cells.

    Args:
        summary: the content of summary.json.
    """
    privacy = summary["privacy"] or {}
    found = [no_better(summary), *privacy.get("doubts", ()), unjudged(summary)]
    return [sentence for sentence in found if sentence]


def unjudged(summary: dict[str, Any]) -> str | None:
    """Return a sentence if training sites lack validation cells, and None if all have some."""
    training = {name: site for name, site in summary["sites"].items() if site["role"] == "train"}
    lacking = [name for name, site in training.items() if not site["n_validation"]]
    if not lacking:
        return None
    if len(lacking) == len(training):
        return (
            "No training site has validation cells: early stop and the choice of the best round "
            "had nothing to judge by, so the last round's model was kept."
        )
    verb = "has" if len(lacking) == 1 else "have"
    return (
        f"{formatting.listing(lacking, 8)} {verb} no validation cells: early stop and the choice "
        "of the best round were judged without them."
    )
