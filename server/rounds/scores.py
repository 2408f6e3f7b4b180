"""What the sites' counts of an evaluation come to, together and one by one."""

from collections.abc import Mapping
from typing import Any

from common.wire.messages import Counted
from server.rounds.record import Scores


def scores(pooled: Counted, tallies: Mapping[str, Counted]) -> Scores:
    """The record's lines: the pooled counts with their intervals, and each site's."""
    return {
        "global": _figures(pooled) | {"intervals": pooled.intervals()},
        "sites": {site: _figures(tally) for site, tally in tallies.items()},
    }


def _figures(tally: Counted) -> dict[str, Any]:
    """A tally's metrics, and its recall of each class, in the order of the study's types.

    None: no cells, or noise that hides the figure.
    """
    return {**tally.metrics(), "recall": tally.recalls()}
