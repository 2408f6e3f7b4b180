"""How the updates of a round become one: the rule that the study names."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from common.config.study import Study
from common.errors import FederationError
from common.wire.vector_codec import Vector
from server.aggregation.byzantine import Krum, Trimmed
from server.aggregation.running_mean import RunningMean


class Aggregation(Protocol):
    """One round's updates, in; one update, out. No bit depends on the order of arrival."""

    def add(self, site: str, update: Vector) -> float:
        """Take a site's update (P,); its L2 norm.

        Raises ModelError, and leaves the update out, when it is not finite or its norm exceeds
        `round.max_update_norm`.
        """
        ...

    def result(self) -> NDArray[np.float64]:
        """The aggregated update (P,). Raises an error of ours when what was added is too little."""
        ...


def aggregation_for(study: Study, size: int) -> Aggregation:
    """The study's rule for one round of updates of `size` values.

    The mean weighs sites as the cohort says. The robust rules count every site the same: a weight
    is a claim about how much data a site has, and would be a lever for one that lies.
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
    """Each training site's share of the weight; they sum to 1."""
    weights = {
        name: member.weight for name, member in study.cohort.items() if member.role == "train"
    }
    total = sum(weights.values())
    if total <= 0:
        raise FederationError("the cohort has no training site with a positive weight")
    return {name: weight / total for name, weight in weights.items()}
