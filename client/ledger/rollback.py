"""What a site itself remembers of its ledger: its audit log names the row of every release.

The server too names the last row it saw, but only within one run; a new study's server knows
nothing. The site's own log detects an older copy of the ledger, or one made anew.
"""

from pathlib import Path

from client.home import SiteHome
from client.ledger.binding import check_deployable
from client.ledger.ledger import Ledger
from client.membership.membership import Membership
from common.audit.entry import parse_line
from common.audit.reader import log_files, log_lines
from common.config.study import Site

_EVENTS = ("released", "ledger_adopted")
_MARKS = tuple(f'"event":"{event}"'.encode() for event in _EVENTS)


def remembered_rows(log: Path) -> list[str]:
    """Hashes of the ledger rows that the audit log names since the last adoption, in order."""
    rows: list[str] = []
    if not log.exists():
        return rows
    for path in log_files(log):
        for _, line in log_lines(path):
            if not any(mark in line for mark in _MARKS):
                continue
            fields = parse_line(line.removesuffix(b"\n"))
            if fields["event"] == "ledger_adopted":
                rows.clear()
            rows.append(str(fields["facts"]["ledger"]))
    return [row for row in rows if row]


def check_own_ledger(site: Site, log: Path) -> None:
    """Raise PrivacyError when the ledger lacks the row that the site's log names last, or is a
    simulated site's."""
    rows = remembered_rows(log)
    if not site.ledger.exists() and not rows:
        return
    with Ledger.read(site.ledger) as ledger:
        check_deployable(ledger)
        if rows:
            ledger.check_has(rows[-1])


def adopt(site: Site, membership: Membership) -> tuple[str, int]:
    """Continue with the ledger as it is, though the log names rows that it lacks.

    Returns the ledger's head, and how many releases the ledger does not hold; writes both to the
    audit log. Raises PrivacyError when the ledger is damaged.
    """
    with Ledger.read(site.ledger) as ledger:
        ledger.verify()
        head, held = ledger.head, {row.hash for row in ledger.rows()}
    lost = sum(row not in held for row in remembered_rows(SiteHome(membership.home).audit))
    with membership.audit_log() as log:
        log.append("ledger_adopted", ledger=head, lost=lost)
    return head, lost
