"""The pool answers every message by itself, whoever dies; its processes end once."""

import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from functools import partial
from multiprocessing import forkserver
from pathlib import Path

import pytest
from flwr.supercore.task_identity import TaskIdentity

from common.errors import FederationError
from simulations.engine import engines
from simulations.engine.processes import _ProcessWorker, processes
from simulations.engine.seeded import make_client
from simulations.engine.workers import WorkerPool, WorkersGoneError
from simulations.experiments import CENTRALISED, PlannedStudy
from tests.simulations.engine import mortal
from tests.simulations.small import simulation


@pytest.fixture(autouse=True)
def _identity() -> None:
    """Flower's Message reads its sender from this process-wide place."""
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_death_is_the_answer_to_the_message_that_caused_it_alone(workers: int) -> None:
    deadly = {3, 4, 11}
    with WorkerPool(workers, processes(mortal.make, 0)) as pool:
        futures = [
            pool.submit(mortal.asked(number, number in deadly), mortal.context())
            for number in range(20)
        ]
        replies = [future.result(120)[0] for future in futures]
    for number, reply in enumerate(replies):
        if number in deadly:
            assert f"the worker died (exit code {mortal.CODE}," in reply.error.reason
        else:
            assert reply.content.config_records["said"]["number"] == number


def test_a_worker_that_starts_takes_no_exit_code_from_one_that_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = processes(mortal.make, 0)
    dead = start(0)
    dead.send(mortal.asked(0, die=True), mortal.context())
    with pytest.raises(EOFError):
        dead.receive()
    read, ending, taken = forkserver.read_signed, threading.Event(), threading.Event()

    def read_after_the_other(descriptor: int) -> int:
        if threading.current_thread() is threading.main_thread():
            ending.set()
            taken.wait(0.5)
        else:
            ending.wait(0.5)
        try:
            code: int = read(descriptor)
        finally:
            taken.set()
        return code

    monkeypatch.setattr(forkserver, "read_signed", read_after_the_other)
    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(start, 1)
        assert dead.stop() == f"exit code {mortal.CODE}"
    other.result().stop()


def test_what_cannot_be_sent_is_raised_to_who_asked_and_the_pool_goes_on() -> None:
    with WorkerPool(1, processes(mortal.make, 0)) as pool:
        with pytest.raises(AttributeError, match="NoneType"):
            pool.submit(None, mortal.context()).result(120)  # type: ignore[arg-type]
        assert pool.submit(mortal.asked(1), mortal.context()).result(120)[0].has_content()


def test_messages_of_a_lower_rank_go_first() -> None:
    order: list[int] = []
    with WorkerPool(1, processes(mortal.make, 0)) as pool:
        futures = [
            pool.submit(mortal.asked(rank), mortal.context(), rank) for rank in range(40, 0, -1)
        ]
        for rank, future in zip(range(40, 0, -1), futures, strict=True):
            future.add_done_callback(lambda _, rank=rank: order.append(rank))  # type: ignore[misc]
        for future in futures:
            future.result(120)
    taken = 2  # while the others came
    assert order[taken:] == sorted(order[taken:])


def test_what_a_closed_pool_has_not_answered_is_cancelled() -> None:
    pool = WorkerPool(1, processes(mortal.make, 0))
    futures = [pool.submit(mortal.asked(number), mortal.context()) for number in range(200)]
    futures[0].result(120)
    pool.close()
    futures.append(pool.submit(mortal.asked(200), mortal.context()))
    cancelled = 0
    for future in futures:
        try:
            future.result(60)
        except CancelledError:
            cancelled += 1
    assert cancelled and futures[-1].cancelled()


def test_a_baseline_is_given_up_alone_and_never_for_want_of_workers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    faults = iter((FederationError("no quorum"), WorkersGoneError("Ray has ended")))

    def serve(*_: object) -> None:
        raise next(faults)

    monkeypatch.setattr(engines, "_serve", serve)
    plan = PlannedStudy(CENTRALISED, simulation().study, tmp_path)
    attempt = partial(engines._attempt, plan, None, lambda *_: None)
    assert attempt() == "no quorum"
    with pytest.raises(WorkersGoneError):
        attempt()


class Line:
    """Refuses to be closed by two at once, as a file descriptor does."""

    def __init__(self) -> None:
        self.closing = False

    def close(self) -> None:
        assert not self.closing
        self.closing = True
        time.sleep(0.05)
        self.closing = False


def test_a_worker_that_dies_while_the_pool_ends_is_closed_by_one_at_a_time() -> None:
    with WorkerPool(1, processes(make_client, 0)) as pool:
        worker = pool._hire(0)
        assert isinstance(worker, _ProcessWorker)
        worker._line.close()
        worker._line = Line()  # type: ignore[assignment]
        with ThreadPoolExecutor(4) as threads:
            ends = set(threads.map(lambda _: worker.stop(), range(4)))
    assert len(ends) == 1
