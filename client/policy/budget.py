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

    def excess(self, study: Sequence[Event], plans: Sequence[Event]) -> Fault | None:
        """Why the events of one study, or all that was begun, cost too much; None: they do not.

        plans: of all studies, this one too, all that they may ever do, in the order in which they
        were begun. Studies are chosen one after the other, knowing what came of the earlier ones,
        so it is `common/privacy/lifetime.py`'s filter that holds them against the lifetime bound.
        Within one study all is fixed before it starts: there the composed epsilon is the bound.
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
    """Only where quicker bounds are over it is the exact one asked for."""
    if epsilon(events, delta, "rdp") <= bound or epsilon_at_most(events, delta) <= bound:
        return None
    spent = epsilon(events, delta, "pld")
    if spent <= bound:
        return None
    return f"{whose} would cost epsilon {spent:.4g} at delta {delta:g}; the bound is {bound:g}"
