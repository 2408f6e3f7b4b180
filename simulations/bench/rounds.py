"""`hemofed bench rounds`: this engine, Flower's Ray engine and a bare loop, with the same seeds.

Both engines run the same apps. Each contestant is a fresh process, so that its start counts, too.
The work is a CNN of 18 k parameters on 128 images of 3x28x28 per client, with one local epoch in
batches of 32; ResNet-18 on 8 images each shows what 11.2 M parameters cost on their way. With
`--peer` other frameworks do the same work with the CNN (`round_peers`), on pixels that are decoded
and normalised for them; they must end with the bare loop's model.
"""

import json
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from torch.nn.utils import parameters_to_vector

from client.data.cache import prepare
from client.data.store import CellCache
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
from common.models import build
from common.models.pixels import to_tensor
from simulations.bench.harness import Measure, Say, in_turn, report, said_by
from simulations.bench.peer_frameworks import Peer
from simulations.bench.peers.work import SharedWork, WorkSettings
from simulations.bench.round_peers import FRAMEWORKS
from simulations.bench.rounds_contestant import one_epoch
from simulations.experiments import OPEN_POLICY

IMAGES, SIDE, BATCH, WIDTH = 128, 28, 32, 8
_KEPT = 10 * IMAGES
"""Images in the cache. Each client takes 128 of them; clients k and k + 10 take the same ones."""

_ROUNDING = 1e-5
"""Largest difference of a weight between two that trained the same, by another order of sums;
batches in another order, or one client for another, give some 1e-2."""

_CONTESTANTS: dict[str, list[str]] = {
    "bare PyTorch loop": ["bare"],
    "hemofed, 1 worker": ["local", "--workers", "1"],
    "hemofed, 2 workers": ["local", "--workers", "2"],
    "Flower on Ray": ["ray", "--workers", "2"],
}


CNN, RESNET = ModelSpec(name="cnn", width=WIDTH), ModelSpec(name="resnet18")
_CASES = ((10, CNN, IMAGES), (100, CNN, IMAGES), (10, RESNET, 8))
"""Clients, the model, and how many images each client has."""


def run(quick: bool, json_file: Path | None, peers: Sequence[str] = ()) -> None:
    """Measure every case; print seconds per round and until round 1 ends, and memory.

    The results are also written to `json_file`, if given. `quick` takes fewer rounds. `peers` are
    each NAME=PYTHON, as on the command line.

    Raises ConfigError: one names no peer, or its interpreter has not what the peer needs.
    """
    others = [Peer.named(text, FRAMEWORKS) for text in peers]
    results = {}
    for clients, model, images in _CASES:
        with tempfile.TemporaryDirectory() as folder:
            plan = Path(folder)
            study = _study(clients, model, images, rounds=3 if quick else 8)
            write_text(plan / "study.yaml", dump(study))
            write_sites(plan, study)
            who = contestants(plan, study, others if model == CNN else ())
            outcomes = in_turn(who, repetitions=1 if quick else 5, warmup=0)
            title = f"{clients} clients, {model.name}"
            results[title] = report(title, outcomes, "bare PyTorch loop", None)
    if json_file:
        write_text(json_file, json.dumps(results, indent=2))


def contestants(plan: Path, study: Study, peers: Sequence[Peer]) -> dict[str, Measure]:
    """All contestants on the study that is written in `plan`; the bare loop is the first.

    Raises ConfigError: a peer's interpreter has not what the peer needs.
    """
    module = "simulations.bench.rounds_contestant"
    entries: dict[str, Say] = {
        name: partial(said_by, module, str(plan), *arguments)
        for name, arguments in _CONTESTANTS.items()
    }
    if peers:
        shared_work(plan, study).write(plan)
    for peer in peers:
        entries |= peer.entries(plan, str(plan))
    same = SameModel()
    return {name: partial(measure, name, say, same) for name, say in entries.items()}


def shared_work(plan: Path, study: Study) -> SharedWork:
    """The study in `plan` as the bare loop trains it, in arrays."""
    cache = CellCache.open(next((plan / "cache").iterdir()))
    classes = len(study.cell_types)
    model = build(study.model, classes, study.image_side, study.seed)
    rows = [one_epoch(np.load(plan / "sites" / name / "cells.npy")["row"]) for name in study.cohort]
    return SharedWork(
        settings=WorkSettings(
            rounds=study.rounds,
            batch_size=study.training.batch_size,
            learning_rate=study.training.learning_rate,
            width=WIDTH,
            classes=classes,
        ),
        weights=parameters_to_vector(model.parameters()).detach().numpy(),
        images=to_tensor(cache.images).numpy(),
        targets=np.unique(cache.labels, return_inverse=True)[1],
        rows=np.stack(rows),
    )


class SameModel:
    """Holds that those who tell their last model end with the same one."""

    def __init__(self) -> None:
        self._first: list[float] | None = None

    def check(self, name: str, weights: list[float]) -> None:
        """Compare with whoever told first. Raises RuntimeError: something else was trained."""
        self._first = self._first or weights
        apart = float(np.abs(np.subtract(weights, self._first)).max())
        if not apart <= _ROUNDING:
            raise RuntimeError(f"{name}: a weight is {apart:.2g} off; it trained something else")


def _study(clients: int, model: ModelSpec, images: int, rounds: int) -> Study:
    names = [f"client-{number:03d}" for number in range(clients)]
    return Study(
        name="bench",
        image_side=SIDE,
        rounds=rounds,
        cell_types=("myeloblast", "lymphocyte"),
        model=model,
        # The bare loop trains in the same way.
        training=TrainingSpec(
            batch_size=BATCH, learning_rate=0.05, augment=False, gradient_clip=None, warmup_steps=0
        ),
        cohort={name: Participant(units=images) for name in names},
        evaluation=EvaluationSpec(every=100_000),
    )


def write_sites(folder: Path, study: Study) -> None:
    """Write the sites of the study's cohort below `folder`/sites, with random images."""
    cache = prepare(_random_images(folder / "images"), SIDE, cache_root=folder / "cache")
    for number, (name, member) in enumerate(study.cohort.items()):
        home = folder / "sites" / name
        home.mkdir(parents=True)
        records = np.zeros(member.units, dtype=[("row", "i8"), ("split", "U10")])
        records["row"] = (np.arange(member.units) + number * IMAGES) % _KEPT
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


def measure(name: str, say: Say, same: SameModel) -> dict[str, float]:
    """Run the contestant once in a fresh process, and return its figures.

    Raises RuntimeError: the process failed, or did not train what the others did.
    """
    started = time.time()
    said = say()
    if said["weights"]:
        same.check(name, said["weights"])
    ends = said["ends"]
    return {
        "seconds": float(np.median(np.diff(ends))),
        "to end of round 1, s": ends[0] - started,
        "memory, MiB": said["memory"] / 2**20,
    }
