"""`hemofed bench masking`: what a masked sum costs a site and the server, beside no masks.

A site is compared with one that adds the whole noise by itself and sends float32; the server with
the running mean of as many float32 updates. Each contestant is a fresh process, so that its peak
memory is its own. All sites together expect 512 units a round, and one may collude. Up to 100 sites
all mask with all; of 1,000 one third may collude, and each masks along a random graph.

Of 5, 10 and 30 sites, Flower's SecAgg+ does the same (`secagg_plus`), and with `--peer` other
frameworks (`masking_peers`); and one site is lost after the keys were agreed, by hemofed's protocol
and by double masking (`dropout_contestant`). What that costs in privacy comes last (`debits`).
"""

import json
import tempfile
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common.files import write_text
from common.privacy.masking.neighbours import degree_for
from simulations.bench.harness import Measure, in_turn, report, said_by
from simulations.bench.peer_frameworks import Peer
from simulations.bench.sums.debits import debits
from simulations.bench.sums.masking_contestant import constants
from simulations.bench.sums.masking_peers import FRAMEWORKS

SIZES = (6_000, 11_200_000)
"""A head on features, and a ResNet-18."""
SITES = (5, 10, 30, 100)
MANY = 1_000
COMPARED = (5, 10, 30)
"""Sites of the sums that other frameworks make, too, and that a site is lost from."""

_KINDS = {
    "site": {
        "noise alone, float32": "local",
        "share, masks, packed": "masked",
        "the masks of it": "masks",
    },
    "server": {"running mean": "mean", "masked sum": "sum"},
}
_CALLED = {"site": "one site", "server": "the server"}
_PROTOCOLS = {"begun again": "again", "double masking": "shares"}
_AWAY = {"nobody away": 0, "one away": 1}


def run(quick: bool, json_file: Path | None, peers: Sequence[str] = ()) -> None:
    """Measure all numbers of sites and sizes; print, and write JSON to `json_file` if given.

    With `quick`, 5 and 10 sites and a tenth of the values, twice each instead of five times; beside
    `peers`, which are slow, three times. `peers` are each NAME=PYTHON, as on the command line.

    Raises ConfigError: one names no peer, or its interpreter has not what the peer needs.
    """
    others = [Peer.named(text, FRAMEWORKS) for text in peers]
    repetitions = 2 if quick else 3 if others else 5
    sizes = (SIZES[0], SIZES[1] // 10) if quick else SIZES
    sums = [(sites, sites - 1) for sites in (SITES[:2] if quick else SITES)]
    with tempfile.TemporaryDirectory() as folder:
        results = [
            table
            for size in sizes
            for sites, masks_with in sums
            for table in _tables(size, sites, masks_with, others, Path(folder), repetitions)
        ]
    if not quick:
        masks_with = degree_for(MANY, MANY // 3)
        for size in sizes:
            entries = _own("site", size, MANY, masks_with)
            results.append(_measured("site", size, MANY, masks_with, entries, repetitions))
    results.append(debits())
    if json_file:
        write_text(json_file, json.dumps(results, indent=2))


def _tables(
    size: int, sites: int, masks_with: int, peers: Sequence[Peer], folder: Path, repetitions: int
) -> list[dict[str, Any]]:
    """What a site does, what the server does, and both where a site may be lost."""
    tables = []
    for who in _CALLED:
        entries = _own(who, size, sites, masks_with)
        if sites in COMPARED:
            entries |= {_flower(): _said("secagg_plus", size, sites, who)}
            for peer in peers:
                entries |= peer.entries(folder, str(size), str(sites), who)
        tables.append(_measured(who, size, sites, masks_with, entries, repetitions))
    if sites in COMPARED:
        for who in _CALLED:
            lost = _lost(who, size, sites)
            tables.append(_measured(who, size, sites, masks_with, lost, repetitions))
    return tables


def _own(who: str, size: int, sites: int, masks_with: int) -> dict[str, Measure]:
    return {
        name: _said("masking_contestant", kind, size, sites, masks_with)
        for name, kind in _KINDS[who].items()
    }


def _lost(who: str, size: int, sites: int) -> dict[str, Measure]:
    """Both protocols with nobody away and with one; Flower's server with one.

    A site that begins again needs its clipped sum afresh: what that takes has a row of its own.
    """
    entries = {
        f"{protocol}, {how}": _said("dropout_contestant", size, sites, who, by, away)
        for protocol, by in _PROTOCOLS.items()
        for how, away in _AWAY.items()
    }
    if who == "site":
        entries["the clipped sum"] = _said("dropout_contestant", size, sites, who, "gradients", 1)
    else:
        entries[f"{_flower()}, one away"] = _said("secagg_plus", size, sites, "server-away")
    return entries


def _flower() -> str:
    return f"Flower {version('flwr')}, SecAgg+"


def _said(contestant: str, *arguments: object) -> Measure:
    """Runs a contestant once in a fresh process, and returns its figures."""
    return partial(said_by, f"simulations.bench.sums.{contestant}", *map(str, arguments))


def _measured(
    who: str, size: int, sites: int, masks_with: int, entries: dict[str, Measure], repetitions: int
) -> dict[str, Any]:
    title = (
        f"{size:,} values, {_CALLED[who]} of {sites:,}, each masks with {masks_with}; "
        f"{constants(size, sites).bits} bits"
    )
    outcomes = in_turn(entries, repetitions=repetitions, warmup=0)
    return report(title, outcomes, next(iter(entries)), None)
