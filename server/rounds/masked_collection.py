"""Collects the masked sums of a training round; only the sum over all its sites can be read."""

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from common.errors import FederationError, ModelError
from common.privacy.masking.integer_sum import IntegerSum
from common.wire.messages import MaskedUpdate
from common.wire.reply_status import OK, ReplyStatus
from server.aggregation.masked_sum import MaskedSum
from server.aggregation.norms import update_norm
from server.rounds.messaging import unusable
from server.rounds.record import SiteRecord


class MaskedCollection:
    """The masked sums of one attempt, added up as they come in the memory of two vectors."""

    def __init__(self, plan: IntegerSum, sites: tuple[str, ...], layout: str) -> None:
        """
        Args:
            plan: the constants of the sum.
            sites: those that masked with one another: all of them must answer.
            layout: the digest of the model's layout, which each answer has to name.
        """
        self._plan = plan
        self._layout = layout
        self._missing = set(sites)
        self._sum = MaskedSum(plan.size, plan.bits)

    def take(self, site: str, reply: Message | ReplyStatus, seconds: float) -> SiteRecord:
        """Check a site's reply, add its sum, and return the site's line of the round's record.

        A reply that cannot be used is left out, and the line says why; then the attempt is lost.

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
            update = MaskedUpdate.read(reply, self._plan.size, self._plan.form)
            if update.layout != self._layout:
                raise ModelError(f"its layout {update.layout[:12]} is not the study's")
            self._sum.add(update.packed)
        except Exception as error:
            return SiteRecord(status=unusable(error), seconds=seconds)
        self._missing.discard(site)
        return SiteRecord(status=OK, seconds=seconds, epsilon=update.epsilon)

    @property
    def complete(self) -> bool:
        """Whether every site's sum is in, so that the masks have cancelled."""
        return not self._missing

    def total(self) -> NDArray[np.float32]:
        """Return the noised sum over all sites, (P,) float32.

        Raises:
            FederationError: a site's sum is missing, so that what is there is uniform noise; or the
                sum is longer than the units of honest sites can make it.
        """
        if self._missing:
            raise FederationError(f"no sum without {', '.join(sorted(self._missing))}")
        total = self._plan.decode(self._sum.total())
        if (norm := update_norm(total)) > self._plan.norm:
            raise FederationError(
                f"the sites' sum has norm {norm:.3g}, and all their units and noise come to "
                f"{self._plan.norm:.3g} at most: a site sent what is no sum of its own, masked "
                "with others than it was told, or has far more units than it declares. Nothing "
                "was used. Under masks nobody can see which it was; ask the sites for their "
                "versions, logs and units before you resume"
            )
        return total
