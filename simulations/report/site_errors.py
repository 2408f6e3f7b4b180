"""Why sites refused, from their own logs: in a simulation the researcher owns the sites.

To the server a site says of an error only a reason of a closed list (`common.wire.reasons`) and a
reference into `site.log`; in a deployment the text stays there.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_REFERENCE = re.compile(r"\(see ([0-9a-f]{8}) in its log\)")
_ENTRY = re.compile(r"^\S+ \[([0-9a-f]{8})\] ", re.MULTILINE)


@dataclass(frozen=True)
class Entry:
    """What a reference stands for."""

    site: str
    text: str


Logs = dict[str, Entry]
"""Reference -> its entry."""


def read_logs(folder: Path) -> Logs:
    """The entries of all sites' logs in and below a run's folder."""
    found = {}
    for log in sorted(folder.rglob("site.log")):
        _, *parts = _ENTRY.split(log.read_text(encoding="utf-8", errors="replace"))
        for reference, text in zip(parts[::2], parts[1::2], strict=True):
            found[reference] = Entry(log.parent.name, _short(text, log.relative_to(folder)))
    return found


def explained(message: str, folder: Path) -> str:
    """The error's message, and below it what the references in it stand for, each text once."""
    logs, sites = read_logs(folder), dict[str, list[str]]()
    for reference in dict.fromkeys(_REFERENCE.findall(message)):
        entry = logs.get(reference)
        if entry and entry.text not in message:
            sites.setdefault(entry.text, []).append(f"{entry.site} [{reference}]")
    if not sites:
        return message
    lines = (f"  {', '.join(names)}: {text}" for text, names in sites.items())
    return "\n".join([message, "in the sites' logs:", *lines])


def reason(status: str, logs: Logs) -> str:
    """A site's status in a round, its reference replaced by what it stands for."""
    return _REFERENCE.sub(
        lambda found: f"({logs[found[1]].text})" if found[1] in logs else found[0], status
    )


def never_used(rounds: list[dict[str, Any]], logs: Logs) -> list[str]:
    """A line on each site that was asked to train and of which no round used an update."""
    statuses: dict[str, list[str]] = {}
    for row in rounds:
        for site, entry in row["sites"].items():
            statuses.setdefault(site, []).append(entry["status"])
    return [
        f"{site}: left out of all {len(said)} rounds it was asked in: {reason(said[0], logs)}"
        for site, said in sorted(statuses.items())
        if "ok" not in said
    ]


def never_used_in(folder: Path) -> list[str]:
    """`never_used` of the federation in a run's folder."""
    lines = (folder / "rounds.jsonl").read_text(encoding="utf-8").splitlines()
    return never_used([json.loads(line) for line in lines], read_logs(folder))


def _short(text: str, log: Path) -> str:
    """An entry's text; of a traceback its last line, and where the rest is."""
    lines = text.strip().splitlines()
    if len(lines) > 1 and lines[0].startswith("Traceback"):
        return f"{lines[-1]} (traceback in {log})"
    return "\n    ".join(lines)
