"""Asks the sites for the keys of a sum under masks, before any of them pays."""

import os
from collections import Counter
from collections.abc import Collection
from dataclasses import replace

from flwr.app import Message

from common.config.study import Study
from common.errors import FederationError
from common.privacy.masking.pairwise_keys import EphemeralKey
from common.wire.agreement import Agreement, MaskingKey
from common.wire.messages import KEYS, Task
from common.wire.reply_status import AWAY, Kind, ReplyStatus
from server.rounds.dispatch import Dispatch
from server.rounds.messaging import read_reply

_TWICE = ReplyStatus(Kind.LEFT_OUT, "its masking key is another site's, too")


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

    def ask(self, asked: Agreement) -> Agreement | dict[str, ReplyStatus]:
        """Return the agreement with the key of every site, or why which sites have none.

        Args:
            asked: the sum that the keys are for, without keys.
        """
        task = Task(self._study, asked.round, asked.attempt, agreement=asked)
        said: dict[str, MaskingKey | ReplyStatus] = dict.fromkeys(asked.sites, AWAY)
        for site, reply in self._dispatch.ask(KEYS, task, None, list(asked.sites), {}):
            said[site] = read_reply(reply, _usable_key)
        keys = {site: key for site, key in said.items() if isinstance(key, MaskingKey)}
        lacking = {site: one for site, one in said.items() if isinstance(one, ReplyStatus)}
        uses = Counter(key.public for key in keys.values())
        lacking |= {site: _TWICE for site, key in keys.items() if uses[key.public] > 1}
        return lacking or replace(asked, keys=keys)


def _usable_key(reply: Message) -> MaskingKey:
    """The key in a site's answer. Raises HemofedError for none that another site could use."""
    key = MaskingKey.read(reply)
    if key is None:
        raise FederationError("its answer has no masking key")
    EphemeralKey(os.urandom(32)).shared(key.public)
    return key
