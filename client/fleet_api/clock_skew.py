"""This machine's clock against the server's, by the date in the server's answers."""

import time
from email.utils import parsedate_to_datetime

import httpx

from common.wire.flower_internals import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE


def skew(response: httpx.Response) -> float | None:
    """Seconds by which this clock is ahead of the server's, to about one second.

    None: `response` has no readable date.
    """
    try:
        theirs = parsedate_to_datetime(response.headers["date"]).timestamp()
    except (KeyError, ValueError):
        return None
    return time.time() - theirs


def is_refused(seconds: float) -> bool:
    """Whether the server refuses signatures of a clock that is `seconds` ahead of its own.

    Flower's node authentication signs the time, and the server refuses a signature that seems too
    old or from the future.

    >>> is_refused(0.0), is_refused(3600.0), is_refused(-3600.0)
    (False, True, True)
    """
    return not -TIMESTAMP_TOLERANCE < seconds < SYSTEM_TIME_TOLERANCE
