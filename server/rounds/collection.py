"""Collects the replies of a training round into one update, in the order in which they come."""

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from common.config.study import Study
from common.errors import ModelError
from common.models.parameter_vector import Layout
from common.wire.messages import Update
from common.wire.reply_status import OK, ReplyStatus
from server.aggregation.rules import aggregation_for
from server.rounds.messaging import unusable
from server.rounds.record import SiteRecord


class Collection:
    """The updates of one round. The study's aggregation rule decides how much memory they take."""

    def __init__(self, study: Study, layout: Layout) -> None:
        """layout: the model's, which each update has to name."""
        self._study = study
        self._layout = layout
        self._updates = aggregation_for(study, layout.size)

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
        if isinstance(reply, ReplyStatus):
            return SiteRecord(status=reply, seconds=seconds)
        try:
            update = Update.read(reply, self._layout.size, self._study.transport.up)
            if update.layout != self._layout.digest:
                raise ModelError(f"its layout {update.layout[:12]} is not the study's")
            norm = self._updates.add(site, update.values)
        except Exception as error:
            return SiteRecord(status=unusable(error), seconds=seconds)
        return SiteRecord(
            status=OK,
            seconds=seconds,
            update_norm=norm,
            loss=update.loss,
            epsilon=update.epsilon,
        )

    def result(self) -> NDArray[np.float64]:
        """Return the round's update, (P,) float64, as the study's rule aggregates it.

        Raises:
            HemofedError: too few updates were added for the rule.
        """
        return self._updates.result()
