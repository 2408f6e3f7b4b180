from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from client.fleet_api.clock_skew import is_refused, skew


def response(ahead: float) -> httpx.Response:
    """As of a server whose clock is so many seconds behind this one."""
    date = format_datetime(datetime.now(UTC) - timedelta(seconds=ahead), usegmt=True)
    return httpx.Response(401, headers={"date": date})


@pytest.mark.parametrize("seconds", [600.0, 30.0, 0.0, -200.0, -600.0])
def test_the_difference_is_known_to_about_a_second(seconds: float) -> None:
    found = skew(response(seconds))
    assert found is not None and seconds - 1 < found < seconds + 30


@pytest.mark.parametrize(
    ("seconds", "refused"), [(600, True), (9, True), (-60, False), (-600, True)]
)
def test_a_signature_from_the_future_or_long_past_is_refused(seconds: float, refused: bool) -> None:
    found = skew(response(seconds))
    assert found is not None and is_refused(found) == refused


def test_a_server_that_does_not_say_its_time_is_not_guessed() -> None:
    assert skew(httpx.Response(401)) is None
    assert skew(httpx.Response(401, headers={"date": "soon"})) is None
