"""Scores a model by counts that are summed under masks: one noise for all sites (mode distributed).

The sites whose policy lets noised counts leave mask them with one another. Those that let exact
ones leave answer by themselves, as in any other mode.
"""

from collections.abc import Collection

from common.config.study import Study
from common.metrics import MOST_CELLS
from common.noised_tally import NoisedTally
from common.privacy.metrics_noise import shared_metrics_sigma
from common.wire.messages import Task
from common.wire.vector_codec import Vector
from server.rounds.dispatch import Dispatch
from server.rounds.masked_counts import MaskedCounts
from server.rounds.observer import Observer


class MaskedEvaluation:
    """The evaluations of one study."""

    def __init__(self, study: Study, dispatch: Dispatch, observer: Observer) -> None:
        self._study = study
        self._dispatch = dispatch
        self._counts = MaskedCounts(study, dispatch, observer)

    def counts(
        self, model: Vector, task: Task, but: Collection[str]
    ) -> tuple[NoisedTally | None, set[str]]:
        """Return the counts of the sites together, and which sites were asked for them.

        There are none if fewer sites give a key than the noise is made for, or if one of them then
        fails. Nobody is waited for: the round that is evaluated has been paid for.

        Args:
            model: the parameters (P,) float32 that are evaluated.
            task: the round, the attempt and the split.
            but: suspended sites.

        Raises:
            FederationError: fewer than `round.min_sites` connect.
        """
        present = self._dispatch.connected() - set(but)
        agreement = self._counts.agree(task, task.split, present)
        if agreement is None:
            return None, set()
        size = len(self._study.cell_types) ** 2 + 2
        total = self._counts.total("evaluate", task, model, agreement, size, MOST_CELLS)
        together = set(agreement.sites)
        if total is None:
            return None, together
        variance = len(together) * shared_metrics_sigma(self._study) ** 2
        return NoisedTally.of_counts(total, variance), together
