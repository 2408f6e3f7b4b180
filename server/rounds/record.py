"""The record of a round, one line of `rounds.jsonl`: how it is written, cut back and read."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from common.files import sync, write_text
from common.wire.reply_status import ReplyStatus

LOG = "rounds.jsonl"
"""The name of the file in the folder of a run."""
_FIGURES = ("seconds", "update_norm", "loss", "epsilon")
"""The figures that a site's line holds if they are known."""

Scores = dict[str, Any]
"""The metrics of the pooled counts, under "global", and of each site's counts, under "sites". A
figure is None if there are no cells, or if noise hides it."""


@dataclass(frozen=True, kw_only=True)
class SiteRecord:
    """What one site did in a round."""

    status: ReplyStatus
    seconds: float | None = None
    """The time from the question to its answer; None if the site was not asked."""
    update_norm: float | None = None
    """The L2 norm of its update; None if no update of it counts."""
    loss: float | None = None
    """The training loss that the site reports; None if it reports none."""
    epsilon: float | None = None
    """The privacy that the study has cost the site so far, as the site reports it."""
    suspended: bool = False
    """Whether this reply made the study suspend the site."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values; figures that are None are left out."""
        figures = {name: value for name in _FIGURES if (value := getattr(self, name)) is not None}
        return self.status.to_json() | figures | ({"suspended": True} if self.suspended else {})

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Self:
        """Return the record that `to_json` gave."""
        figures = {name: kept.get(name) for name in _FIGURES}
        suspended = bool(kept.get("suspended", False))
        return cls(status=ReplyStatus.from_json(kept), suspended=suspended, **figures)


@dataclass(kw_only=True)
class RoundRecord:
    """One round of a run."""

    round: int
    """The number of the round, from 1 on."""
    attempt: int
    """How often the round was started before."""
    lifted: list[str] = field(default_factory=list)
    """The sites whose suspension ends with this round."""
    sites: dict[str, SiteRecord] = field(default_factory=dict)
    """Training site -> what it did; holds the sites that were asked or are suspended."""
    evaluation: Scores | None = None
    """The scores of the averaged model; None if it was not evaluated."""
    bytes_down: int = 0
    """Bytes of the messages to the sites."""
    bytes_up: int = 0
    """Bytes of the sites' sound replies."""
    seconds: float = 0.0
    """The time that the round took."""

    @property
    def good(self) -> int:
        """The number of updates that count."""
        return sum(site.status.ok for site in self.sites.values())

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        sites = {name: site.to_json() for name, site in self.sites.items()}
        return vars(self) | {"sites": sites}

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Self:
        """Return the record that `to_json` gave.

        Raises:
            KeyError, TypeError, ValueError: `kept` is not such a record.
        """
        sites = {name: SiteRecord.from_json(site) for name, site in kept["sites"].items()}
        return cls(**(kept | {"sites": sites}))


def append(out: Path, record: RoundRecord) -> None:
    """Append the round's line to the log of the run in `out`; it is on disk on return."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record.to_json()) + "\n")
    sync(out / LOG)


def cut(out: Path, rounds: int) -> None:
    """Delete the log's lines after the first `rounds`, such as one that a full disk cut short."""
    if (out / LOG).exists():
        write_text(out / LOG, "".join(f"{line}\n" for line in lines(out)[:rounds]))


def count(out: Path) -> int:
    """Return the number of rounds in the log; 0 if there is no log."""
    return len(lines(out)) if (out / LOG).exists() else 0


def read(out: Path) -> list[RoundRecord]:
    """Return the rounds in the log, in order.

    Raises:
        OSError: there is no log.
        KeyError, TypeError, ValueError: a line is not the record of a round.
    """
    return [RoundRecord.from_json(json.loads(line)) for line in lines(out) if line.strip()]


def lines(out: Path) -> list[str]:
    """Return the log's whole lines. One that is being written, or was cut short, is none.

    Raises:
        OSError: there is no log.
    """
    text = (out / LOG).read_text(encoding="utf-8")
    return text[: text.rfind("\n") + 1].splitlines()
