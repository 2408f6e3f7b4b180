"""`hemofed bench rounds`: this engine, Flower's Ray engine and a bare loop, with the same seeds.

Both engines run the same apps. Each contestant is a fresh process, so that its start counts, too.
The work is a CNN of 18 k parameters on 128 images of 3x28x28 per client, with one local epoch in
batches of 32.
"""

import json
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from client.data.cache import prepare
from common.config.loading import dump
from common.config.study import (
    CellSource,
    EvaluationSpec,
    ModelSpec,
    Participant,
    Runtime,
    Site,
    Study,
    TrainingSpec,
)
from common.files import write_text
from simulations.bench.harness import Measure, in_turn, report, said_by
from simulations.experiments import OPEN_POLICY

IMAGES, SIDE, BATCH, WIDTH = 128, 28, 32, 8
_KEPT = 10 * IMAGES
"""Images in the cache. Each client takes 128 of them; clients k and k + 10 take the same ones."""

Contestants = dict[str, list[str]]
_CONTESTANTS: Contestants = {
    "bare PyTorch loop": ["bare"],
    "hemofed, 1 worker": ["local", "--workers", "1"],
    "hemofed, 2 workers": ["local", "--workers", "2"],
    "Flower on Ray": ["ray", "--workers", "2"],
}


def run(quick: bool, json_file: Path | None) -> None:
    """Measure 10 and 100 clients; print seconds per round and until round 1 ends, and memory.

    The results are also written to `json_file`, if given. `quick` takes fewer rounds.
    """
    results = {}
    for clients in (10, 100):
        with tempfile.TemporaryDirectory() as folder:
            plan = Path(folder)
            study = _study(clients, rounds=3 if quick else 8)
            write_text(plan / "study.yaml", dump(study))
            write_sites(plan, study)
            contestants: dict[str, Measure] = {
                name: partial(_measure, plan, arguments) for name, arguments in _CONTESTANTS.items()
            }
            outcomes = in_turn(contestants, repetitions=1 if quick else 5, warmup=0)
            title = f"{clients} clients"
            results[str(clients)] = report(title, outcomes, "bare PyTorch loop", None)
    if json_file:
        write_text(json_file, json.dumps(results, indent=2))


def _study(clients: int, rounds: int) -> Study:
    names = [f"client-{number:03d}" for number in range(clients)]
    return Study(
        name="bench",
        image_side=SIDE,
        rounds=rounds,
        cell_types=("myeloblast", "lymphocyte"),
        model=ModelSpec(name="cnn", width=WIDTH),
        # The bare loop trains in the same way.
        training=TrainingSpec(
            batch_size=BATCH, learning_rate=0.05, augment=False, gradient_clip=None, warmup_steps=0
        ),
        cohort={name: Participant(units=IMAGES) for name in names},
        evaluation=EvaluationSpec(every=100_000),
    )


def write_sites(folder: Path, study: Study) -> None:
    """Write the sites of the study's cohort below `folder`/sites, with random images."""
    cache = prepare(_random_images(folder / "images"), SIDE, cache_root=folder / "cache")
    for number, name in enumerate(study.cohort):
        home = folder / "sites" / name
        home.mkdir(parents=True)
        records = np.zeros(IMAGES, dtype=[("row", "i8"), ("split", "U10")])
        records["row"] = (np.arange(IMAGES) + number * IMAGES) % _KEPT
        records["split"] = "train"
        np.save(home / "cells.npy", records)
        source = CellSource(folder=cache, selection=Path("cells.npy"))
        write_text(home / "policy.yaml", dump(OPEN_POLICY))
        write_text(home / "site.yaml", dump(Site(name=name, cells=(source,), runtime=Runtime())))


def _random_images(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(_KEPT):
        label = ("myeloblast", "lymphocyte")[number % 2]
        path = folder / label / f"{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(path)
    return folder


def _measure(plan: Path, arguments: list[str]) -> dict[str, float]:
    """Run a contestant once in a fresh process, and return its figures."""
    started = time.time()
    said = said_by("simulations.bench.rounds_contestant", str(plan), *arguments)
    ends = said["ends"]
    return {
        "seconds": float(np.median(np.diff(ends))),
        "to end of round 1, s": ends[0] - started,
        "memory, MiB": said["memory"] / 2**20,
    }
