"""What became of a question to a site: a status of a closed set, from the wire to the report."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from common.wire.reasons import Reason

UNREADABLE = 100
"""Error code of a reply that came and is no message; Flower's own codes are below."""

LOST = 101
"""Error code in the place of a reply to a question that the server's own database lost."""


class Kind(StrEnum):
    """What can become of a question."""

    OK = "ok"
    """A sound answer came, and it counts."""
    READY = "ready"
    """The site has approved the study and opened its cells."""
    ASKED = "asked"
    """No answer is due yet."""
    REFUSED = "refused"
    SITS_OUT = "sits out"
    """The site takes no part this time; it is no refusal."""
    AWAY = "not connected"
    LATE = "no reply"
    LOST = "not asked"
    FAILED = "the client failed"
    LEFT_OUT = "left out"
    """A reply came and cannot be used."""
    SUSPENDED = "suspended"
    """Too many replies in a row were left out."""


@dataclass(frozen=True)
class ReplyStatus:
    """One site's status, with what there is to say of it."""

    kind: Kind
    words: str = ""
    reason: Reason | None = None
    """The site's own word for why it refuses or sits out."""
    reference: str = ""
    """Of a refusal: where its text is in the site's own log."""

    @property
    def ok(self) -> bool:
        """Whether a sound answer came."""
        return self.kind is Kind.OK

    def said(self, why: str) -> str:
        """The status in words, with `why` in the place of a refusal's reference."""
        found = f"{self.reason} ({why})" if why else str(self.reason)
        if self.reason is not None:
            return f"{self.kind}: {found}"
        if self.kind is Kind.LATE:
            return f"{self.kind} {self.words}"
        return f"{self.kind}: {self.words}" if self.words else str(self.kind)

    def __str__(self) -> str:
        return self.said(f"see {self.reference} in its log" if self.reference else "")

    def to_json(self) -> dict[str, str]:
        """As a record keeps it: what is there of status, words, reason and reference."""
        reason = self.reason.value if self.reason else ""
        found = {"words": self.words, "reason": reason, "reference": self.reference}
        return {"status": self.kind.value} | {key: value for key, value in found.items() if value}

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Self:
        """What `to_json` gave. Raises KeyError or ValueError for anything else."""
        return cls(
            Kind(kept["status"]),
            str(kept.get("words", "")),
            Reason(kept["reason"]) if "reason" in kept else None,
            str(kept.get("reference", "")),
        )


OK = ReplyStatus(Kind.OK)
READY = ReplyStatus(Kind.READY)
ASKED = ReplyStatus(Kind.ASKED)
AWAY = ReplyStatus(Kind.AWAY)
IN_TIME = ReplyStatus(Kind.LATE, "in time")
"""None came in time."""
QUESTION_LOST = ReplyStatus(Kind.LOST, "the server's database lost the question")
