"""Contestants measured in turn in one run: medians, ratios, and the machine.

The machine is shared, so single times mean little: every contestant runs once a repetition, in
turn, and what is compared is the ratio to the reference inside the same run.
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
"""Runs a contestant once and returns what it measured, by name; "seconds" is compared."""


@dataclass
class Samples:
    """What one contestant measured: each figure's samples, in order."""

    name: str
    samples: dict[str, list[float]] = field(default_factory=dict)

    def median(self, figure: str) -> float:
        return statistics.median(self.samples[figure])


def in_turn(contestants: dict[str, Measure], repetitions: int, warmup: int = 1) -> list[Samples]:
    """Run every contestant `warmup + repetitions` times, A B C A B C ...; keep the latter."""
    outcomes = {name: Samples(name) for name in contestants}
    for repetition in range(-warmup, repetitions):
        for name, measure in contestants.items():
            figures = measure()
            if repetition >= 0:
                for figure, value in figures.items():
                    outcomes[name].samples.setdefault(figure, []).append(value)
    return list(outcomes.values())


def said_by(
    module: str, *arguments: str, environment: dict[str, str] | None = None
) -> dict[str, Any]:
    """What `python -m module` prints last, as JSON; a fresh process, in this one's environment if
    none is given. RuntimeError: it failed."""
    command = python("-m", module, *arguments)
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
    """Print medians, with the ratio of seconds to `reference`; return them, written if asked."""
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
    """All samples, medians, and each ratio of seconds to `reference`, for JSON."""
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
