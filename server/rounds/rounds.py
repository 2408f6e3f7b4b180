"""Runs the rounds of a study: asks the sites, checks and aggregates their updates, and steps.

Flower's own strategies have no quorum, deadline, checkpoint or resume. This loop has them, on the
same Grid.
"""

import json
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
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
from common.wire.messages import Task
from common.wire.reply_status import Kind, ReplyStatus
from server.aggregation.server_optimizer import Optimizer, averaged
from server.rounds import checkpoints
from server.rounds.checkpoints import State
from server.rounds.collection import Collection
from server.rounds.dispatch import Dispatch
from server.rounds.evaluation import Evaluation
from server.rounds.masked_statistics import MaskedStatistics
from server.rounds.masked_training import MaskedTraining
from server.rounds.model_selection import kept, note_score
from server.rounds.observer import Observer
from server.rounds.quorum import require_quorum
from server.rounds.record import RoundRecord, Scores, SiteRecord, append, cut
from server.rounds.scores import scores
from server.rounds.suspension import Offences, asked_to_lift, note_lifted

OUTCOME = "outcome.json"
"""The name of the file in the folder of a run that holds its `Outcome`."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    rounds: int
    """The number of rounds that were run."""
    best_round: int
    """The round of the model that is kept."""
    kept: str
    """Why this model is kept, in words."""
    stopped: Literal["completed", "early stop", "finished"]
    """Whether all rounds were run, `evaluation.patience` ran out, or the operator ended the run."""
    seconds: float
    """The time that the rounds took."""
    scores: Scores
    """The kept model's scores on the sites' test cells, in the form of a round's evaluation."""
    test: dict[str, Any]
    """Site -> the kept model's counts on its test cells, as `to_json` of its tally gives them."""
    bytes_down: int
    """Bytes of the test's messages to the sites. The rounds' bytes are in their records."""
    bytes_up: int
    """Bytes of the sites' sound replies to the test."""


class Rounds:
    """A study's run, kept in the folder `out`.

    The folder holds rounds.jsonl, checkpoints/, statistics.json if the study asks for statistics,
    and at the end model.safetensors and outcome.json.
    """

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
        self._masked: MaskedTraining | None = None
        self._evaluation = Evaluation(study, self._dispatch, observer)
        if study.privacy.mode == "distributed":
            self._masked = MaskedTraining(study, self._model, self._layout, self._dispatch)

    def run(self) -> Outcome:
        """Run the study's remaining rounds, then test and write the model that is kept.

        A run that was cut off continues from its last whole round.

        Raises:
            NoQuorumError: a round has too few sound updates. The earlier rounds are kept.
            FederationError: too few sites connect, or the checkpoint cannot be used.
        """
        state = self._restore()
        if state.round == 0 and self._study.privacy.statistics_epsilon is not None:
            MaskedStatistics(self._study, self._dispatch, self._observer).collect(self._out)
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
        """End the run with the rounds it has, then test and write the model that is kept.

        The connected sites test the model; it does not matter how many they are.

        Raises:
            FederationError: there is no whole round, or the checkpoint cannot be used.
        """
        state = self._restore()
        if not state.round:
            raise FederationError("no round is whole, so there is no model to test and write")
        self._dispatch.least = 0
        return self._finish(state, "finished")

    def _round(self, state: State, optimizer: Optimizer) -> RoundRecord:
        """Train, step and evaluate once; `state` is changed in place."""
        started = time.perf_counter()
        lifted = self._lift(state)
        attempt = checkpoints.begin(self._checkpoints, state.round + 1)
        record = RoundRecord(round=state.round + 1, attempt=attempt, lifted=lifted)
        change = (
            self._train(state, record)
            if self._masked is None
            else self._train_masked(self._masked, state, record)
        )
        state.model = optimizer.step(state.model, change)
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
        """Return the round's aggregated update, (P,) float64, and note every site in the record."""
        task = Task(self._study, record.round, record.attempt)
        training, suspended = list(self._study.training_sites), self._offences.suspended()
        sites = self._suspended()
        collection = Collection(self._study, self._layout)
        asked = time.perf_counter()
        for site, reply in self._dispatch.ask("train", task, state.model, training, suspended):
            found = collection.take(site, reply, time.perf_counter() - asked)
            sites[site] = self._noted(task, site, found)
        record.sites = dict(sorted(sites.items()))
        require_quorum(record, record.good, self._study.round.min_sites, "min_sites")
        return collection.result()

    def _train_masked(
        self, masked: MaskedTraining, state: State, record: RoundRecord
    ) -> NDArray[np.float64]:
        """Do what `_train` does, in mode distributed."""
        record.sites = self._suspended()
        again = partial(checkpoints.begin, self._checkpoints, record.round)
        return masked.train(state.model, record, self._noted, again)

    def _suspended(self) -> dict[str, SiteRecord]:
        """Return the lines of the training sites that are suspended."""
        training, suspended = self._study.training_sites, self._offences.suspended()
        return {one: SiteRecord(status=suspended[one]) for one in training if one in suspended}

    def _noted(self, task: Task, site: str, found: SiteRecord) -> SiteRecord:
        """Count the reply for or against the site, and return its line of the record."""
        if found.status.ok:
            self._offences.sound(site)
        self._tell_left_out(task, site, found.status)
        if found.status.kind is Kind.LEFT_OUT and self._offences.left_out(site):
            return replace(found, suspended=True)
        return found

    def _evaluate(self, state: State, attempt: int) -> Scores:
        """Score the averaged model on the validation cells, and note it if it is the best."""
        task = Task(self._study, state.round, attempt)
        found = self._evaluation.tallies(state.average, task, self._offences.suspended())
        note_score(state, found.pooled)
        return scores(found.pooled, found.of_site)

    def _tell_left_out(self, task: Task, site: str, status: ReplyStatus) -> None:
        """Tell the observer if the site's reply came but could not be used."""
        if status.kind is Kind.LEFT_OUT:
            self._observer.left_out(task.round, site, status.words)

    @property
    def _checkpoints(self) -> Path:
        return self._out / "checkpoints"

    def _restore(self) -> State:
        """Return the checkpoint's state, or that of round 0; cut the log back to it."""
        state = checkpoints.load(self._checkpoints, self._study.digest)
        if state is None:
            first = flatten(self._parameters)
            state = State(round=0, model=first, average=first)
        self._dispatch.heads = state.heads
        self._offences = Offences(state.offences, self._study.round.suspend_after)
        cut(self._out, state.round)
        return state

    def _lift(self, state: State) -> list[str]:
        """Lift the suspensions that the operator asked to lift, and return these sites' names.

        The checkpoint is written before the operator's note is deleted, so that neither a crash nor
        a later resume lifts a suspension twice.
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
        # The test counts as the round after the last. A site never answers the same attempt twice,
        # so a test that was cut off needs a new attempt.
        attempt = checkpoints.begin(self._checkpoints, state.round + 1)
        task = Task(self._study, state.round, attempt, "test")
        found = self._evaluation.tallies(chosen.model, task, self._offences.suspended())
        write_model(self._model, self._study, self._out / MODEL)
        down, up = self._dispatch.traffic.taken()
        outcome = Outcome(
            rounds=state.round,
            best_round=chosen.round,
            kept=chosen.reason,
            stopped="completed" if state.round == self._study.rounds else early,
            seconds=state.seconds,
            scores=scores(found.pooled, found.of_site),
            test={site: tally.to_json() for site, tally in found.of_site.items()},
            bytes_down=down,
            bytes_up=up,
        )
        write_text(self._out / OUTCOME, json.dumps(asdict(outcome)))
        return outcome
