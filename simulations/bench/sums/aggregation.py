"""`hemofed bench aggregation`: the aggregation of a round's updates, beside stock Flower's FedAvg.

Each contestant is a fresh process, so that its peak memory is its own. Both start from serialised
replies, deserialise and aggregate them. FedAvg gets its replies in a list, as its strategy does,
and the running mean gets them one at a time, as the rounds do.
"""

import json
from functools import partial
from pathlib import Path

from common.files import write_text
from simulations.bench.harness import Measure, in_turn, report, said_by

_CONTESTANTS = {
    "Flower FedAvg": "layers",
    "Flower FedAvg, one tensor": "flat",
    "hemofed running mean": "mean",
}


def run(quick: bool, json_file: Path | None) -> None:
    """Measure 2, 10 and 50 sites; print the seconds and the peak memory above that at the start.

    With `quick`, 50 sites are left out. The results are also written to `json_file`, if given.
    """
    results = {}
    for sites in (2, 10) if quick else (2, 10, 50):
        contestants: dict[str, Measure] = {
            name: partial(_measure, kind, sites) for name, kind in _CONTESTANTS.items()
        }
        outcomes = in_turn(contestants, repetitions=3 if quick else 5, warmup=0)
        title = f"{sites} updates of a ResNet-18"
        results[str(sites)] = report(title, outcomes, "Flower FedAvg", None)
    if json_file:
        write_text(json_file, json.dumps(results, indent=2))


def _measure(kind: str, sites: int) -> dict[str, float]:
    """Run a contestant once in a fresh process, and return its figures."""
    return said_by("simulations.bench.sums.aggregation_contestant", kind, str(sites))
