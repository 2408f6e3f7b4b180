"""`hemofed bench deploy`: a deployment of hemofed beside one of stock Flower, on loopback.

Both run as real processes with TLS and node authentication. A site makes one SGD step on eight
small images, so that the framework and its transport take most of the time. A relay, through which
both contestants' sites connect, counts the bytes with TLS and HTTP.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from common.config.loading import dump
from common.config.study import (
    EvaluationSpec,
    ModelSpec,
    Participant,
    RoundPolicy,
    Study,
    TrainingSpec,
)
from common.files import write_text
from simulations.bench.deploy import app, flower, hemofed
from simulations.bench.deploy.relay import Relay
from simulations.bench.harness import Measure, in_turn, report
from simulations.bench.processes import SERVER, Processes, free_port
from simulations.bench.rounds import IMAGES, SIDE, WIDTH, write_sites

_LOOK_SECONDS = 0.01
_ROUND_SECONDS = app.ROUND_SECONDS
_SMALL, _LARGE = ModelSpec(name="cnn", width=WIDTH), ModelSpec(name="resnet18")


@dataclass(frozen=True)
class Framework:
    """How to start a framework's deployment, and how to read its files."""

    start: Callable[[Path, Study, int, int, Processes], Path]
    """Starts it, and returns the file that gets a line per round."""
    good: Callable[[Any], int]
    """Returns the number of replies that counted, from a line of that file."""
    figures: Callable[[Path, Study], dict[str, float]] = lambda _folder, _study: {}
    """Returns figures that only this framework has, from the files that it leaves."""


_CONTESTANTS = {
    "stock Flower": Framework(flower.start, flower.good),
    "hemofed": Framework(hemofed.start, hemofed.good, hemofed.figures),
}


@dataclass(frozen=True)
class Deployment:
    """A federation to measure."""

    sites: int
    model: ModelSpec
    parameters: str
    """The number of the model's parameters, for the title."""
    rounds: int
    """The number of measured rounds; one round before them and one after them are not measured."""

    @property
    def title(self) -> str:
        """The case in words."""
        return f"{self.sites} sites, {self.parameters} parameters"

    def study(self) -> Study:
        """Return the study, in which each site makes one step per round."""
        names = [f"site-{number:02d}" for number in range(self.sites)]
        return Study(
            name="bench",
            image_side=SIDE,
            rounds=self.rounds + 2,
            cell_types=("myeloblast", "lymphocyte"),
            model=self.model,
            training=TrainingSpec(
                batch_size=8, max_local_steps=1, learning_rate=0.05, augment=False
            ),
            cohort={name: Participant(units=IMAGES) for name in names},
            evaluation=EvaluationSpec(every=100_000),
            round=RoundPolicy(min_sites=self.sites, deadline_seconds=_ROUND_SECONDS),
        )


def run(quick: bool, json_file: Path | None) -> None:
    """Measure each case, print the figures, and write them to `json_file` if given.

    The figures are per round: seconds, processor seconds of all processes and of the server, MB
    sent each way, and lost replies. Other work on the machine disturbs the processor seconds much
    less than the seconds. `quick` takes fewer sites and rounds.
    """
    if quick:
        cases = [Deployment(2, _SMALL, "18k", 2), Deployment(2, _LARGE, "11.2M", 1)]
    else:
        models = ((_SMALL, "18k", 8), (_LARGE, "11.2M", 3))
        cases = [Deployment(sites, *model) for sites in (2, 10) for model in models]
    results = {}
    for case in cases:
        contestants: dict[str, Measure] = {
            name: partial(_measure, case, contestant) for name, contestant in _CONTESTANTS.items()
        }
        outcomes = in_turn(contestants, repetitions=1, warmup=0)
        results[case.title] = report(case.title, outcomes, "stock Flower", None)
    if json_file:
        write_text(json_file, json.dumps(results, indent=2))


@dataclass(frozen=True)
class _End:
    """The state of the measurements when a round ended."""

    seconds: float
    """The time, by the monotonic clock."""
    processor: float
    """Processor seconds of all processes so far."""
    server: float
    """The server's part of the processor seconds."""
    up: int
    """Bytes from the sites so far."""
    down: int
    """Bytes to the sites so far."""
    good: int
    """Replies that counted in the round."""


def _measure(case: Deployment, contestant: Framework) -> dict[str, float]:
    """Measure one deployment from the end of its first round to the end of the last but one."""
    study, port = case.study(), free_port()
    folder = Path(tempfile.mkdtemp(prefix="hemofed-bench-"))
    write_text(folder / "study.yaml", dump(study))
    write_sites(folder, study)
    with Relay(port) as relay, Processes(folder / "logs") as processes:
        rounds = contestant.start(folder, study, port, relay.port, processes)
        ends = _watch(rounds, case.rounds + 1, contestant.good, relay, processes)
    figures = contestant.figures(folder, study)
    shutil.rmtree(folder)
    first, last = ends[0], ends[-1]
    return {
        "seconds": median(b.seconds - a.seconds for a, b in pairwise(ends)),
        "processor s": (last.processor - first.processor) / case.rounds,
        "of the server": (last.server - first.server) / case.rounds,
        "MB down": (last.down - first.down) / case.rounds / 1e6,
        "MB up": (last.up - first.up) / case.rounds / 1e6,
        "replies lost": sum(case.sites - end.good for end in ends),
        **figures,
    }


def _watch(
    rounds: Path, count: int, good: Callable[[Any], int], relay: Relay, processes: Processes
) -> list[_End]:
    """Wait until the file has `count` lines, and return the measurements at each.

    Raises:
        RuntimeError: a process ends before that.
    """
    ends: list[_End] = []
    while len(ends) < count:
        time.sleep(_LOOK_SECONDS)
        lines = rounds.read_text().splitlines() if rounds.exists() else []
        for line in lines[len(ends) : count]:
            times = time.monotonic(), processes.processor_seconds()
            server = processes.processor_seconds(SERVER)
            ends.append(_End(*times, server, *relay.counted(), good(json.loads(line))))
        processes.check()
    return ends
