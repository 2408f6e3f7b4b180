"""`hemofed bench private`: what a private round costs beside its training, and whether that grows.

Five sites train a head on the features of a frozen network under privacy: so little work that what
is paid, written down and sent is most of a round. Each contestant is a fresh process; Opacus's
(`private_opacus`) goes through the first 100 rounds.
"""

import json
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from common.config.loading import dump
from common.config.study import (
    EvaluationSpec,
    ModelSpec,
    Participant,
    PrivacySpec,
    Study,
    TrainingSpec,
)
from common.files import write_text
from simulations.bench.harness import Measure, in_turn, report, said_by
from simulations.bench.rounds import IMAGES, SIDE, WIDTH, write_sites

SITES = 5
_CONTESTANTS = {
    "1 worker": ["local", "--workers", "1"],
    "2 workers": ["local", "--workers", "2"],
    "on Ray": ["ray", "--workers", "2"],
}


def run(quick: bool, json_file: Path | None) -> None:
    """Print seconds a round: in the median, around round 10, and of the last rounds."""
    with tempfile.TemporaryDirectory() as folder:
        plan, study = Path(folder), private_study(rounds=200 if quick else 1000)
        write_text(plan / "study.yaml", dump(study))
        write_sites(plan, study)
        contestants: dict[str, Measure] = {
            name: partial(measure, plan, arguments) for name, arguments in _CONTESTANTS.items()
        }
        outcomes = in_turn(contestants, repetitions=1 if quick else 3, warmup=0)
    title = f"{SITES} sites, {study.rounds} private rounds"
    result = report(title, outcomes, "1 worker", None)
    if json_file:
        write_text(json_file, json.dumps(result, indent=2))


def private_study(rounds: int) -> Study:
    """The study that is measured."""
    names = [f"client-{number:03d}" for number in range(SITES)]
    return Study(
        name="bench",
        image_side=SIDE,
        rounds=rounds,
        cell_types=("myeloblast", "lymphocyte"),
        model=ModelSpec(name="cnn", width=WIDTH, encoder="frozen"),
        training=TrainingSpec(learning_rate=0.05, augment=False, warmup_steps=0),
        privacy=PrivacySpec(mode="local", epsilon=8.0, delta=1e-4, sample_rate=0.1),
        cohort={name: Participant(units=IMAGES) for name in names},
        evaluation=EvaluationSpec(every=100_000),
    )


def measure(
    plan: Path, arguments: list[str], environment: dict[str, str] | None = None
) -> dict[str, float]:
    """One run of a contestant in a fresh process, by the code that `environment` names."""
    module = "simulations.bench.rounds_contestant"
    said = said_by(module, str(plan), *arguments, environment=environment)
    seconds = np.diff(said["ends"])
    return {
        "seconds": float(np.median(seconds)),
        "s, rounds 2 to 20": float(np.median(seconds[:19])),
        "s, last 50": float(np.median(seconds[-50:])),
        "in all, s": said["ends"][-1] - said["ends"][0],
        "memory, MiB": said["memory"] / 2**20,
    }
