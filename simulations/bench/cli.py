"""`hemofed bench NAME`: contestants measured in turn in one run."""

from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer


class Bench(StrEnum):
    """What can be measured."""

    ROUNDS = "rounds"
    PRIVATE = "private"
    DEPLOY = "deploy"
    DATA = "data"
    CHECK = "check"
    CLIPPING = "clipping"
    NOISE = "noise"
    AUDIT = "audit"
    AGGREGATION = "aggregation"
    COMPANY = "company"
    SCORES = "scores"


def bench(
    name: Annotated[Bench, typer.Argument(help="What to measure.")],
    quick: Annotated[bool, typer.Option(help="Fewer repetitions and smaller cases.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write JSON.")] = None,
) -> None:
    """Measure hemofed beside its alternatives, in turn in one run: medians, ratios, machine."""
    import_module(f"simulations.bench.{name.value}").run(quick, json_file)
