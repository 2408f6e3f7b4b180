"""The answer that needs no model: the commonest type of the test cells, always."""

from typing import Any

import numpy as np

from common.metrics import Tally
from simulations.report import words


def always(summary: dict[str, Any]) -> tuple[str, dict[str, float | None]]:
    """The commonest type, and the metrics of naming it for each test cell of the training sites."""
    support = np.asarray(summary["confusion"], np.int64).sum(1)
    confusion = np.zeros((len(support), len(support)), np.int64)
    confusion[:, support.argmax()] = support
    return summary["cell_types"][support.argmax()], Tally.of_confusion(confusion).metrics()


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
        f"The model's accuracy, {words.percent(accuracy)}, is {how} the {words.percent(share)} of "
        f"naming every test cell {words.cell(name)}, the commonest type."
    )
