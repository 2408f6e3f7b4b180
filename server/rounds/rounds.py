"""The rounds of a study: ask the sites, check and aggregate what they send, step, remember.

Flower's own strategies have no quorum, deadline, checkpoint or resume; this loop does, on the
same Grid.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid
from numpy.typing import NDArray
from safetensors.torch import save_file

from common.config.study import Study
from common.errors import FederationError, ModelError
from common.files import replacing, sync, write_text
from common.models import Classifier, build, federated
from common.models.parameter_vector import Layout, flatten, load
from common.noised_tally import total
from common.wire.messages import Counted, Task, Update, content_bytes, read_head, read_tally
from common.wire.vector_codec import Vector, encode
from server.aggregation.rules import Aggregation, aggregation_for
from server.aggregation.server_optimizer import Optimizer, averaged
from server.rounds import checkpoints
from server.rounds.checkpoints import State
from server.rounds.messaging import NoReply, Reply, Roster, exchange, unusable
from server.rounds.model_selection import kept, note_score
from server.rounds.observer import Unwatched, Watcher
from server.rounds.suspension import Offences, asked_to_lift, note_lifted

OUTCOME, MODEL = "outcome.json", "model.safetensors"

Record = dict[str, Any]
"""A round as one line of rounds.jsonl."""

Observer = Callable[[Record], None]
"""Called after each round."""


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
    scores: Record
    """The kept model on the sites' test cells, as a round's record has its evaluation."""
    test: dict[str, Any]
    """On each site's test cells, as its tally's `to_json`."""
    bytes_down: int
    bytes_up: int
    """Of that test; the rounds' own are in their records."""


@dataclass
class _Traffic:
    """Bytes of the messages to the sites and of their sound replies, since `taken`."""

    down: int = 0
    up: int = 0

    def taken(self) -> dict[str, int]:
        found = {"bytes_down": self.down, "bytes_up": self.up}
        self.down = self.up = 0
        return found


