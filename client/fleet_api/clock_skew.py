"""This machine's clock against the server's, by the date in the server's answers."""

import time
from email.utils import parsedate_to_datetime

import httpx

from common.wire.flower_internals import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE


def skew(response: httpx.Response) -> float | None:
    """Seconds by which this clock is ahead of the server's, to about one; None: it does not say."""
    try:
        theirs = parsedate_to_datetime(response.headers["date"]).timestamp()
    except (KeyError, ValueError):
        return None
    return time.time() - theirs


def is_refused(seconds: float) -> bool:
    """Whether the server refuses what is signed by a clock that is so far ahead.

    Flower's node authentication signs the time, and takes it for a signature that is too old, or
    from the future.
    """
    return not -TIMESTAMP_TOLERANCE < seconds < SYSTEM_TIME_TOLERANCE
