"""Collects the masked sums of a training round; only the sum over all its sites can be read."""

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from common.errors import FederationError
from common.models.parameter_vector import Layout
from common.privacy.masking.integer_sum import IntegerSum
from common.wire.messages import MaskedUpdate
from common.wire.reply_status import OK
from server.aggregation.masked_sum import MaskedSum
from server.aggregation.norms import update_norm
from server.rounds.collection import ReplyCollection
from server.rounds.record import SiteRecord


class MaskedCollection(ReplyCollection):
    """The masked sums of one attempt, added up as they come in the memory of two vectors.

    A reply that cannot be used makes the attempt lost.
    """

    def __init__(self, plan: IntegerSum, sites: tuple[str, ...], layout: Layout) -> None:
        """
        Args:
            plan: the constants of the sum.
            sites: those that masked with one another: all of them must answer.
            layout: the model's, which each answer has to name.
        """
        super().__init__(layout)
        self._plan = plan
        self._missing = set(sites)
        self._sum = MaskedSum(plan.size, plan.bits)

    def _add(self, site: str, reply: Message) -> SiteRecord:
        update = MaskedUpdate.read(reply, self._plan.size, self._plan.form)
        self._require_layout(update.layout)
        self._sum.add(update.packed)
        self._missing.discard(site)
        return SiteRecord(status=OK, epsilon=update.epsilon)

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
