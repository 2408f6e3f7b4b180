"""The times of the week at which a site computes for studies, in its local time."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Self

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY = "|".join(_DAYS)
_FORM = re.compile(rf"(?:({_DAY})(?:-({_DAY}))? )?(\d\d):(\d\d)-(\d\d):(\d\d)", re.IGNORECASE)
_DAY_MINUTES = 24 * 60


@dataclass(frozen=True)
class Window:
    """From one time of day to another, on some days of the week.

    A window that ends before it begins runs over midnight, and `days` are those on which it begins.

    >>> friday_night = Window.parse("Fri 20:00-06:00")
    >>> friday_night.holds(datetime(2024, 5, 4, 5, 59)), friday_night.holds(datetime(2024, 5, 4, 6))
    (True, False)
    """

    days: frozenset[int]
    """Days of the week; 0 is Monday."""
    start: int
    """The first minute of the window, in minutes since midnight."""
    end: int
    """The first minute after the window, in minutes since midnight."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `20:00-06:00`, `Sat-Sun 00:00-24:00` or `Wed 12:00-14:30`.

        Raises ValueError for text of another form, or a time of day that does not exist.
        """
        found = _FORM.fullmatch(text)
        if found is None:
            raise ValueError(
                f"{text!r:.60}: expected a window like 20:00-06:00 or Sat-Sun 08:00-18:00"
            )
        first, last, *times = found.groups()
        hours, minutes = [int(t) for t in times[::2]], [int(t) for t in times[1::2]]
        start, end = (60 * hour + minute for hour, minute in zip(hours, minutes, strict=True))
        if max(minutes) > 59 or start >= _DAY_MINUTES or end > _DAY_MINUTES or start == end:
            raise ValueError(
                f"{text!r}: expected two different times from 00:00 to 24:00; "
                "all day is 00:00-24:00"
            )
        return cls(_days(first, last), start, end)

    def holds(self, moment: datetime) -> bool:
        """Whether the local time `moment` is in the window."""
        minute, today = 60 * moment.hour + moment.minute, moment.weekday()
        if self.start < self.end:
            return today in self.days and self.start <= minute < self.end
        begun = today in self.days and minute >= self.start
        return begun or ((today - 1) % 7 in self.days and minute < self.end)


def _days(first: str | None, last: str | None) -> frozenset[int]:
    """The days from `first` to `last`, all seven if none is named; a span may run past Sunday."""
    if first is None:
        return frozenset(range(7))
    start = _DAYS.index(first.lower())
    end = start if last is None else _DAYS.index(last.lower())
    return frozenset((start + step) % 7 for step in range((end - start) % 7 + 1))
