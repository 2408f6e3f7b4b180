"""How much privacy loss a site allows its data set."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import PrivacyError
from common.privacy.accounting import Event, epsilon, epsilon_at_most
from common.privacy.lifetime import used
from common.wire.reasons import Fault, Reason


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Bounds on epsilon at `delta`. Raises PrivacyError for a bound that is not positive."""

    epsilon: float
    """Bound on epsilon over all studies and the data set's whole life."""
    delta: float
    study_epsilon: float | None = None
    """Bound on epsilon of each study; None: only the lifetime bound holds."""

    def __post_init__(self) -> None:
        study = self.epsilon if self.study_epsilon is None else self.study_epsilon
        if not (0 < self.epsilon < math.inf and 0 < study < math.inf and 0 < self.delta < 1):
            raise PrivacyError(
                f"budget: epsilon={self.epsilon}, study_epsilon={self.study_epsilon}, delta="
                f"{self.delta}; expected finite epsilons above 0 and 0 < delta < 1"
            )

    def excess(self, study: Sequence[Event], plans: Sequence[Event]) -> Fault | None:
        """Why the events of one study, or all studies together, cost too much; None: they do not.

        study: the events of one study. plans: all that each study, this one included, may ever do,
        in the order in which the studies were begun. Studies are chosen one after another, in the
        light of earlier results, so the filter in `common/privacy/lifetime.py` compares them with
        the lifetime bound. Within one study everything is fixed before it starts, so its composed
        epsilon is compared with the study's bound. Raises PrivacyError for events of both units.
        """
        if self.study_epsilon is not None:
            said = _over("the study", study, self.study_epsilon, self.delta)
            if said:
                return Fault(Reason.BUDGET, said)
        part = used(plans, self.epsilon, self.delta)
        if part <= 1:
            return None
        return Fault(
            Reason.BUDGET,
            f"all studies together would use {part:.4g} times the lifetime's epsilon "
            f"{self.epsilon:g} at delta {self.delta:g}, each counted whole once it is begun, by "
            "the filter that holds for studies chosen one after another",
        )


def _over(whose: str, events: Sequence[Event], bound: float, delta: float) -> str | None:
    """Why `events` cost more than `bound`, or None.

    The exact epsilon is computed only where quicker upper bounds exceed `bound`.
    """
    if epsilon(events, delta, "rdp") <= bound or epsilon_at_most(events, delta) <= bound:
        return None
    spent = epsilon(events, delta, "pld")
    if spent <= bound:
        return None
    return f"{whose} would cost epsilon {spent:.4g} at delta {delta:g}; the bound is {bound:g}"
