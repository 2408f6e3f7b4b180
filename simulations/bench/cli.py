"""`hemofed bench NAME`: measures contestants in turn in one run."""

from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer


class Bench(StrEnum):
    """The names of the benchmarks."""

    ROUNDS = "rounds"
    PRIVATE = "private"
    DEPLOY = "deploy"
    DATA = "data"
    CHECK = "check"
    CLIPPING = "clipping"
    NOISE = "noise"
    AUDIT = "audit"
    AGGREGATION = "aggregation"
    MASKING = "masking"
    COMPANY = "company"
    SCORES = "scores"
    GPU = "gpu"


_IN_ROOMS = {
    Bench.DEPLOY: "deploy.rounds",
    Bench.CLIPPING: "clipping.steps",
    Bench.COMPANY: "clipping.company",
    Bench.AGGREGATION: "sums.aggregation",
    Bench.MASKING: "sums.masking",
}
"""Where a benchmark is that has a folder; any other is in the module of its name."""


def bench(
    name: Annotated[Bench, typer.Argument(help="What to measure.")],
    quick: Annotated[bool, typer.Option(help="Fewer repetitions and smaller cases.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write JSON.")] = None,
    device: Annotated[
        str | None, typer.Option(help="For gpu: cuda:1, say, or with --quick cpu, to try the code.")
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            help="For rounds: pfl=PYTHON or blazefl=PYTHON, the interpreter of an environment that "
            "has pfl-research or BlazeFL; for masking: fedbiomed=PYTHON. `--peer pfl=` tells the "
            "commands that make one."
        ),
    ] = None,
) -> None:
    """Measure hemofed and its alternatives in turn in one run; print medians and their ratios."""
    if device is not None and name != Bench.GPU:
        raise typer.BadParameter("--device is for gpu")
    if peer and name not in (Bench.ROUNDS, Bench.MASKING):
        raise typer.BadParameter("--peer is for rounds and masking")
    named: dict[str, Any] = {} if device is None else {"device": device}
    if peer:
        named["peers"] = peer
    module = _IN_ROOMS.get(name, name.value)
    import_module(f"simulations.bench.{module}").run(quick, json_file, **named)
