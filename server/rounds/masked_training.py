"""Trains a round in mode distributed: keys first, then one sum of all sites, begun again at a loss.

A sum under masks cannot be read without every one of its sites. When one fails, the attempt is lost
and a new one begins without it, with fresh keys, samples, noise and debits: what a site masked once
never enters another sum, and no secret of a site is ever given away (docs/privacy.md says what this
costs beside shared secrets).
"""

import time
from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import nn

from common.config.study import Study
from common.models.parameter_vector import Layout
from common.privacy.masking.study_sum import study_sum
from common.wire.agreement import Agreement
from common.wire.messages import Task
from common.wire.reasons import Reason
from common.wire.reply_status import AWAY, Kind, ReplyStatus
from common.wire.vector_codec import Vector
from server.rounds.dispatch import Dispatch
from server.rounds.masked_collection import MaskedCollection
from server.rounds.masked_step import MaskedStep
from server.rounds.masking_keys import MaskingKeys
from server.rounds.quorum import require_quorum
from server.rounds.record import RoundRecord, SiteRecord

_FRESH_KEYS_HELP = (Reason.LOST_KEY, Reason.MASKING_KEY)
"""Why a site may refuse a sum that it takes part in once all have fresh keys: its process was
started anew, or a member's keys were renewed in the registry meanwhile."""
_LONGEST_REST = 6
"""A site that lost sums again and again rests for at most 2^6 - 1 rounds."""

Noted = Callable[[Task, str, SiteRecord], SiteRecord]
"""Counts a site's reply for or against it, and returns its line of the record."""


class MaskedTraining:
    """The rounds of one study."""

    def __init__(self, study: Study, model: nn.Module, layout: Layout, dispatch: Dispatch) -> None:
        self._study = study
        self._layout = layout
        self._dispatch = dispatch
        self._step = MaskedStep(study, model)
        self._keys = MaskingKeys(study, dispatch)
        self._cost: Counter[str] = Counter()
        """Site -> how many attempts were lost by it."""
        self._again: dict[str, int] = {}
        """Site -> the round from which it is asked again."""
        self._rested: dict[str, SiteRecord] = {}
        """The sites that the present round does not ask, as long as there are enough others."""

    def train(
        self, model: Vector, record: RoundRecord, noted: Noted, again: Callable[[], int]
    ) -> NDArray[np.float64]:
        """Return the change of the model, (P,) float64, and note every site in the record.

        Args:
            model: the model (P,) float32 that the sites are given.
            record: the round; its `sites` are those that are suspended, and its attempt grows.
            noted: called with each reply to the question for a sum.
            again: begins another attempt of the round and returns its number.

        Raises:
            NoQuorumError: fewer sites are left than the study's noise is made for.
            FederationError: too few sites connect, or the sum is none of honest sites.
        """
        self._rested = self._resting(record)
        failed, forgetful = record.sites | self._rested, set[str]()
        while True:
            agreement = self._agree(record, failed)
            found, total = self._ask(model, record, agreement, noted)
            record.sites = dict(sorted((failed | found).items()))
            if total is not None:
                return self._step.change(record.round, agreement.sites, total)
            for site, one in found.items():
                if one.status.reason in _FRESH_KEYS_HELP and site not in forgetful:
                    forgetful.add(site)  # once a round: each attempt costs every site
                elif not one.status.ok:
                    failed[site] = one
                    if one.status is not AWAY:  # gone before anybody was asked, it cost nothing
                        self._lost_by(site, record.round)
            self._require_enough(record, failed)
            record.attempt = again()

    def _lost_by(self, site: str, number: int) -> None:
        """Let the site rest for 0, 1, 3, 7, ... rounds: an attempt lost costs every other site."""
        self._cost[site] += 1
        self._again[site] = number + 2 ** min(self._cost[site] - 1, _LONGEST_REST)

    def _resting(self, record: RoundRecord) -> dict[str, SiteRecord]:
        """Return the sites that this round does not ask, unless too few would be left."""
        sites = {
            site: SiteRecord(status=ReplyStatus(Kind.LOST, f"lost sums; again in round {number}"))
            for site, number in sorted(self._again.items())
            if number > record.round and site not in record.sites
        }
        left = len(self._study.training_sites) - len(record.sites) - len(sites)
        return sites if left >= self._study.fewest_sites else {}

    def _ask(
        self, model: Vector, record: RoundRecord, agreement: Agreement, noted: Noted
    ) -> tuple[dict[str, SiteRecord], NDArray[np.float32] | None]:
        """Return what each site of the agreement did, and the sum unless one of them failed.

        No site is asked, and pays, while another of them is gone.
        """
        present = self._keys.present({})
        if gone := [site for site in agreement.sites if site not in present]:
            return {site: SiteRecord(status=AWAY) for site in gone}, None
        plan = study_sum(self._study, self._step.size(record.round))
        collection = MaskedCollection(plan, agreement.sites, self._layout)
        task = Task(self._study, record.round, record.attempt, agreement=agreement)
        found = {site: SiteRecord(status=AWAY) for site in agreement.sites}
        asked = time.perf_counter()
        for site, reply in self._dispatch.ask("train", task, model, list(agreement.sites), {}):
            one = collection.take(site, reply, time.perf_counter() - asked)
            found[site] = noted(task, site, one)
        return found, collection.total() if collection.complete else None

    def _agree(self, record: RoundRecord, failed: dict[str, SiteRecord]) -> Agreement:
        """Return an agreement of all sites that are connected and have not failed, on fresh keys.

        Sites that give no key are added to `failed`; that costs nobody anything.
        """
        while True:
            self._require_enough(record, failed)
            sites = self._keys.present(failed)
            self._require_enough(record, failed, len(sites))
            asked = Agreement(record.round, record.attempt, sites)
            agreed = self._keys.ask(asked)
            if isinstance(agreed, Agreement):
                return agreed
            failed |= {site: SiteRecord(status=status) for site, status in agreed.items()}

    def _require_enough(
        self, record: RoundRecord, failed: dict[str, SiteRecord], left: int | None = None
    ) -> None:
        """Raise NoQuorumError unless enough sites are left; those that rest are asked before that.

        Args:
            record: the round; those that failed are noted in it.
            failed: the sites that take no part any more; those that rest are taken out.
            left: how many are left; None: all that train and have not failed.
        """
        training, needed = set(self._study.training_sites), self._study.fewest_sites
        if len(training - set(failed)) < needed:
            for site in self._rested:
                failed.pop(site, None)
                record.sites.pop(site, None)
            self._rested = {}
        record.sites = dict(sorted((record.sites | failed).items()))
        good = len(training - set(failed)) if left is None else left
        require_quorum(record, good, needed, "the least that a sum needs")
