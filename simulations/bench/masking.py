"""`hemofed bench masking`: what a masked sum costs a site and the server, beside no masks.

A site is compared with one that adds the whole noise by itself and sends float32; the server with
the running mean of as many float32 updates. Each contestant is a fresh process, so that its peak
memory is its own. All sites together expect 512 units a round, and one may collude. Up to 100 sites
all mask with all; of 1,000 one third may collude, and each masks along a random graph.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

from common.files import write_text
from common.privacy.masking.neighbours import degree_for
from simulations.bench.harness import Measure, in_turn, report, said_by
from simulations.bench.masking_contestant import constants

SIZES = (6_000, 11_200_000)
"""A head on features, and a ResNet-18."""
SITES = (5, 10, 30, 100)
MANY = 1_000

_SITE = {
    "noise alone, float32": "local",
    "share, masks, packed": "masked",
    "the masks of it": "masks",
}
_SERVER = {"running mean": "mean", "masked sum": "sum"}


def run(quick: bool, json_file: Path | None) -> None:
    """Measure all numbers of sites and sizes; print, and write JSON to `json_file` if given.

    With `quick`, 5 and 10 sites and a tenth of the values, twice each instead of five times.
    """
    results = []
    for size in (SIZES[0], SIZES[1] // 10) if quick else SIZES:
        for sites in SITES[:2] if quick else SITES:
            results.append(_table(_SITE, "one site", size, sites, sites - 1, quick))
            results.append(_table(_SERVER, "the server", size, sites, sites - 1, quick))
        if not quick:
            peers = degree_for(MANY, MANY // 3)
            results.append(_table(_SITE, "one site", size, MANY, peers, quick))
    if json_file:
        write_text(json_file, json.dumps(results, indent=2))


def _table(
    kinds: dict[str, str], who: str, size: int, sites: int, peers: int, quick: bool
) -> dict[str, Any]:
    contestants: dict[str, Measure] = {
        name: partial(_measure, kind, size, sites, peers) for name, kind in kinds.items()
    }
    title = (
        f"{size:,} values, {who} of {sites:,}, each masks with {peers}; "
        f"{constants(size, sites).bits} bits"
    )
    outcomes = in_turn(contestants, repetitions=2 if quick else 5, warmup=0)
    return report(title, outcomes, next(iter(kinds)), None)


def _measure(kind: str, size: int, sites: int, peers: int) -> dict[str, float]:
    """Run a contestant once in a fresh process, and return its figures."""
    module = "simulations.bench.masking_contestant"
    return said_by(module, kind, str(size), str(sites), str(peers))
