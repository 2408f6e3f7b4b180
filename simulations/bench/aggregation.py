"""`hemofed bench aggregation`: a round's updates into one, beside stock Flower's FedAvg.

Each contestant is a fresh process, so that its peak memory is its own. Both start from replies as
they lie on the wire, deserialise them, and aggregate; FedAvg gets its replies in a list, as its
strategy does, and the running mean one at a time, as the rounds do.
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
    """Print, for 2, 10 and 50 sites: seconds to aggregate, and peak memory above the start's."""
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
    """One run of a contestant in a fresh process."""
    return said_by("simulations.bench.aggregation_contestant", kind, str(sites))
