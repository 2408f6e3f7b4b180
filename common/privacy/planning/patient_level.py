"""What protection of one image is worth to a patient who has several."""

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
"""Losses are cut into about as many, so that a question takes a second; rounded up, as ever."""


def patient_epsilon(event: Event, delta: float, images: int) -> float:
    """The epsilon at `delta` of adding or removing a patient with `images` images.

    For an event of unit "image". Each of the k images joins a step with probability q by itself,
    so j ~ Binomial(k, q) of them do, and the clipped sum moves by at most j C: a step is dominated
    by N(0, z^2) against sum_j Bin(k, q)(j) N(j, z^2) (Ganesh 2024, "Tight group-level DP guarantees
    for DP-SGD with sampling via mixture of Gaussians mechanisms", arXiv 2401.10294), which is
    composed over the steps. One of unit "patient" protects all images at once: its own epsilon.

    Raises PrivacyError for images < 1 or noise_multiplier 0.
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
    """About how far the losses of a shift by that many standard deviations reach."""
    return shift**2 / 2 + 10 * shift


@lru_cache(maxsize=256)
def _mixture(event: Event, delta: float, images: int) -> float:
    joining = np.arange(images + 1)
    chance = stats.binom.pmf(joining, images, event.sample_rate)
    # What is left out is counted as all images joining, which can only raise epsilon.
    kept = (chance > _NEGLIGIBLE) | (joining == images)
    chance[images] += max(0.0, 1.0 - chance[kept].sum())
    step = privacy_loss_distribution.from_mixture_gaussian_mechanism(
        event.noise_multiplier,
        joining[kept].tolist(),
        (chance[kept] / chance[kept].sum()).tolist(),
        value_discretization_interval=max(1e-3, _span(images / event.noise_multiplier) / _CELLS),
    )
    return float(step.self_compose(event.steps).get_epsilon_for_delta(delta))
