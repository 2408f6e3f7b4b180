"""Finds in the sites' own logs why they refused; in a simulation the researcher owns the sites.

A site tells the server only a reason from a closed list (`common.wire.reasons`) and a reference
into its `site.log`. In a deployment the text of the error stays there.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from common.errors import FederationError
from common.wire.reply_status import ReplyStatus
from server.rounds.quorum import NoQuorumError
from server.rounds.record import RoundRecord, read

_ENTRY = re.compile(r"^\S+ \[([0-9a-f]{8})\] ", re.MULTILINE)


@dataclass(frozen=True)
class LoggedError:
    """An entry of a site's log."""

    site: str
    """The site whose log it is in."""
    text: str
    """The error's text; of a traceback only the last line."""


Logs = dict[str, LoggedError]
"""Reference -> the log entry that it stands for."""


def read_logs(folder: Path) -> Logs:
    """Read the entries of all sites' logs in and below a run's folder."""
    found = {}
    for log in sorted(folder.rglob("site.log")):
        _, *parts = _ENTRY.split(log.read_text(encoding="utf-8", errors="replace"))
        for reference, text in zip(parts[::2], parts[1::2], strict=True):
            found[reference] = LoggedError(log.parent.name, _short(text, log.relative_to(folder)))
    return found


def explained(error: FederationError, folder: Path) -> str:
    """Return the error's message, followed by the log entries that it refers to, each text once."""
    message, logs, sites = str(error), read_logs(folder), dict[str, list[str]]()
    for status in error.statuses.values() if isinstance(error, NoQuorumError) else ():
        entry = logs.get(status.reference)
        if entry and entry.text not in message:
            sites.setdefault(entry.text, []).append(f"{entry.site} [{status.reference}]")
    if not sites:
        return message
    lines = (f"  {', '.join(names)}: {text}" for text, names in sites.items())
    return "\n".join([message, "in the sites' logs:", *lines])


def reason(status: ReplyStatus, logs: Logs) -> str:
    """Return a site's status in words, with the log's text in place of the reference."""
    return status.said(logs[status.reference].text) if status.reference in logs else str(status)


def never_used(rounds: Iterable[RoundRecord], logs: Logs) -> list[str]:
    """Return a line for each site that was asked to train and whose updates were never used."""
    statuses: dict[str, list[ReplyStatus]] = {}
    for one in rounds:
        for site, entry in one.sites.items():
            statuses.setdefault(site, []).append(entry.status)
    return [
        f"{site}: left out of all {len(said)} rounds it was asked in: {reason(said[0], logs)}"
        for site, said in sorted(statuses.items())
        if not any(status.ok for status in said)
    ]


def never_used_in(folder: Path) -> list[str]:
    """Return `never_used` for the federation in a run's folder."""
    return never_used(read(folder), read_logs(folder))


def _short(text: str, log: Path) -> str:
    """Return an entry's text; of a traceback, its last line and where to find the rest."""
    lines = text.strip().splitlines()
    if len(lines) > 1 and lines[0].startswith("Traceback"):
        return f"{lines[-1]} (traceback in {log})"
    return "\n    ".join(lines)
