"""How the replies of a training round become one update: in the clear, added as they come."""

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
    """The updates of one round. Memory is that of the study's aggregation rule."""

    def __init__(self, study: Study, layout: Layout) -> None:
        self._study = study
        self._layout = layout
        self._updates = aggregation_for(study, layout.size)

    def take(self, site: str, reply: Message | ReplyStatus, seconds: float) -> SiteRecord:
        """Check a site's reply and add it; its line for the record.

        What cannot be used is left out, with why. seconds: that the reply took.
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
        """The round's update, (P,), by the study's rule."""
        return self._updates.result()
