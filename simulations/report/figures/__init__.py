"""The report's figures. Each has a module that draws it and writes its caption from the numbers."""

from collections.abc import Callable

from simulations.report.chart import Chart
from simulations.report.figures import (
    baselines,
    cells,
    confusion,
    epsilon,
    examples,
    gains,
    learning,
    per_class,
)
from simulations.report.run_folder import Run

FIGURES: dict[str, Callable[[Run], Chart | None]] = {
    "cells": cells.chart,
    "learning": learning.chart,
    "baselines": baselines.chart,
    "gains": gains.chart,
    "confusion": confusion.chart,
    "per_class": per_class.chart,
    "epsilon": epsilon.chart,
    "examples": examples.chart,
}
"""Name -> the function that draws a run's figure, or returns None if it has nothing to show."""
