"""`hemofed bench clipping`: the cost of exact per-unit clipping, relative to a plain SGD step.

Every contestant has its own process with one thread; each rival takes steps in turn with plain SGD
and hemofed. "seconds" is processor time, with page faults, since other work may share the machine;
"wall" is wall time. "peak_mib" is the most resident memory that the steps need beyond the model and
the batch. "error" is the relative distance of the clipped sum from the one in float64, with
softplus in place of relu (see `Smooth`).
"""

import contextlib
import copy
import json
import multiprocessing
import os
import time
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from common.errors import HemofedError
from common.files import write_text
from simulations.bench.clipping.contestants import BOUND, CONTESTANTS, Case, Smooth, losses
from simulations.bench.harness import Measure, Samples, in_turn, record, report
from simulations.bench.own_figures import forget_peak, memory
from simulations.host_info import machine

CASES = (
    Case("cnn", 64, 64),
    Case("cnn", 64, 256),
    Case("resnet18", 64, 64),
    Case("resnet18", 96, 64),
    Case("resnet18-plain", 64, 64),
    Case("head", 0, 256),
)
QUICK = (Case("cnn", 32, 32), Case("head", 0, 256))

BASES = ("sgd", "hemofed")

TUNED = (
    "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=4294967296"
    ":glibc.malloc.top_pad=67108864"
)
"""Settings of glibc with which a process keeps freed memory, so that a step does not fault its
pages in again."""


def run(quick: bool, json_file: Path | None) -> None:
    """Measure every case with glibc's default malloc and, unless `quick`, with a tuned one."""
    records = []
    for case in QUICK if quick else CASES:
        reference = _reference(case, rows=8)
        for malloc, tunables in (("default", ""), ("tuned", TUNED))[: 1 if quick else 2]:
            title = f"{case.title}, {malloc} malloc"
            outcomes = _measure(case, tunables, reference, _repetitions(case, quick))
            report(title, outcomes, "sgd", None)
            records.append(record(title, outcomes, "sgd"))
            if json_file:
                content = {"machine": machine(), "threads": 1, "cases": records}
                write_text(json_file, json.dumps(content, indent=2))


def _repetitions(case: Case, quick: bool) -> int:
    if case.model == "head":
        return 30
    return 1 if quick else 3


def _reference(case: Case, rows: int) -> list[float]:
    """Compute the clipped sum of the first rows in float64, by its definition."""
    model, inputs, targets = case.make()
    twin = copy.deepcopy(model).double()
    total = torch.zeros(sum(p.numel() for p in twin.parameters()), dtype=torch.float64)
    with Smooth():
        for row in range(rows):
            at = slice(row, row + 1)
            loss = losses(twin(inputs[at].double()), targets[at]).sum()
            found = torch.autograd.grad(loss, list(twin.parameters()))
            gradient = torch.cat([g.flatten() for g in found])
            total += gradient * min(1.0, BOUND / float(gradient.norm()))
    return total.tolist()


def _measure(case: Case, tunables: str, reference: list[float], repetitions: int) -> list[Samples]:
    """Measure each rival in turn with plain SGD and hemofed; all would not fit into memory."""
    merged = {name: Samples(name) for name in CONTESTANTS}
    for rival in CONTESTANTS:
        if rival not in BASES:
            for outcome in _trio(case, (*BASES, rival), tunables, reference, repetitions):
                for figure, samples in outcome.samples.items():
                    merged[outcome.name].samples.setdefault(figure, []).extend(samples)
    return list(merged.values())


def _trio(
    case: Case, names: tuple[str, ...], tunables: str, reference: list[float], repetitions: int
) -> list[Samples]:
    with contextlib.ExitStack() as stack:
        peers = {name: stack.enter_context(_peer(case, name, tunables)) for name in names}
        steps = {name: _step(connection) for name, connection in peers.items()}
        outcomes = in_turn(steps, repetitions)
        for outcome in outcomes:
            connection = peers[outcome.name]
            for request in (("memory", None), ("error", reference)):
                for figure, value in _ask(connection, request).items():
                    outcome.samples[figure] = [value]
    return outcomes


@contextlib.contextmanager
def _peer(case: Case, name: str, tunables: str) -> Iterator[Connection]:
    """Start a process that takes a step when asked, and end it with the block."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, case, name), daemon=True)
    before = os.environ.get("GLIBC_TUNABLES")
    os.environ["GLIBC_TUNABLES"] = tunables
    try:
        process.start()
    finally:
        if before is None:
            del os.environ["GLIBC_TUNABLES"]
        else:
            os.environ["GLIBC_TUNABLES"] = before
    there.close()
    try:
        yield here
    finally:
        here.close()
        process.join()


def _step(connection: Connection) -> Measure:
    return lambda: _ask(connection, ("step", None))


def _ask(connection: Connection, request: tuple[str, Any]) -> dict[str, float]:
    connection.send(request)
    try:
        figures: dict[str, float] = connection.recv()
    except EOFError as ended:
        raise HemofedError(
            "A contestant's process ended early; if nothing is printed above, the system killed "
            "it for its memory: close other programs and run again."
        ) from ended
    return figures


def _serve(connection: Connection, case: Case, name: str) -> None:
    """Answer each request with figures, in the peer's process, until the other end closes."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    model, inputs, targets = case.make()
    CONTESTANTS[name](copy.deepcopy(model), inputs[:9], targets[:9]).step()  # loads the code
    start = forget_peak()
    contestant = CONTESTANTS[name](model, inputs, targets)
    forget_peak()
    with contextlib.suppress(EOFError):
        while True:
            request, value = connection.recv()
            if request == "step":
                wall, spent = time.perf_counter(), time.process_time()
                contestant.step()
                connection.send(
                    {
                        "seconds": time.process_time() - spent,
                        "wall": time.perf_counter() - wall,
                    }
                )
            elif request == "memory":
                connection.send({"peak_mib": (memory("VmHWM") - start) / 1024})
            else:
                # Steps have changed the weights, and the reference is for the initial ones.
                fresh = CONTESTANTS[name](*case.make())
                with Smooth():
                    found = fresh.clipped_sum(rows=8)
                connection.send({} if found is None else {"error": _error(found, value)})


def _error(found: torch.Tensor, reference: list[float]) -> float:
    exact = torch.tensor(reference, dtype=torch.float64)
    return float((found.double() - exact).norm() / exact.norm())
