"""Sites whose replies had to be left out round after round: the study asks them no more.

A site is an offender by what it sends: an update of another layout, not finite, longer than the
study allows, or not to be read. One that is away, or that refuses, is none.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from common.files import write_text
from common.wire.reply_status import Kind, ReplyStatus

_LIFTS = "lifts.json"


@dataclass(frozen=True)
class Offences:
    """Replies left out in a row, by site. A sound reply ends the row, an absence does not."""

    in_a_row: dict[str, int]
    """Part of the checkpoint; kept up to date in place."""
    most: int
    """`round.suspend_after`: as many in a row suspend the site."""

    def sound(self, site: str) -> None:
        """A reply of the site could be used."""
        self.in_a_row.pop(site, None)

    def left_out(self, site: str) -> bool:
        """Count a reply that could not be used; whether it has suspended the site."""
        self.in_a_row[site] = self.in_a_row.get(site, 0) + 1
        return self.in_a_row[site] == self.most

    def suspended(self) -> dict[str, ReplyStatus]:
        """Site -> its status while it is suspended."""
        return {
            site: ReplyStatus(Kind.SUSPENDED, f"{count} replies in a row were left out")
            for site, count in sorted(self.in_a_row.items())
            if count >= self.most
        }

    def forgive(self, sites: Iterable[str]) -> list[str]:
        """Forget what these sites sent; those that were suspended, by name."""
        lifted = sorted(set(sites) & set(self.suspended()))
        for site in sites:
            self.in_a_row.pop(site, None)
        return lifted


def ask_to_lift(out: Path, sites: Iterable[str]) -> None:
    """Let the run in the folder `out` ask these sites again from its next round on."""
    write_text(out / _LIFTS, json.dumps(sorted({*asked_to_lift(out), *sites})))


def asked_to_lift(out: Path) -> list[str]:
    """The sites of `ask_to_lift` that the run has not taken note of."""
    path = out / _LIFTS
    return list(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else []


def note_lifted(out: Path) -> None:
    """The run has taken note."""
    (out / _LIFTS).unlink(missing_ok=True)
