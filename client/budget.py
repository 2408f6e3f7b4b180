"""How much privacy loss a site allows its data set."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import PrivacyError
from common.privacy.accounting import Event, epsilon, filtered_epsilon


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Bounds on epsilon at `delta`. Raises PrivacyError for a bound that is not positive."""

    epsilon: float
    """Over all studies and the data set's whole life."""
    delta: float
    study_epsilon: float | None = None
    """For each study; None: only the lifetime bound holds."""

    def __post_init__(self) -> None:
        study = self.epsilon if self.study_epsilon is None else self.study_epsilon
        if not (0 < self.epsilon < math.inf and 0 < study < math.inf and 0 < self.delta < 1):
            raise PrivacyError(
                f"budget: epsilon={self.epsilon}, study_epsilon={self.study_epsilon}, delta="
                f"{self.delta}; expected finite epsilons above 0 and 0 < delta < 1"
            )

    def excess(self, study: Sequence[Event], others: Sequence[Event]) -> str | None:
        """Why the events of one study, with those of all the others, cost too much; None: not."""
        if self.study_epsilon is not None:
            reason = _over("the study", study, self.study_epsilon, self.delta)
            if reason:
                return reason
        return self._filter([*study, *others])

    def _filter(self, events: Sequence[Event]) -> str | None:
        """The lifetime bound, as a Renyi filter at an order fixed by the policy alone.

        Studies are chosen one after the other, knowing what came of the earlier ones. Comparing a
        composed epsilon after each, at whichever order is best then, is no proven bound for that;
        Renyi divergence at one fixed order is (Feldman & Zrnic 2021, arXiv 2008.11193, theorem
        4.3). Within one study all parameters are fixed before it starts.
        """
        spent = filtered_epsilon(events, self.epsilon, self.delta)
        if spent <= self.epsilon:
            return None
        return (
            f"all studies together would cost epsilon {spent:.4g} at delta {self.delta:g} by the "
            f"filter that holds for studies chosen one after another; the bound is {self.epsilon:g}"
        )


def _over(whose: str, events: Sequence[Event], bound: float, delta: float) -> str | None:
    """ "rdp" is quick and never below "pld": only where it is over the bound is "pld" asked."""
    if epsilon(events, delta, "rdp") <= bound:
        return None
    spent = epsilon(events, delta, "pld")
    if spent <= bound:
        return None
    return f"{whose} would cost epsilon {spent:.4g} at delta {delta:g}; the bound is {bound:g}"
