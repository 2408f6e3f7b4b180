"""Suspends sites whose replies are left out round after round: the study stops asking them.

What counts is a reply that cannot be used: an update that cannot be read, has another layout, is
not finite, or is longer than the study allows. Being away or refusing does not count.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from common.files import write_text
from common.wire.reply_status import Kind, ReplyStatus

_LIFTS = "lifts.json"
"""The operator's note in the folder of a run: the sites to ask again."""


@dataclass(frozen=True)
class Offences:
    """Counts each site's replies that were left out in a row.

    A sound reply sets a site's count back to 0; an absence leaves it as it is.

    >>> offences = Offences({}, most=2)
    >>> offences.left_out("a"), offences.left_out("a")
    (False, True)
    >>> list(offences.suspended()), offences.forgive(["a"]), list(offences.suspended())
    (['a'], ['a'], [])
    """

    in_a_row: dict[str, int]
    """Site -> its count. It is part of the checkpoint and is changed in place."""
    most: int
    """`round.suspend_after`: the count at which a site is suspended."""

    def sound(self, site: str) -> None:
        """Note that a reply of the site could be used."""
        self.in_a_row.pop(site, None)

    def left_out(self, site: str) -> bool:
        """Count a reply that could not be used, and return whether it suspends the site."""
        self.in_a_row[site] = self.in_a_row.get(site, 0) + 1
        return self.in_a_row[site] == self.most

    def suspended(self) -> dict[str, ReplyStatus]:
        """Return suspended site -> its status."""
        return {
            site: ReplyStatus(Kind.SUSPENDED, f"{count} replies in a row were left out")
            for site, count in sorted(self.in_a_row.items())
            if count >= self.most
        }

    def forgive(self, sites: Iterable[str]) -> list[str]:
        """Set the counts of these sites back to 0; return those that were suspended, sorted."""
        lifted = sorted(set(sites) & set(self.suspended()))
        for site in sites:
            self.in_a_row.pop(site, None)
        return lifted


def ask_to_lift(out: Path, sites: Iterable[str]) -> None:
    """Note that the run in the folder `out` is to ask these sites again from its next round on."""
    write_text(out / _LIFTS, json.dumps(sorted({*asked_to_lift(out), *sites})))


def asked_to_lift(out: Path) -> list[str]:
    """Return the sites that `ask_to_lift` noted and the run has not yet seen."""
    path = out / _LIFTS
    return list(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else []


def note_lifted(out: Path) -> None:
    """Delete the operator's note: the run has seen it."""
    (out / _LIFTS).unlink(missing_ok=True)
