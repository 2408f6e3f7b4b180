"""What a site did to its data: the records that a ledger keeps and an accountant composes."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from common.config.study import Unit
from common.errors import PrivacyError

Mechanism = Literal["poisson_gaussian", "poisson_discrete_gaussian"]
Mode = Literal["local", "distributed"]

ADJACENCY = {
    "image": "two data sets are neighbours when one has one image more than the other",
    "patient": "two data sets are neighbours when one has one patient, with all images, more",
}
"""Unit -> the adjacency that epsilon refers to; shown wherever epsilon is shown."""


@dataclass(frozen=True, kw_only=True, order=True)
class Event:
    """Steps of one mechanism at one setting. Raises PrivacyError for a value out of bounds."""

    mechanism: Mechanism
    sample_rate: float
    """Probability, in (0, 1], with which each unit joins a step, independently of the others."""
    noise_multiplier: float
    """Standard deviation of the noise over the clipping norm; 0 means no protection."""
    steps: int
    unit: Unit
    mode: Mode = "local"

    def __post_init__(self) -> None:
        expect("mechanism", self.mechanism, get_args(Mechanism))
        expect("unit", self.unit, get_args(Unit))
        expect("mode", self.mode, get_args(Mode))
        if not 0 < self.sample_rate <= 1:
            raise PrivacyError(f"event: sample_rate={self.sample_rate}; expected 0 < rate <= 1")
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier >= 0):
            raise PrivacyError(
                f"event: noise_multiplier={self.noise_multiplier}; expected a finite number >= 0"
            )
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise PrivacyError(f"event: steps={self.steps!r}; expected a whole number >= 1")


def merge(events: Iterable[Event]) -> tuple[Event, ...]:
    """The events in a fixed order; those of equal settings become one, with their steps added.

    What composition costs does not depend on the order or on how steps are grouped.

    >>> one = Event(
    ...     mechanism="poisson_gaussian", sample_rate=0.1, noise_multiplier=1.0, steps=3,
    ...     unit="image",
    ... )
    >>> [event.steps for event in merge([one, one])]
    [6]
    """
    steps: Counter[Event] = Counter()
    for event in events:
        steps[replace(event, steps=1)] += event.steps
    return tuple(replace(event, steps=count) for event, count in sorted(steps.items()))


def expect(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raise PrivacyError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise PrivacyError(f"{name}={value!r}: expected one of {allowed}")
