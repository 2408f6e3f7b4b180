"""What both sides know of the round that finds the features' centre (`model.centre`).

The round adds up gradients with respect to an offset of zeros: minus a unit's standardised
features, scaled to the length that a clipped gradient may have
(`client.training.feature_centring`).
"""

import math

from common.config.study import Study

ROUND = 1
"""The round that finds the centre."""


def finds_centre(study: Study, round_number: int) -> bool:
    """Whether the round finds the features' centre in place of training."""
    return study.model.centre and round_number == ROUND


def offset_scale(dim: int, max_grad_norm: float) -> float:
    """What standardised features of `dim` values are multiplied by, to be of `max_grad_norm`.

    >>> offset_scale(dim=4, max_grad_norm=1.0)
    0.5
    """
    return max_grad_norm / math.sqrt(dim)
