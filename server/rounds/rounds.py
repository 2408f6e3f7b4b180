"""The rounds of a study: ask the sites, check and aggregate what they send, step, remember.

Flower's own strategies have no quorum, deadline, checkpoint or resume; this loop does, on the
same Grid.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from flwr.serverapp import Grid
from numpy.typing import NDArray

from common.config.study import Study
from common.errors import FederationError
from common.files import write_text
from common.models import build, federated
from common.models.parameter_vector import Layout, flatten, load
from common.models.released import MODEL, write_model
from common.noised_tally import total
from common.wire.messages import Counted, Task, read_tally
from common.wire.reply_status import Kind, ReplyStatus
from common.wire.vector_codec import Vector
from server.aggregation.server_optimizer import Optimizer, averaged
from server.rounds import checkpoints
from server.rounds.checkpoints import State
from server.rounds.collection import Collection
from server.rounds.dispatch import Dispatch
from server.rounds.messaging import Reply, unusable
from server.rounds.model_selection import kept, note_score
from server.rounds.observer import Observer
from server.rounds.record import RoundRecord, Scores, SiteRecord, append, cut
from server.rounds.scores import scores
from server.rounds.suspension import Offences, asked_to_lift, note_lifted

OUTCOME = "outcome.json"
"""Called after each round."""


class NoQuorumError(FederationError):
    """Too few sound updates came for a round to count."""

    def __init__(self, message: str, statuses: Mapping[str, ReplyStatus]) -> None:
        super().__init__(message)
        self.statuses = dict(statuses)


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    rounds: int
    best_round: int
    """Of the model that is kept."""
    kept: str
    """Why it is that one."""
    stopped: Literal["completed", "early stop", "finished"]
    seconds: float
    scores: Scores
    """The kept model on the sites' test cells, as a round's record has its evaluation."""
    test: dict[str, Any]
    """On each site's test cells, as its tally's `to_json`."""
    bytes_down: int
    bytes_up: int
    """Of that test; the rounds' own are in their records."""


