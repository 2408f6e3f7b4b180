"""A round as one line of `rounds.jsonl`: written, cut back and read in one place."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from common.files import sync, write_text
from common.wire.reply_status import ReplyStatus

LOG = "rounds.jsonl"
_FIGURES = ("seconds", "update_norm", "loss", "epsilon")
"""What a site's line has where it is known."""

Scores = dict[str, Any]
"""Metrics of the pooled counts under "global", of each site's under "sites"; None where there are
no cells, or noise hides the figure."""


@dataclass(frozen=True, kw_only=True)
class SiteRecord:
    """What became of one site in a round."""

    status: ReplyStatus
    seconds: float | None = None
    """From the question to its answer; None: it was not asked."""
    update_norm: float | None = None
    """L2, of an update that counts."""
    loss: float | None = None
    """As the site says it; None: it says none."""
    epsilon: float | None = None
    """What the study has cost the site so far, as it says."""
    suspended: bool = False
    """Whether this reply has suspended the site."""

    def to_json(self) -> dict[str, Any]:
        figures = {name: value for name in _FIGURES if (value := getattr(self, name)) is not None}
        return self.status.to_json() | figures | ({"suspended": True} if self.suspended else {})

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Self:
        figures = {name: kept.get(name) for name in _FIGURES}
        suspended = bool(kept.get("suspended", False))
        return cls(status=ReplyStatus.from_json(kept), suspended=suspended, **figures)


@dataclass(kw_only=True)
class RoundRecord:
    """One round of a run."""

    round: int
    """From 1 on."""
    attempt: int
    """How often the round was begun."""
    lifted: list[str] = field(default_factory=list)
    """Sites that are asked again from this round on."""
    sites: dict[str, SiteRecord] = field(default_factory=dict)
    """Those that train, by name: asked, or suspended."""
    evaluation: Scores | None = None
    """None: the model was not evaluated."""
    bytes_down: int = 0
    bytes_up: int = 0
    """Of the messages to the sites and of their sound replies."""
    seconds: float = 0.0

    @property
    def good(self) -> int:
        """Updates that count."""
        return sum(site.status.ok for site in self.sites.values())

    def to_json(self) -> dict[str, Any]:
        sites = {name: site.to_json() for name, site in self.sites.items()}
        return vars(self) | {"sites": sites}

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Self:
        """What `to_json` gave. Raises KeyError, TypeError or ValueError for anything else."""
        sites = {name: SiteRecord.from_json(site) for name, site in kept["sites"].items()}
        return cls(**(kept | {"sites": sites}))


def append(out: Path, record: RoundRecord) -> None:
    """Add the round's line; it is on disk when this returns."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record.to_json()) + "\n")
    sync(out / LOG)


def cut(out: Path, rounds: int) -> None:
    """Forget what was logged beyond so many rounds, as a last line that a full disk cut off."""
    if (out / LOG).exists():
        write_text(out / LOG, "".join(f"{line}\n" for line in _lines(out)[:rounds]))


def count(out: Path) -> int:
    """The rounds that are logged."""
    return len(_lines(out)) if (out / LOG).exists() else 0


def read(out: Path) -> list[RoundRecord]:
    """The rounds that are logged, in order.

    Raises OSError: there are none; ValueError, KeyError or TypeError: a line is none of a round.
    """
    return [RoundRecord.from_json(json.loads(line)) for line in _lines(out) if line.strip()]


def _lines(out: Path) -> list[str]:
    return (out / LOG).read_text(encoding="utf-8").splitlines()
