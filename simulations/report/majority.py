"""The baseline without a model: always answering the most frequent type of the test cells."""

from typing import Any

import numpy as np

from common.metrics import Tally
from simulations.report import formatting


def always(summary: dict[str, Any]) -> tuple[str, dict[str, float | None]]:
    """Return the most frequent type, and the metrics of answering it for every test cell.

    The test cells are those of the training sites, as summary.json (`summary`) counts them.

    >>> name, metrics = always({"confusion": [[3, 0], [1, 0]], "cell_types": ["a", "b"]})
    >>> name, metrics["accuracy"], metrics["balanced_accuracy"]
    ('a', 0.75, 0.5)
    """
    support = np.asarray(summary["confusion"], np.int64).sum(1)
    labels = np.repeat(np.arange(len(support)), support)
    named = np.eye(len(support))[np.full(len(labels), support.argmax())]
    # It gives no confidence, so it has no calibration error.
    return summary["cell_types"][support.argmax()], Tally.of(named, labels).metrics() | {
        "ece": None
    }


def no_better(summary: dict[str, Any]) -> str | None:
    """Return a sentence if the model's accuracy is not surely above that baseline's, else None."""
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
