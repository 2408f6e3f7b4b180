"""Collects the replies of a training round into one update, in the order in which they come."""

from abc import ABC, abstractmethod
from dataclasses import replace

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from common.config.study import Study
from common.errors import ModelError
from common.models.parameter_vector import Layout
from common.wire.messages import Update
from common.wire.reply_status import OK, ReplyStatus
from server.aggregation.rules import aggregation_for
from server.rounds.messaging import read_reply
from server.rounds.record import SiteRecord


class ReplyCollection(ABC):
    """Takes the replies of a training round; how they become one update is its subclasses' part."""

    def __init__(self, layout: Layout) -> None:
        """layout: the model's, which each update has to name."""
        self._layout = layout

    def take(self, site: str, reply: Message | ReplyStatus, seconds: float) -> SiteRecord:
        """Check a site's reply, add its update, and return the site's line of the round's record.

        An update that cannot be used is left out, and the line says why.

        Args:
            site: the site that was asked.
            reply: its reply, or why there is none.
            seconds: the time from the question to the reply.

        Raises:
            MemoryError, OSError: this machine is out of memory or its disk fails.
        """
        found = read_reply(reply, lambda message: self._add(site, message))
        if isinstance(found, ReplyStatus):
            return SiteRecord(status=found, seconds=seconds)
        return replace(found, seconds=seconds)

    @abstractmethod
    def _add(self, site: str, reply: Message) -> SiteRecord:
        """Add the update in a reply, and return what the site's line says of it.

        Whatever this raises makes the reply unusable; nothing of it is added then.
        """

    def _require_layout(self, named: str) -> None:
        """Raise ModelError unless an update names the study's layout."""
        if named != self._layout.digest:
            raise ModelError(f"its layout {named[:12]} is not the study's")


class Collection(ReplyCollection):
    """The updates of one round. The study's aggregation rule decides how much memory they take."""

    def __init__(self, study: Study, layout: Layout) -> None:
        super().__init__(layout)
        self._study = study
        self._updates = aggregation_for(study, layout.size)

    def _add(self, site: str, reply: Message) -> SiteRecord:
        update = Update.read(reply, self._layout.size, self._study.transport.up)
        self._require_layout(update.layout)
        norm = self._updates.add(site, update.values)
        return SiteRecord(status=OK, update_norm=norm, loss=update.loss, epsilon=update.epsilon)

    def result(self) -> NDArray[np.float64]:
        """Return the round's update, (P,) float64, as the study's rule aggregates it.

        Raises:
            HemofedError: too few updates were added for the rule.
        """
        return self._updates.result()
