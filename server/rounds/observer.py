"""What the rounds report while they run."""

from collections.abc import Set as AbstractSet

from server.rounds.record import RoundRecord


class Observer:
    """Is told of the rounds as they run.

    The methods of this class do nothing; a subclass overrides those that it needs. An error that
    one of them raises ends the run; the last whole round stays.
    """

    def waits_for(self, sites: AbstractSet[str]) -> None:
        """Called when the sites that the study waits for change; if there are none, it computes."""

    def left_out(self, number: int, site: str, reason: str) -> None:
        """Called when a site's reply to round `number` came but cannot be used."""

    def round_done(self, record: RoundRecord) -> None:
        """Called when a round is over and its record and checkpoint are on the disk."""
