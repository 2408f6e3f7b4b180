"""Sums of counts under masks, each asked for once: one that loses a site is not begun again."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from common.config.study import Study
from common.wire.agreement import Agreement, Purpose
from common.wire.messages import Task, read_masked_counts
from common.wire.reasons import Reason
from common.wire.reply_status import ReplyStatus
from common.wire.vector_codec import Vector
from server.rounds.dispatch import Dispatch
from server.rounds.masking_keys import MaskingKeys
from server.rounds.messaging import read_reply
from server.rounds.observer import Observer

_log = logging.getLogger(__name__)


class MaskedCounts:
    """The sums of counts of one study. None is begun again, since each costs every site."""

    def __init__(self, study: Study, dispatch: Dispatch, observer: Observer) -> None:
        self._study = study
        self._dispatch = dispatch
        self._observer = observer
        self.keys = MaskingKeys(study, dispatch)

    def agree(self, task: Task, purpose: Purpose, present: Collection[str]) -> Agreement | None:
        """Return an agreement of all sites that give a key; None if they are too few.

        No site is asked for counts, and pays, while another of the agreement is gone.

        Args:
            task: the round and the attempt.
            purpose: what is summed.
            present: the sites that may be asked, of which those that train are.
        """
        sites = tuple(site for site in self._study.training_sites if site in present)
        while len(sites) >= self._study.fewest_sites:
            agreed = self.keys.ask(Agreement(task.round, task.attempt, sites, purpose=purpose))
            if isinstance(agreed, Agreement):
                gone = set(sites) - self._dispatch.connected()
                if not gone:
                    return agreed
            else:
                gone = set(agreed)
                self._tell(task.round, agreed)
            sites = tuple(site for site in sites if site not in gone)
        return None

    def _tell(self, number: int, lacking: Mapping[str, ReplyStatus]) -> None:
        """Tell the observer why sites give no key, but not of those whose policy lets no counts
        out: that is so at each evaluation."""
        for site, said in lacking.items():
            if said.reason is not Reason.METRICS:
                self._observer.left_out(number, site, str(said))

    def total(
        self,
        kind: str,
        task: Task,
        model: Vector | None,
        agreement: Agreement,
        size: int,
        most: int,
    ) -> NDArray[np.int64] | None:
        """Ask the agreement's sites, and return the sum of their counts, (size,).

        There is none if one of the sites fails, since a sum under masks cannot be read without it,
        or if the sum is none of honest sites.

        Args:
            kind: the message type.
            task: the round, the attempt and the split.
            model: the parameters (P,) float32 that are sent; None: none.
            agreement: all sites of the sum, with their keys.
            size: how many counts each has.
            most: the largest size that a count in the sum may have.

        Raises:
            FederationError: too few sites connect.
        """
        missing, words = set(agreement.sites), np.zeros(size, np.uint64)
        told = replace(task, agreement=agreement)
        for site, reply in self._dispatch.ask(kind, told, model, list(agreement.sites), {}):
            found = read_reply(reply, lambda message: read_masked_counts(message, size))
            if isinstance(found, ReplyStatus):
                self._observer.left_out(task.round, site, str(found))
            else:
                words += found
                missing.discard(site)
        counts = words.view(np.int64)
        if missing:
            return None
        if (np.abs(counts.astype(np.float64)) > most).any():
            _log.warning("a sum over %d sites is none of cells; not used", len(agreement.sites))
            return None
        return counts
