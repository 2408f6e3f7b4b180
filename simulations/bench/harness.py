"""Measures contestants in turn in one run, and reports medians, ratios and the machine.

Single times mean little, because the machine is shared. So every contestant runs once per
repetition, in turn, and its ratio to a reference in the same run is what is compared.
"""

import json
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from common.files import write_text
from common.process_hardening import python
from simulations.host_info import machine

Measure = Callable[[], dict[str, float]]
"""Runs a contestant once and returns figure -> value; the ratios compare "seconds"."""

Say = Callable[[], dict[str, Any]]
"""Runs a contestant's process and returns the JSON that it prints last."""


@dataclass
class Samples:
    """The samples of one contestant: figure -> its values, in order."""

    name: str
    samples: dict[str, list[float]] = field(default_factory=dict)

    def median(self, figure: str) -> float:
        """Return the median of a figure's values."""
        return statistics.median(self.samples[figure])


def in_turn(contestants: dict[str, Measure], repetitions: int, warmup: int = 1) -> list[Samples]:
    """Run all contestants in turn, A B C A B C ..., and return their samples.

    The first `warmup` runs of each are not kept; the `repetitions` after them are.

    >>> in_turn({"a": lambda: {"seconds": 1.0}}, repetitions=2)
    [Samples(name='a', samples={'seconds': [1.0, 1.0]})]
    """
    outcomes = {name: Samples(name) for name in contestants}
    for repetition in range(-warmup, repetitions):
        for name, measure in contestants.items():
            figures = measure()
            if repetition >= 0:
                for figure, value in figures.items():
                    outcomes[name].samples.setdefault(figure, []).append(value)
    return list(outcomes.values())


def said_by(
    module: str,
    *arguments: str,
    environment: dict[str, str] | None = None,
    interpreter: Path | None = None,
) -> dict[str, Any]:
    """Run `python -m module` in a fresh process, and return the JSON that it prints last.

    The process has this one's environment and interpreter unless others are given.

    Raises:
        RuntimeError: the process failed.
    """
    command = python("-m", module, *arguments)
    if interpreter:
        command[0] = str(interpreter)
    done = subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def report(
    title: str, outcomes: list[Samples], reference: str, json_file: Path | None
) -> dict[str, Any]:
    """Print a table of medians and of ratios of seconds to `reference`, and return `record`.

    The record and the machine are also written to `json_file`, if given.
    """
    base = _named(outcomes, reference).median("seconds")
    figures = list(dict.fromkeys(name for outcome in outcomes for name in outcome.samples))
    table = Table("contestant", *figures, f"x {reference}", title=title)
    for outcome in outcomes:
        cells = [f"{outcome.median(f):.4g}" if f in outcome.samples else "" for f in figures]
        table.add_row(outcome.name, *cells, f"{outcome.median('seconds') / base:.2f}")
    console = Console()
    console.print(table)
    console.print("  ".join(f"{key}: {value}" for key, value in machine().items()), style="dim")
    content = {"machine": machine(), **record(title, outcomes, reference)}
    if json_file:
        write_text(json_file, json.dumps(content, indent=2))
    return content


def record(title: str, outcomes: list[Samples], reference: str) -> dict[str, Any]:
    """Return all samples, the medians, and the ratios of seconds to `reference`, for JSON."""
    base = _named(outcomes, reference).median("seconds")
    return {
        "title": title,
        "reference": reference,
        "contestants": {
            outcome.name: {
                "samples": outcome.samples,
                "medians": {figure: outcome.median(figure) for figure in outcome.samples},
                "ratio": outcome.median("seconds") / base,
            }
            for outcome in outcomes
        },
    }


def _named(outcomes: list[Samples], name: str) -> Samples:
    return next(outcome for outcome in outcomes if outcome.name == name)
