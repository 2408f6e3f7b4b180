"""Scores a model by counts that are summed under masks: one noise for all sites (mode distributed).

The sites whose policy lets noised counts leave mask them with one another. Those that let exact
ones leave answer by themselves, as in any other mode.
"""

import logging
from collections.abc import Collection
from dataclasses import replace

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from common.config.study import Study
from common.metrics import MOST_CELLS
from common.noised_tally import NoisedTally
from common.privacy.metrics_noise import shared_metrics_sigma
from common.wire.agreement import Agreement, MaskingKey
from common.wire.messages import Task, read_masked_tally
from common.wire.reply_status import ReplyStatus
from common.wire.vector_codec import Vector
from server.rounds.dispatch import Dispatch
from server.rounds.masking_keys import MaskingKeys
from server.rounds.messaging import unusable
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
            words = _words(reply, classes)
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
            said = self._keys.ask(asked)
            keys = {site: key for site, key in said.items() if isinstance(key, MaskingKey)}
            if len(keys) == len(sites):
                return replace(asked, keys=keys)
            sites = tuple(site for site in sites if site in keys)
        return None

    def _tally(self, total: NDArray[np.uint64], sites: int) -> NoisedTally | None:
        """The counts that the sum stands for; None where no honest sites have as many cells."""
        counts = total.view(np.int64)
        if (np.abs(counts.astype(np.float64)) > MOST_CELLS).any():
            _log.warning("the sum of %d sites' counts is none of cells; not used", sites)
            return None
        return NoisedTally.of_counts(counts, sites * shared_metrics_sigma(self._study) ** 2)


def _words(reply: Message | ReplyStatus, classes: int) -> NDArray[np.uint64] | ReplyStatus:
    """The masked counts in a reply, or why there are none."""
    if isinstance(reply, ReplyStatus):
        return reply
    try:
        return read_masked_tally(reply, classes)
    except Exception as error:
        return unusable(error)