class Rounds:
    """A study's run in the folder `out`: rounds.jsonl, checkpoints/, model.safetensors."""

    def __init__(
        self,
        study: Study,
        grid: Grid,
        out: Path,
        observe: Observer | None,
        watcher: Watcher | None = None,
    ) -> None:
        self._study = study
        self._grid = grid
        self._out = out
        self._observe = observe
        self._watcher = watcher or Unwatched()
        self._model = build(study.model, len(study.cell_types), study.image_side, study.seed)
        self._parameters = federated(self._model)
        self._layout = Layout.of(self._model)
        self._roster = Roster(grid, set(study.cohort))
        self._heads: dict[str, str] = {}
        self._traffic = _Traffic()
        self._offences = Offences({}, study.round.suspend_after)
        self._least = study.round.min_sites
        """Sites that must be connected before any is asked."""

    def run(self) -> Outcome:
        """Run what is left of the study. Raises FederationError when a round has no quorum."""
        state = self._restore()
        optimizer = Optimizer(self._study.server, state.moments)
        while state.round < self._study.rounds and not self._stale(state):
            started = time.perf_counter()
            record = self._round(state, optimizer)
            state.seconds += record["seconds"]
            record["seconds"] = time.perf_counter() - started
            self._append(record)
            checkpoints.save(self._checkpoints, state, self._study.digest)
            if self._observe:
                self._observe(record)
        return self._finish(state)

    def finish(self) -> Outcome:
        """End with the rounds that are there: test and write the model of the last whole one.

        Sites that are away are no hindrance: those that are connected test it. Raises
        FederationError when there is no whole round.
        """
        state = self._restore()
        if not state.round:
            raise FederationError("no round is whole, so there is no model to test and write")
        self._least = 0
        return self._finish(state, "finished")

    def _round(self, state: State, optimizer: Optimizer) -> Record:
        """Train, step and evaluate; `state` is moved on."""
        started = time.perf_counter()
        lifted = self._lift(state)
        attempt = checkpoints.begin(self._checkpoints, state.round + 1)
        record: Record = {"round": state.round + 1, "attempt": attempt, "lifted": lifted}
        mean = self._train(state, record)
        state.model = optimizer.step(state.model, mean)
        state.moments = optimizer.moments
        state.round += 1
        decay = self._study.server.ema
        state.average = averaged(state.average, state.model, decay, state.round)
        last = state.round == self._study.rounds
        due = state.round % self._study.evaluation.every == 0 or last
        record["evaluation"] = self._evaluate(state, attempt) if due else None
        record |= self._traffic.taken()
        record["seconds"] = time.perf_counter() - started
        return record

    def _train(self, state: State, record: Record) -> NDArray[np.float64]:
        """The sites' updates of this round as one; the record is told of every site."""
        task = Task(self._study, state.round + 1, record["attempt"])
        training = [name for name, member in self._study.cohort.items() if member.role == "train"]
        suspended = {
            site: status for site, status in self._offences.suspended().items() if site in training
        }
        record["sites"] = {site: {"status": status} for site, status in suspended.items()}
        messages = self._messages("train", task, state.model, training)
        updates = aggregation_for(self._study, self._layout.size)
        asked = time.perf_counter()
        for site, reply in self._replies(messages):
            entry = record["sites"][site] = self._accept(task, site, reply, updates)
            entry["seconds"] = time.perf_counter() - asked
        record["sites"] = dict(sorted(record["sites"].items()))
        good = sum(entry["status"] == "ok" for entry in record["sites"].values())
        if good < self._study.round.min_sites:
            said = "; ".join(f"{site}: {e['status']}" for site, e in record["sites"].items())
            raise FederationError(
                f"round {state.round + 1}: {good} sound updates, min_sites is "
                f"{self._study.round.min_sites} ({said}); the rounds before are kept, resume when "
                "the sites are well"
            )
        return updates.result()

    def _accept(self, task: Task, site: str, reply: Reply, updates: Aggregation) -> Record:
        """Check one reply and add it to the round's updates; its line for the record."""
        if isinstance(reply, NoReply):
            return self._missed(task, site, reply)
        try:
            self._note_head(site, reply)
            update = Update.read(reply, self._layout.size, self._study.transport.up)
            if update.layout != self._layout.digest:
                raise ModelError(f"its layout {update.layout[:12]} is not the study's")
            norm = updates.add(site, update.values)
        except Exception as error:
            return self._missed(task, site, unusable(error))
        self._offences.sound(site)
        return {
            "status": "ok",
            "update_norm": norm,
            "loss": update.loss,
            "epsilon": update.epsilon,
        }

    def _missed(self, task: Task, site: str, why: NoReply) -> Record:
        """The record's line of a site of which no update counts."""
        entry: Record = {"status": str(why)}
        if why.reason:
            entry["reason"] = why.reason.value
        self._tell_left_out(task, site, why)
        if why.left_out and self._offences.left_out(site):
            entry["suspended"] = True
        return entry

    def _evaluate(self, state: State, attempt: int) -> Record:
        """The averaged model on every site's validation cells; the best one is remembered."""
        tallies = self._tallies(state.average, Task(self._study, state.round, attempt))
        pooled = self._pooled(tallies)
        note_score(state, pooled)
        return _scores(pooled, tallies)

    def _tallies(self, model: Vector, task: Task) -> dict[str, Counted]:
        """The model on the sites' cells of a split; a site that does not answer is left out."""
        cohort = self._study.cohort
        asked = [site for site in cohort if task.split == "test" or cohort[site].role != "test"]
        messages = self._messages("evaluate", task, model, asked)
        tallies: dict[str, Counted] = {}
        for site, reply in self._replies(messages):
            said = reply if isinstance(reply, NoReply) else self._tally(site, reply)
            if isinstance(said, NoReply):
                self._tell_left_out(task, site, said)
            else:
                tallies[site] = said
        return dict(sorted(tallies.items()))

    def _tally(self, site: str, reply: Message) -> Counted | NoReply:
        """The tally of a reply, or why it is left out."""
        try:
            self._note_head(site, reply)
            return read_tally(reply, self._study)
        except Exception as error:
            return unusable(error)

    def _tell_left_out(self, task: Task, site: str, why: NoReply) -> None:
        """Have it written down when a reply came and could not be used."""
        if why.left_out:
            self._watcher.left_out(task.round, site, why.words)

    def _replies(self, messages: dict[str, Message]) -> Iterator[tuple[str, Reply]]:
        """What each site says, as it comes; the watcher knows who has not said anything."""
        waiting = set(messages)
        self._watcher.waits_for(waiting)
        self._traffic.down += sum(content_bytes(one.content) for one in messages.values())
        for site, reply in exchange(self._grid, messages, self._study.round.deadline_seconds):
            if isinstance(reply, Message):
                self._traffic.up += content_bytes(reply.content)
            yield site, reply
            waiting.discard(site)
            self._watcher.waits_for(waiting)

    def _note_head(self, site: str, reply: Message) -> None:
        """Keep the site's ledger head, to be shown to it at the next message."""
        if head := read_head(reply):
            self._heads[site] = head

    def _pooled(self, tallies: dict[str, Counted]) -> Counted:
        """The sum over the sites that train."""
        cohort = self._study.cohort
        training = [tally for site, tally in tallies.items() if cohort[site].role == "train"]
        return total(training, len(self._study.cell_types))

    def _messages(
        self, kind: str, task: Task, model: Vector, sites: list[str]
    ) -> dict[str, Message]:
        """One message a connected site, those with most cells first: they take longest."""
        wait = self._study.round.deadline_seconds
        suspended, tell = self._offences.suspended(), self._watcher.waits_for
        present = self._roster.wait_for(self._least, wait, but=suspended, tell=tell)
        order = sorted(sites, key=lambda site: (-self._study.cohort[site].units, site))
        number, vector = str(task.round), encode(model, self._study.transport.down)
        return {
            site: Message(
                replace(task, head=self._heads.get(site, "")).content(vector),
                present[site],
                kind,
                group_id=number,
                ttl=wait,
            )
            for site in order
            if site in present
        }

    @property
    def _checkpoints(self) -> Path:
        return self._out / "checkpoints"

    def _restore(self) -> State:
        """The checkpoint's state, or round 0; what was logged beyond it is forgotten."""
        state = checkpoints.load(self._checkpoints, self._study.digest)
        if state is None:
            first = flatten(self._parameters)
            state = State(round=0, model=first, average=first)
        self._heads = state.heads
        self._offences = Offences(state.offences, self._study.round.suspend_after)
        log = self._out / "rounds.jsonl"
        if log.exists():
            # One line a round; the last one may be cut off where a disk was full.
            lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
            write_text(log, "".join(lines[: state.round]))
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

    def _append(self, record: Record) -> None:
        """On disk before the checkpoint that counts the line."""
        self._out.mkdir(parents=True, exist_ok=True)
        log = self._out / "rounds.jsonl"
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        sync(log)

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
        outcome = Outcome(
            rounds=state.round,
            best_round=chosen.round,
            kept=chosen.reason,
            stopped="completed" if state.round == self._study.rounds else early,
            seconds=state.seconds,
            scores=_scores(self._pooled(tallies), tallies),
            test={site: tally.to_json() for site, tally in tallies.items()},
            **self._traffic.taken(),
        )
        write_text(self._out / OUTCOME, json.dumps(asdict(outcome)))
        return outcome


def write_model(model: Classifier, study: Study, path: Path) -> None:
    """All of the model's tensors, with the study in the file's metadata; the same bytes again.

    One metadata key: safetensors writes several in a random order.
    """
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"study": study.model_dump_json()})


def _scores(pooled: Counted, tallies: dict[str, Counted]) -> Record:
    """What the sites' counts come to, together and one by one."""
    return {
        "global": _figures(pooled) | {"intervals": pooled.intervals()},
        "sites": {site: _figures(tally) for site, tally in tallies.items()},
    }


def _figures(tally: Counted) -> Record:
    """A tally's metrics, and its recall of each class, in the order of the study's types.

    None: no cells, or noise that hides the figure.
    """
    return {**tally.metrics(), "recall": tally.recalls()}
