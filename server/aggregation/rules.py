"""The aggregation rules that a study can name."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from common.config.study import Study
from common.errors import FederationError
from common.wire.vector_codec import Vector
from server.aggregation.byzantine import Krum, Trimmed
from server.aggregation.running_mean import RunningMean


class Aggregation(Protocol):
    """Aggregates the updates of one round. No bit of the result depends on the order of arrival."""

    def add(self, site: str, update: Vector) -> float:
        """Add a site's update (P,) float32 and return its L2 norm.

        Raises:
            ModelError: the update is not finite, or its norm exceeds `round.max_update_norm`. It is
                left out.
        """
        ...

    def result(self) -> NDArray[np.float64]:
        """Return the aggregated update, (P,) float64.

        Raises:
            HemofedError: too few updates were added.
        """
        ...


def aggregation_for(study: Study, size: int) -> Aggregation:
    """Return the study's rule for one round of updates of `size` values.

    The mean weights the sites as the cohort says. The robust rules count every site the same,
    because a weight rests on the site's own claim of how much data it has, which may be a lie.

    Raises:
        FederationError: the rule is the mean and no training site has a positive weight.
    """
    spec, max_norm = study.server, study.round.max_update_norm
    bad = spec.byzantine_sites
    match spec.aggregation:
        case "mean":
            return RunningMean(size, _shares(study), max_norm)
        case "trimmed_mean":
            return Trimmed(spec, max_norm, trim=lambda _updates: bad)
        case "median":
            return Trimmed(spec, max_norm, trim=lambda updates: (updates - 1) // 2)
        case "krum":
            return Krum(spec, max_norm, keep=lambda _updates: 1)
        case "multi_krum":
            return Krum(spec, max_norm, keep=lambda updates: updates - bad - 2)


def _shares(study: Study) -> dict[str, float]:
    """Return training site -> its share of the total weight; the shares sum to 1."""
    weights = {
        name: member.weight for name, member in study.cohort.items() if member.role == "train"
    }
    total = sum(weights.values())
    if total <= 0:
        raise FederationError("the cohort has no training site with a positive weight")
    return {name: weight / total for name, weight in weights.items()}
