"""Whether a site takes part at this moment; one that sits out is asked again the next round."""

from collections.abc import Callable
from datetime import datetime

from client.policy.policy import Policy
from common.wire.reasons import Reason

Clock = Callable[[], datetime]
"""The local time."""


class SitsOutError(Exception):
    """The site computes nothing and pays nothing; the server is told why."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


def attend(policy: Policy, clock: Clock) -> None:
    """Raise SitsOutError outside the policy's hours."""
    if not policy.computes_at(clock()):
        raise SitsOutError(Reason.HOURS)