class Rounds:
    """A study's run in the folder `out`: rounds.jsonl, checkpoints/, model.safetensors."""

    def __init__(
        self,
        study: Study,
        grid: Grid,
        out: Path,
        observer: Observer,
    ) -> None:
        self._study = study
        self._out = out
        self._observer = observer
        self._model = build(study.model, len(study.cell_types), study.image_side, study.seed)
        self._parameters = federated(self._model)
        self._layout = Layout.of(self._model)
        self._dispatch = Dispatch(study, grid, observer)
        self._offences = Offences({}, study.round.suspend_after)

    def run(self) -> Outcome:
        """Run what is left of the study. Raises FederationError when a round has no quorum."""
        state = self._restore()
        optimizer = Optimizer(self._study.server, state.moments)
        while state.round < self._study.rounds and not self._stale(state):
            started = time.perf_counter()
            record = self._round(state, optimizer)
            state.seconds += record.seconds
            record.seconds = time.perf_counter() - started
            append(self._out, record)
            checkpoints.save(self._checkpoints, state, self._study.digest)
            self._observer.round_done(record)
        return self._finish(state)

    def finish(self) -> Outcome:
        """End with the rounds that are there: test and write the model of the last whole one.

        Sites that are away are no hindrance: those that are connected test it. Raises
        FederationError when there is no whole round.
        """
        state = self._restore()
        if not state.round:
            raise FederationError("no round is whole, so there is no model to test and write")
        self._dispatch.least = 0
        return self._finish(state, "finished")

    def _round(self, state: State, optimizer: Optimizer) -> RoundRecord:
        """Train, step and evaluate; `state` is moved on."""
        started = time.perf_counter()
        lifted = self._lift(state)
        attempt = checkpoints.begin(self._checkpoints, state.round + 1)
        record = RoundRecord(round=state.round + 1, attempt=attempt, lifted=lifted)
        state.model = optimizer.step(state.model, self._train(state, record))
        state.moments = optimizer.moments
        state.round += 1
        decay = self._study.server.ema
        state.average = averaged(state.average, state.model, decay, state.round)
        last = state.round == self._study.rounds
        if state.round % self._study.evaluation.every == 0 or last:
            record.evaluation = self._evaluate(state, attempt)
        record.bytes_down, record.bytes_up = self._dispatch.traffic.taken()
        record.seconds = time.perf_counter() - started
        return record

    def _train(self, state: State, record: RoundRecord) -> NDArray[np.float64]:
        """The sites' updates of this round as one; the record is told of every site."""
        task = Task(self._study, record.round, record.attempt)
        training = [name for name, member in self._study.cohort.items() if member.role == "train"]
        suspended = self._offences.suspended()
        sites = {one: SiteRecord(status=suspended[one]) for one in training if one in suspended}
        collection = Collection(self._study, self._layout)
        asked = time.perf_counter()
        for site, reply in self._dispatch.ask("train", task, state.model, training, suspended):
            found = collection.take(site, reply, time.perf_counter() - asked)
            sites[site] = self._noted(task, site, found)
        record.sites = dict(sorted(sites.items()))
        self._require_quorum(record)
        return collection.result()

    def _require_quorum(self, record: RoundRecord) -> None:
        if record.good < self._study.round.min_sites:
            statuses = {site: one.status for site, one in record.sites.items()}
            said = "; ".join(f"{site}: {status}" for site, status in statuses.items())
            raise NoQuorumError(
                f"round {record.round}: {record.good} sound updates, min_sites is "
                f"{self._study.round.min_sites} ({said}); the rounds before are kept, resume when "
                "the sites are well",
                statuses,
            )

    def _noted(self, task: Task, site: str, found: SiteRecord) -> SiteRecord:
        """The record's line, once it is counted for or against the site."""
        if found.status.ok:
            self._offences.sound(site)
        self._tell_left_out(task, site, found.status)
        if found.status.kind is Kind.LEFT_OUT and self._offences.left_out(site):
            return replace(found, suspended=True)
        return found

    def _evaluate(self, state: State, attempt: int) -> Scores:
        """The averaged model on every site's validation cells; the best one is remembered."""
        tallies = self._tallies(state.average, Task(self._study, state.round, attempt))
        pooled = self._pooled(tallies)
        note_score(state, pooled)
        return scores(pooled, tallies)

    def _tallies(self, model: Vector, task: Task) -> dict[str, Counted]:
        """The model on the sites' cells of a split; a site that does not answer is left out."""
        cohort, suspended = self._study.cohort, self._offences.suspended()
        asked = [site for site in cohort if task.split == "test" or cohort[site].role != "test"]
        tallies: dict[str, Counted] = {}
        for site, reply in self._dispatch.ask("evaluate", task, model, asked, suspended):
            said = self._tally(reply)
            if isinstance(said, ReplyStatus):
                self._tell_left_out(task, site, said)
            else:
                tallies[site] = said
        return dict(sorted(tallies.items()))

    def _tally(self, reply: Reply) -> Counted | ReplyStatus:
        """The tally of a reply, or why there is none."""
        if isinstance(reply, ReplyStatus):
            return reply
        try:
            return read_tally(reply, self._study)
        except Exception as error:
            return unusable(error)

    def _tell_left_out(self, task: Task, site: str, status: ReplyStatus) -> None:
        """Have it written down when a reply came and could not be used."""
        if status.kind is Kind.LEFT_OUT:
            self._observer.left_out(task.round, site, status.words)

    def _pooled(self, tallies: dict[str, Counted]) -> Counted:
        """The sum over the sites that train."""
        cohort = self._study.cohort
        training = [tally for site, tally in tallies.items() if cohort[site].role == "train"]
        return total(training, len(self._study.cell_types))

    @property
    def _checkpoints(self) -> Path:
        return self._out / "checkpoints"

    def _restore(self) -> State:
        """The checkpoint's state, or round 0; what was logged beyond it is forgotten."""
        state = checkpoints.load(self._checkpoints, self._study.digest)
        if state is None:
            first = flatten(self._parameters)
            state = State(round=0, model=first, average=first)
        self._dispatch.heads = state.heads
        self._offences = Offences(state.offences, self._study.round.suspend_after)
        cut(self._out, state.round)
        return state

    def _lift(self, state: State) -> list[str]:
        """Ask suspended sites again, as the operator wants; their names.

        The checkpoint knows it before the operator's note goes: neither a crash nor a later resume
        lifts a suspension twice.
        """
        asked = asked_to_lift(self._out)
        lifted = self._offences.forgive(asked)
        if lifted:
            checkpoints.save(self._checkpoints, state, self._study.digest)
        if asked:
            note_lifted(self._out)
        return lifted

    def _stale(self, state: State) -> bool:
        patience = self._study.evaluation.patience
        return patience is not None and state.stale >= patience

    def _finish(
        self, state: State, early: Literal["early stop", "finished"] = "early stop"
    ) -> Outcome:
        """Test and write the model that is kept."""
        chosen = kept(state)
        load(self._parameters, chosen.model)
        # Counted as the round after the last: a site answers no attempt twice, so a test that was
        # cut off is a new one.
        attempt = checkpoints.begin(self._checkpoints, state.round + 1)
        tallies = self._tallies(chosen.model, Task(self._study, state.round, attempt, "test"))
        write_model(self._model, self._study, self._out / MODEL)
        down, up = self._dispatch.traffic.taken()
        outcome = Outcome(
            rounds=state.round,
            best_round=chosen.round,
            kept=chosen.reason,
            stopped="completed" if state.round == self._study.rounds else early,
            seconds=state.seconds,
            scores=scores(self._pooled(tallies), tallies),
            test={site: tally.to_json() for site, tally in tallies.items()},
            bytes_down=down,
            bytes_up=up,
        )
        write_text(self._out / OUTCOME, json.dumps(asdict(outcome)))
        return outcome
