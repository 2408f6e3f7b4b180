"""When a round counts: enough sites must have sent what can be used."""

from collections.abc import Mapping

from common.errors import FederationError
from common.wire.reply_status import ReplyStatus
from server.rounds.record import RoundRecord


class NoQuorumError(FederationError):
    """A round has fewer sound updates than the study needs and does not count."""

    def __init__(self, message: str, statuses: Mapping[str, ReplyStatus]) -> None:
        """statuses: site -> what it did in the round."""
        super().__init__(message)
        self.statuses = dict(statuses)


def require_quorum(record: RoundRecord, good: int, needed: int, name: str) -> None:
    """Raise NoQuorumError unless the round has `needed` sites.

    Args:
        record: what the sites did in the round.
        good: how many of them count.
        needed: how many must.
        name: the setting of the study that says so.
    """
    if good >= needed:
        return
    statuses = {site: one.status for site, one in record.sites.items()}
    said = "; ".join(f"{site}: {status}" for site, status in statuses.items())
    raise NoQuorumError(
        f"round {record.round}: {good} sound updates, {name} is {needed} ({said}); the rounds "
        "before are kept, resume when the sites are well",
        statuses,
    )
