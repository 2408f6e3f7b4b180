"""The answer that needs no model: the commonest type of the test cells, always."""

from typing import Any

import numpy as np

from common.metrics import Tally
from simulations.report import formatting


def always(summary: dict[str, Any]) -> tuple[str, dict[str, float | None]]:
    """The commonest type, and the metrics of naming it for each test cell of the training sites."""
    support = np.asarray(summary["confusion"], np.int64).sum(1)
    labels = np.repeat(np.arange(len(support)), support)
    named = np.eye(len(support))[np.full(len(labels), support.argmax())]
    # It says nothing of how sure it is, so nothing of that can be right or wrong.
    return summary["cell_types"][support.argmax()], Tally.of(named, labels).metrics() | {
        "ece": None
    }


def no_better(summary: dict[str, Any]) -> str | None:
    """A sentence where the model's accuracy is not surely above that; None where it is."""
    name, figures = always(summary)
    accuracy, share = summary["accuracy"], figures["accuracy"]
    if accuracy is None or share is None:
        return None
    bounds = (summary.get("intervals") or {}).get("accuracy")
    if (bounds[0] if bounds else accuracy) > share:
        return None
    how = "not above" if accuracy <= share else "not surely above"
    return (
        f"The model's accuracy, {formatting.percent(accuracy)}, is {how} the "
        f"{formatting.percent(share)} of naming every test cell {formatting.cell(name)}, "
        "the commonest type."
    )
