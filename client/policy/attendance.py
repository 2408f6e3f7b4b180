"""Whether a site takes part at this moment. The server asks one that sits out again next round."""

from collections.abc import Callable
from datetime import datetime

from client.policy.policy import Policy
from common.wire.reasons import Reason

Clock = Callable[[], datetime]
"""Returns the local time."""


class SitsOutError(Exception):
    """The site computes nothing and pays nothing, and the server is told the reason."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


def attend(policy: Policy, clock: Clock) -> None:
    """Raise SitsOutError when `clock` is outside the policy's hours."""
    if not policy.computes_at(clock()):
        raise SitsOutError(Reason.HOURS)
