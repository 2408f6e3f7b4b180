"""Asks the sites for a model's counts on their cells, and pools those of the sites that train."""

from collections.abc import Mapping
from dataclasses import dataclass

from common.config.study import Study
from common.noised_tally import NoisedTally, total
from common.wire.messages import Counted, Task, read_tally
from common.wire.reply_status import Kind, ReplyStatus
from common.wire.vector_codec import Vector
from server.rounds.dispatch import Dispatch
from server.rounds.masked_evaluation import MaskedEvaluation
from server.rounds.messaging import read_reply
from server.rounds.observer import Observer


@dataclass(frozen=True)
class Tallies:
    """What the sites say of a model."""

    of_site: dict[str, Counted]
    """Site -> its counts, of the sites that answered by themselves."""
    pooled: Counted
    """The sum of the counts of all sites that train, those under masks too; empty, so that it gives
    no score, where a sum under masks was lost: what is left would speak for a few sites alone."""


class Evaluation:
    """The evaluations of one study."""

    def __init__(self, study: Study, dispatch: Dispatch, observer: Observer) -> None:
        self._study = study
        self._dispatch = dispatch
        self._observer = observer
        self._masked: MaskedEvaluation | None = None
        if study.privacy.mode == "distributed":
            self._masked = MaskedEvaluation(study, dispatch, observer)

    def tallies(self, model: Vector, task: Task, suspended: Mapping[str, ReplyStatus]) -> Tallies:
        """Return the model's counts on the sites' cells of the task's split.

        A site without a usable answer is left out.

        Args:
            model: the parameters (P,) float32 that are evaluated.
            task: the round, the attempt and the split.
            suspended: suspended sites, which are not asked.

        Raises:
            FederationError: too few sites connect.
        """
        cohort, shared, together = self._study.cohort, None, set[str]()
        if self._masked is not None:
            shared, together = self._masked.counts(model, task, suspended)
        asked = [
            site
            for site in cohort
            if site not in together and (task.split == "test" or cohort[site].role != "test")
        ]
        tallies: dict[str, Counted] = {}
        for site, reply in self._dispatch.ask("evaluate", task, model, asked, suspended):
            said = read_reply(reply, lambda message: read_tally(message, self._study))
            if not isinstance(said, ReplyStatus):
                tallies[site] = said
            elif said.kind is Kind.LEFT_OUT:
                self._observer.left_out(task.round, site, said.words)
        lost = bool(together) and shared is None
        pooled = self._pooled({} if lost else tallies, shared)
        return Tallies(dict(sorted(tallies.items())), pooled)

    def _pooled(self, tallies: Mapping[str, Counted], shared: NoisedTally | None) -> Counted:
        """Return the sum of the counts of the sites that train."""
        training = [tally for site, tally in tallies.items() if site in self._study.training_sites]
        masked = [] if shared is None else [shared]
        return total([*training, *masked], len(self._study.cell_types))
