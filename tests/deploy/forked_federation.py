"""A server's rounds and labs as forked processes that are killed at any step, and started again.

Nodes and runners are the product's, `client.service.service.serve` and `client.service.worker`; the
messages lie in a spool.
"""

import json
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import torch
from flwr.app import Message
from numpy.typing import NDArray

from client.app import client_app
from client.home import SiteHome
from client.masking import masked_counts
from client.service import service, worker
from client.service.worker import Runner
from client.training import masked_sum
from common.config.loading import load
from common.config.study import Study
from common.privacy.masking.masks import add_mask
from common.wire.agreement import Agreement, Purpose
from common.wire.flower_internals import PullMessagesResponse, message_from_proto
from common.wire.messages import Task
from common.wire.packed_integers import Words
from server.flower.message_audit import Envelopes
from server.home import ServerHome
from server.rounds.masked_counts import MaskedCounts
from server.rounds.observer import Observer
from server.rounds.record import RoundRecord
from server.rounds.rounds import Rounds
from tests.client.lab import context
from tests.deploy.spool import Spool, SpoolGrid, SpoolLink
from tests.kill_points import KillPoints
from tests.server.fake_grid import Answer, FakeGrid

_FORK = multiprocessing.get_context("fork")
_points = KillPoints()


def order(spool: Path, who: str) -> Path:
    """Where a process is told to die: `rounds`, or a site's `SITE-node` or `SITE-runner`.

    The stretches of the rounds' work are what they are started for; those of a lab's are
    `message_stretch`.
    """
    return spool / f"{who}.kill"


def message_stretch(kind: str, purpose: Purpose) -> str:
    """The work on a message of that type, for a sum of that purpose."""
    return f"{kind}/{purpose}"


def anew(spool: Path, site: str) -> Path:
    """Once it is there a lab stops before its next message, and starts anew."""
    return spool / f"{site}.anew"


def masked(spool: Path, site: str) -> Path:
    """Where a lab's runner writes down, for each vector that it masks: the masks' keys, and the
    words bare and masked; a line of JSON in hexadecimal."""
    return spool / f"{site}.masked"


def summed(spool: Path) -> Path:
    """Where the rounds write down each sum of counts that they read: a line of JSON."""
    return spool / "summed"


def make_ready(study: Study, homes: Collection[SiteHome], out: Path) -> None:
    """Load and calculate what a round does, for all processes that fork from this one."""
    torch.set_num_threads(1)

    def answering(home: SiteHome) -> Answer:
        app = client_app()
        return lambda message: app(message, context(home.site_file)).content

    sites = {home.folder.name: answering(home) for home in homes}
    rounds = Rounds(study, FakeGrid(sites), out, _OneRound())
    with suppress(_DoneError):
        rounds.run()
    rounds.finish()


def keep_lab(home: Path, spool: Path) -> None:
    """A lab, as a system keeps its service running."""
    inflight = SiteHome(home).inflight

    while True:
        if _ended(partial(_lab, home, spool)) == -signal.SIGKILL and not inflight.exists():
            Spool(spool).give_up(home.name)


def keep_rounds(purpose: str, home: Path, spool: Path, study: Path, out: Path) -> None:
    """A study's next sum of that purpose, as the server's service keeps its rounds running.

    It is the study's test; its statistics; or its next round, with the evaluation if it has one.
    """
    while _ended(partial(_rounds, purpose, home, spool, study, out)) == -signal.SIGKILL:
        pass


def _ended(run: Callable[[], None]) -> int:
    """How a process that does this ended: 0, or the signal as a negative number."""
    process = _FORK.Process(target=run)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode


class _DoneError(Exception):
    """A round is done."""


class _OneRound(Observer):
    """Ends the rounds after one."""

    def round_done(self, record: RoundRecord) -> None:
        raise _DoneError


