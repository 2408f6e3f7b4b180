"""Whether a site takes part at this moment; one that sits out is asked again the next round."""

from collections.abc import Callable
from datetime import datetime

from client.policy import read_policy
from common.config import Site

Clock = Callable[[], datetime]
"""The local time."""


class SitsOutError(Exception):
    """The site computes nothing and pays nothing; the text is what the server is told."""


def attend(site: Site, clock: Clock) -> None:
    """Raise SitsOutError outside the policy's hours. PrivacyError: there is no policy."""
    if not read_policy(site.policy).computes_at(clock()):
        raise SitsOutError("outside its hours")
