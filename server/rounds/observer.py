"""What the rounds tell while they last."""

from collections.abc import Set as AbstractSet

from server.rounds.record import RoundRecord


class Observer:
    """Told of the rounds as they go on. This one does nothing with it; others override what they
    want to know. An error that one raises ends the rounds, at the last whole one."""

    def waits_for(self, sites: AbstractSet[str]) -> None:
        """The study waits for these sites to connect or to answer; for none, it computes."""

    def left_out(self, number: int, site: str, reason: str) -> None:
        """A reply to round `number` came and cannot be used."""

    def round_done(self, record: RoundRecord) -> None:
        """A round is over; its record and its checkpoint are on the disk."""
