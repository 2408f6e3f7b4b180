"""What became of a question to a site: a status of a closed set, from the wire to the report."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from common.wire.reasons import Reason

UNREADABLE = 100
"""Error code of a reply that is not a readable message; Flower's own codes are smaller."""

LOST = 101
"""Error code that replaces the reply to a question that the server's own database lost."""


class Kind(StrEnum):
    """What can become of a question."""

    OK = "ok"
    """A sound answer came and counts."""
    READY = "ready"
    """The site has approved the study and opened its cells."""
    ASKED = "asked"
    """No answer is due yet."""
    REFUSED = "refused"
    SITS_OUT = "sits out"
    """The site does not take part this time; that is not a refusal."""
    AWAY = "not connected"
    LATE = "no reply"
    LOST = "not asked"
    FAILED = "the client failed"
    LEFT_OUT = "left out"
    """A reply came but cannot be used."""
    SUSPENDED = "suspended"
    """Too many replies of the site in a row could not be used."""


@dataclass(frozen=True)
class ReplyStatus:
    """One site's status, with its details.

    >>> print(ReplyStatus(Kind.REFUSED, reason=Reason.BUDGET, reference="3fa2"))
    refused: budget (see 3fa2 in its log)
    """

    kind: Kind
    words: str = ""
    reason: Reason | None = None
    """Why the site refuses or sits out, as it says itself."""
    reference: str = ""
    """Where a refusal's text is in the site's own log."""

    @property
    def ok(self) -> bool:
        """Whether a sound answer came."""
        return self.kind is Kind.OK

    def said(self, why: str) -> str:
        """The status in words, with `why` in place of a refusal's reference."""
        found = f"{self.reason} ({why})" if why else str(self.reason)
        if self.reason is not None:
            return f"{self.kind}: {found}"
        if self.kind is Kind.LATE:
            return f"{self.kind} {self.words}"
        return f"{self.kind}: {self.words}" if self.words else str(self.kind)

    def __str__(self) -> str:
        return self.said(f"see {self.reference} in its log" if self.reference else "")

    def to_json(self) -> dict[str, str]:
        """The status and, where they are not empty, words, reason and reference, for a record."""
        reason = self.reason.value if self.reason else ""
        found = {"words": self.words, "reason": reason, "reference": self.reference}
        return {"status": self.kind.value} | {key: value for key, value in found.items() if value}

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Self:
        """Read what `to_json` wrote. Raises KeyError or ValueError for anything else."""
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
"""No reply came in time."""
QUESTION_LOST = ReplyStatus(Kind.LOST, "the server's database lost the question")
