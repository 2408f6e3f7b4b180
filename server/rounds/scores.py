"""Computes the scores of an evaluation from the sites' counts, pooled and per site."""

from collections.abc import Mapping
from typing import Any

from common.wire.messages import Counted
from server.rounds.record import Scores


def scores(pooled: Counted, tallies: Mapping[str, Counted]) -> Scores:
    """Return the scores for the record of a round.

    Args:
        pooled: the sum of the training sites' counts.
        tallies: site -> its counts.

    Returns:
        Metrics and intervals of `pooled` under "global", and each site's metrics under "sites".
    """
    return {
        "global": _figures(pooled) | {"intervals": pooled.intervals()},
        "sites": {site: _figures(tally) for site, tally in tallies.items()},
    }


def _figures(tally: Counted) -> dict[str, Any]:
    """Return a tally's metrics, and its recall per class in the order of the study's cell types.

    A figure is None if there are no cells, or if noise hides it.
    """
    return {**tally.metrics(), "recall": tally.recalls()}