class _BeforeTraining(SpoolGrid):
    """Ends the rounds before they ask for anything that the first of them is for."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        asked = list(messages)
        if any(_purpose(message) == "train" for message in asked):
            raise _DoneError
        return super().push_messages(asked)


def _rounds(purpose: str, home: Path, spool: Path, study: Path, out: Path) -> None:
    _points.await_order(order(spool, "rounds"))
    of = load(Study, study)
    kind = _BeforeTraining if purpose == "statistics" else SpoolGrid
    MaskedCounts.total = _noted_total(spool)  # type: ignore[method-assign]
    with ServerHome(home).open_audit() as log, suppress(_DoneError):
        _points.begin(purpose)
        grid = kind(Spool(spool), of.cohort, Envelopes(home, log))
        rounds = Rounds(of, grid, out, _OneRound())
        if purpose == "test":
            rounds.finish()
        else:
            rounds.run()


def _noted_total(spool: Path) -> Callable[..., NDArray[np.int64] | None]:
    """`MaskedCounts.total`, which writes the sum down as well; that is no step of its own."""
    total = MaskedCounts.total

    def noted(
        counts: MaskedCounts, kind: str, task: Task, model: object, agreement: Agreement, *of: int
    ) -> NDArray[np.int64] | None:
        found = total(counts, kind, task, model, agreement, *of)  # type: ignore[arg-type]
        if found is not None:
            said = agreement.facts(task.study.digest) | {"total": found.tolist()}
            with summed(spool).open("a") as lines:
                lines.write(json.dumps(said) + "\n")
        return found

    return noted


def _lab(home: Path, spool: Path) -> None:
    _points.await_order(order(spool, f"{home.name}-node"))

    class Link(SpoolLink):
        def __init__(self, *of: Any) -> None:
            super().__init__(Spool(spool), home.name, halt)

        def _taken(self) -> bytes | None:
            if anew(spool, home.name).exists():
                anew(spool, home.name).unlink()
                halt.set()
            return None if halt.is_set() else super()._taken()

        def pull(self) -> PullMessagesResponse | None:
            pulled = super().pull()
            if pulled is not None:
                _points.begin(_stretch(message_from_proto(pulled.messages_list[0])))
            return pulled

    halt = Event()
    service.FleetLink = Link  # type: ignore[attr-defined, misc]
    service.Runner = partial(_ForkedRunner, spool)  # type: ignore[attr-defined, misc, assignment]
    service.serve(SiteHome(home), halt)


class _ForkedRunner(Runner):
    """Forks from the node, which has loaded all that it needs."""

    def __init__(self, spool: Path, site_file: Path, log: Path) -> None:
        super().__init__(site_file, log)
        self._spool = spool

    def start(self) -> socket.socket:
        if self._line is not None and self.pid is not None:
            return self._line
        self.stop()
        self._line, theirs = socket.socketpair()
        process = _FORK.Process(target=_runner, args=(self._site_file, self._spool, theirs))
        process.start()
        theirs.close()
        self._process = process._popen  # type: ignore[attr-defined]  # polls, waits and kills alike
        return self._line


def _runner(site_file: Path, spool: Path, line: socket.socket) -> None:
    name, handle, receive = site_file.parent.name, line.detach(), worker.receive_message
    os.closerange(3, handle)  # as a process that is started has them: the node's lock, its line
    os.closerange(handle + 1, os.sysconf("SC_OPEN_MAX"))
    _points.await_order(order(spool, f"{name}-runner"))

    def receive_message(line: socket.socket) -> Message:
        message = receive(line)
        _points.begin(_stretch(message))
        return message

    def noted(words: Words, pairs: Iterable[tuple[bytes, int]]) -> None:
        pairs, bare = list(pairs), words.tobytes()
        add_mask(words, pairs)
        said = {"keys": [key.hex() for key, _ in pairs], "bare": bare.hex()}
        handle = os.open(masked(spool, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(handle, json.dumps(said | {"sent": words.tobytes().hex()}).encode() + b"\n")
        os.close(handle)

    worker.receive_message = receive_message
    masked_sum.add_mask = masked_counts.add_mask = noted
    worker.serve(site_file, handle)


def _stretch(message: Message) -> str:
    purpose = _purpose(message)
    kind = message.metadata.message_type
    return message_stretch(kind, purpose) if purpose else kind


def _purpose(message: Message) -> Purpose | None:
    """The purpose of the message's sum; None: it is about none."""
    agreement = Agreement.read(message)
    return agreement.purpose if agreement else None
