"""A simulation that takes seconds: three rendered labs, a tiny network."""

from pathlib import Path
from typing import Any

from common.config.loading import parse
from server.rounds.record import RoundRecord
from simulations.config import Simulation
from simulations.experiments import PlannedStudy
from simulations.labs import Labs
from simulations.partition import DealtSite

SEED = 3


def simulation(**changes: Any) -> Simulation:
    """Sections given replace whole sections; `study` fields are merged in."""
    study = {
        "name": "small",
        "seed": SEED,
        "image_side": 16,
        "rounds": 3,
        "model": {"name": "cnn", "width": 2},
        "training": {"batch_size": 8, "learning_rate": 0.1},
    } | changes.pop("study", {})
    content = {
        "study": study,
        "data": {"source": "rendered", "rendered": {"sites": 3, "cells": 40, "side": 32}},
        "baselines": [],
        "runtime": {"workers": 2, "device": "cpu"},
    } | changes
    return parse(Simulation, content, "test")


PRIVATE = {
    "mode": "local",
    "epsilon": 5.0,
    "delta": 1e-4,
    "sample_rate": 0.3,
    "local_steps": 2,
}

MASKED = PRIVATE | {"mode": "distributed", "local_steps": 1}
"""The three labs share one noise."""


class Silent:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.rounds: list[tuple[str, int]] = []

    def preparing(self, what: str, done: int, total: int) -> None: ...

    def gathered(self, labs: Labs) -> None: ...

    def planned(self, plans: list[PlannedStudy], sites: tuple[DealtSite, ...]) -> None: ...

    def round_done(self, plan: PlannedStudy, record: RoundRecord) -> None:
        self.rounds.append((plan.name, record.round))

    def reporting(self) -> None: ...


def numbers(out: Path) -> bytes:
    """The released model's bits."""
    return (out / "model.safetensors").read_bytes()
