"""The report's figures: one module each, with its drawing and the caption that its numbers give."""

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
"""Name -> what draws it; None when the run has nothing to show there."""
