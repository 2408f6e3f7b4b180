"""Scores a model by counts that are summed under masks: one noise for all sites (mode distributed).

The sites whose policy lets noised counts leave mask them with one another. Those that let exact
ones leave answer by themselves, as in any other mode.
"""

import logging
from collections.abc import Collection
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from common.config.study import Study
from common.metrics import MOST_CELLS
from common.noised_tally import NoisedTally
from common.privacy.metrics_noise import shared_metrics_sigma
from common.wire.agreement import Agreement
from common.wire.messages import Task, read_masked_tally
from common.wire.reply_status import ReplyStatus
from common.wire.vector_codec import Vector
from server.rounds.dispatch import Dispatch
from server.rounds.masking_keys import MaskingKeys
from server.rounds.messaging import read_reply
from server.rounds.observer import Observer

_log = logging.getLogger(__name__)


class MaskedEvaluation:
    """The evaluations of one study."""

    def __init__(self, study: Study, dispatch: Dispatch, observer: Observer) -> None:
        self._study = study
        self._dispatch = dispatch
        self._observer = observer
        self._keys = MaskingKeys(study, dispatch)

    def counts(
        self, model: Vector, task: Task, but: Collection[str]
    ) -> tuple[NoisedTally | None, set[str]]:
        """Return the counts of the sites together, and which sites were asked for them.

        There are none if fewer sites give a key than the noise is made for, or if one of them then
        fails: a sum under masks cannot be read without it. An evaluation is not begun again, since
        each costs every site.

        Args:
            model: the parameters (P,) float32 that are evaluated.
            task: the round, the attempt and the split.
            but: suspended sites.

        Raises:
            FederationError: fewer than `round.min_sites` connect.
        """
        agreement = self._agree(task, but)
        if agreement is None:
            return None, set()
        classes, missing = len(self._study.cell_types), set(agreement.sites)
        total = np.zeros(classes**2 + 2, np.uint64)
        told = replace(task, agreement=agreement)
        for site, reply in self._dispatch.ask("evaluate", told, model, list(agreement.sites), {}):
            words = read_reply(reply, lambda message: read_masked_tally(message, classes))
            if isinstance(words, ReplyStatus):
                self._observer.left_out(task.round, site, words.words)
            else:
                total += words
                missing.discard(site)
        return None if missing else self._tally(total, len(agreement.sites)), set(agreement.sites)

    def _agree(self, task: Task, but: Collection[str]) -> Agreement | None:
        """Return an agreement of all sites that give a key; None if they are too few.

        Nobody is waited for: the round that is evaluated has been paid for.
        """
        present = self._dispatch.connected() - set(but)
        sites = tuple(site for site in self._study.training_sites if site in present)
        while len(sites) >= self._study.fewest_sites:
            asked = Agreement(task.round, task.attempt, sites, purpose=task.split)
            agreed = self._keys.ask(asked)
            if isinstance(agreed, Agreement):
                return agreed
            sites = tuple(site for site in sites if site not in agreed)
        return None

    def _tally(self, total: NDArray[np.uint64], sites: int) -> NoisedTally | None:
        """The counts that the sum stands for; None where no honest sites have as many cells."""
        counts = total.view(np.int64)
        if (np.abs(counts.astype(np.float64)) > MOST_CELLS).any():
            _log.warning("the sum of %d sites' counts is none of cells; not used", sites)
            return None
        return NoisedTally.of_counts(counts, sites * shared_metrics_sigma(self._study) ** 2)
