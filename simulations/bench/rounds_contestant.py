"""One contestant of `hemofed bench rounds`, in a process of its own; prints JSON.

    python -m simulations.bench.rounds_contestant FOLDER {bare,local,ray,opacus} [--workers N]

What it prints is told in `round_times`.
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from simulations.bench.round_times import RoundTimes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PEERS_ROUNDS = 100
"""Most rounds that Opacus runs; its first and last rounds take the same time."""


def one_epoch(rows: "NDArray[np.int64]") -> "NDArray[np.int64]":
    """A client's rows in the order in which each of its rounds takes them."""
    import numpy as np

    return np.random.default_rng(0).permutation(rows)


def bare(folder: Path) -> RoundTimes:
    """Train the same clients one after the other, with PyTorch alone."""
    import numpy as np
    import torch
    from torch.nn import functional as F

    from client.data.store import CellCache
    from common.config.loading import load
    from common.config.study import Study
    from common.models import build
    from common.models.pixels import to_tensor

    torch.set_num_threads(1)
    study = load(Study, folder / "study.yaml")
    cache = CellCache.open(next((folder / "cache").iterdir()))
    model = build(study.model, len(study.cell_types), study.image_side, study.seed)
    clock, codes = RoundTimes(study.rounds), np.unique(cache.labels)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    for _ in range(study.rounds):
        total = {name: torch.zeros_like(value) for name, value in start.items()}
        for site in sorted((folder / "sites").iterdir()):
            rows = np.load(site / "cells.npy")["row"]
            model.load_state_dict(start)
            optimizer = torch.optim.SGD(model.parameters(), lr=study.training.learning_rate)
            order = one_epoch(rows)
            for at in range(0, len(order), study.training.batch_size):
                batch = order[at : at + study.training.batch_size]
                targets = torch.from_numpy(np.searchsorted(codes, cache.labels[batch]))
                optimizer.zero_grad(set_to_none=True)
                F.cross_entropy(model(to_tensor(cache.take(batch))), targets).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            for name, value in model.state_dict().items():
                total[name] += value / len(study.cohort)
        start = total
        clock.tick()
    clock.weights = torch.cat([value.flatten() for value in start.values()]).tolist()
    return clock


def federated(folder: Path, backend: str, workers: int) -> RoundTimes:
    """Train the same clients through the apps, on one of the engines."""
    from client.ledger.binding import create_simulated_ledger
    from client.site import open_site
    from common.config.loading import load
    from common.config.study import Runtime, Study
    from simulations.engine.seeded import workers_of
    from simulations.experiments import FEDERATED, PlannedStudy

    study = load(Study, folder / "study.yaml")
    plan, clock = PlannedStudy(FEDERATED, study, folder), RoundTimes(study.rounds)
    for file in plan.site_files:
        create_simulated_ledger(open_site(file))
    if backend == "ray":
        from simulations.bench.flower_ray import run_on_flower

        run_on_flower(plan, workers, lambda _plan, _record: clock.tick())
    else:
        with workers_of(Runtime(workers=workers), study.seed) as pool:
            from simulations.engine.engines import run_plans

            run_plans([plan], pool, lambda _plan, _record: clock.tick())
    return clock


def opacus(folder: Path, workers: int) -> RoundTimes:
    """Train the head of a private study with Opacus on Flower's Ray engine, for some rounds."""
    from common.config.loading import load
    from common.config.study import Study
    from simulations.bench import private_opacus

    rounds = min(load(Study, folder / "study.yaml").rounds, _PEERS_ROUNDS)
    clock = RoundTimes(rounds)
    private_opacus.run(folder, workers, rounds, clock.tick)
    return clock


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("backend", choices=("bare", "local", "ray", "opacus"))
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        shutil.copytree(arguments.folder, folder, symlinks=True)
        if arguments.backend == "bare":
            clock = bare(folder)
        elif arguments.backend == "opacus":
            clock = opacus(folder, arguments.workers)
        else:
            clock = federated(folder, arguments.backend, arguments.workers)
    clock.say()
    # Flower's engine leaves threads behind that would hold the process.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
