"""The epsilon of a patient with several images, where the protected unit is one image."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
from dp_accounting.pld import privacy_loss_distribution
from scipy import stats

from common.errors import PrivacyError
from common.privacy.accounting import epsilon
from common.privacy.events import Event

_NEGLIGIBLE = 1e-13
_CELLS = 10_000
"""The privacy losses are discretised into about this many cells, so that an answer takes about a
second. The discretisation rounds up, so epsilon is never too small."""


def patient_epsilon(event: Event, delta: float, images: int) -> float:
    """Return the epsilon at `delta` of adding or removing a patient with `images` images.

    If the event's unit is "image", each of the k images joins a step with probability q,
    independently of the others. So j ~ Binomial(k, q) of them join, and the clipped sum changes by
    at most j C. A step is dominated by N(0, z^2) against sum_j Bin(k, q)(j) N(j, z^2) (Ganesh 2024,
    "Tight group-level DP guarantees for DP-SGD with sampling via mixture of Gaussians mechanisms",
    arXiv 2401.10294). This is composed over the steps.

    If the unit is "patient", the event protects all images of a patient together, and the result is
    the event's own epsilon.

    Raises:
        PrivacyError: `images` < 1, or the event's noise multiplier is 0.
    """
    if images < 1 or event.noise_multiplier == 0:
        raise PrivacyError(
            f"patient_epsilon: images={images}, noise_multiplier={event.noise_multiplier}; "
            "expected at least one image and a multiplier above 0"
        )
    if event.unit == "patient" or images == 1:
        return epsilon([event], delta)
    if event.sample_rate == 1:
        return epsilon([replace(event, noise_multiplier=event.noise_multiplier / images)], delta)
    return _mixture(replace(event, unit="image", mode="local"), delta, images)


def _span(shift: float) -> float:
    """Return about the largest privacy loss of a shift by `shift` standard deviations."""
    return shift**2 / 2 + 10 * shift


@lru_cache(maxsize=256)
def _mixture(event: Event, delta: float, images: int) -> float:
    joining = np.arange(images + 1)
    chance = stats.binom.pmf(joining, images, event.sample_rate)
    # The left-out probability is added to that of all images joining, which can only raise epsilon.
    kept = (chance > _NEGLIGIBLE) | (joining == images)
    chance[images] += max(0.0, 1.0 - chance[kept].sum())
    step = privacy_loss_distribution.from_mixture_gaussian_mechanism(
        event.noise_multiplier,
        joining[kept].tolist(),
        (chance[kept] / chance[kept].sum()).tolist(),
        value_discretization_interval=max(1e-3, _span(images / event.noise_multiplier) / _CELLS),
    )
    return float(step.self_compose(event.steps).get_epsilon_for_delta(delta))
