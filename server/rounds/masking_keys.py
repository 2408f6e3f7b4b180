"""Asks the sites for the keys of a sum under masks, before any of them pays."""

import os
from collections import Counter
from collections.abc import Collection

from flwr.app import Message

from common.config.study import Study
from common.errors import HemofedError
from common.privacy.masking.pairwise_keys import EphemeralKey
from common.wire.agreement import Agreement, MaskingKey
from common.wire.messages import KEYS, Task
from common.wire.reply_status import AWAY, Kind, ReplyStatus
from server.rounds.dispatch import Dispatch
from server.rounds.messaging import Reply, unusable


class MaskingKeys:
    """The questions for keys of one study."""

    def __init__(self, study: Study, dispatch: Dispatch) -> None:
        self._study = study
        self._dispatch = dispatch

    def present(self, but: Collection[str]) -> tuple[str, ...]:
        """Return the connected sites that train but those in `but`, once there are enough.

        Raises:
            FederationError: too few connect within the round's deadline.
        """
        others = set(self._study.cohort) - set(self._study.training_sites)
        found = self._dispatch.present(others | set(but))
        return tuple(site for site in self._study.training_sites if site in found)

    def ask(self, asked: Agreement) -> dict[str, MaskingKey | ReplyStatus]:
        """Return each site's key, or why it has none that another site could use.

        Args:
            asked: the sum that the keys are for, without keys.
        """
        task = Task(self._study, asked.round, asked.attempt, agreement=asked)
        said: dict[str, MaskingKey | ReplyStatus] = dict.fromkeys(asked.sites, AWAY)
        for site, reply in self._dispatch.ask(KEYS, task, None, list(asked.sites), {}):
            said[site] = _key(reply)
        uses = Counter(key.public for key in said.values() if isinstance(key, MaskingKey))
        twice = ReplyStatus(Kind.LEFT_OUT, "its masking key is another site's, too")
        return {
            site: twice if isinstance(one, MaskingKey) and uses[one.public] > 1 else one
            for site, one in said.items()
        }


def _key(reply: Reply) -> MaskingKey | ReplyStatus:
    """The key in a site's answer, or why there is none that another site could use."""
    if not isinstance(reply, Message):
        return reply
    try:
        key = MaskingKey.read(reply)
        if key is not None:
            EphemeralKey(os.urandom(32)).shared(key.public)
    except HemofedError as error:
        return unusable(error)
    return key or ReplyStatus(Kind.LEFT_OUT, "its answer has no masking key")
