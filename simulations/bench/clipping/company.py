"""`hemofed bench company`: how much one more unit changes the sum, with models made to change most.

A hostile server chooses the model. Each model and its cells are random. The benchmark compares the
clipped sum of all units with the sum without one of them, at batch sizes at which torch was seen to
switch kernels. "moved" is the L2 norm of the difference, relative to C; the noise covers up to
1 + SLACK. "others" is the part of the difference that is not the unit's own share. For an
evaluation, both are changes of the confusion counts, in which one cell is one count.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from client.data.site_cells import SiteCells
from client.training.evaluation import predict
from client.training.inputs import Inputs
from common.files import write_text
from common.metrics import Tally
from common.privacy.accounting import calibrate
from common.privacy.clipping import clipped_gradient_sum
from common.privacy.noise import SLACK
from simulations.bench.clipping.hostile_models import ATTACKS, EVALUATED, Attack
from simulations.host_info import machine

WEIGHTS = (100.0, 1e8)
"""The largest weight that a site accepts by default, and one far beyond it."""
UNITS = (1, 2, 3, 4, 12, 15, 16, 17, 32, 33, 36, 64, 129)
"""The numbers of units of the smaller of two neighbouring data sets."""
MODELS = {"head": 9000, "small images": 700, "images": 100, "evaluation": 200}
QUICK = {"head": 160, "small images": 24, "images": 12, "evaluation": 20}
_FALSE_POSITIVES = 0.16


@dataclass
class Found:
    """The worst outcome of one kind of attack."""

    models: int = 0
    """The number of models tried."""
    moved: float = 0.0
    others: float = 0.0
    where: str = ""
    """The attack that moved the most."""

    def take(self, moved: float, others: float, where: str) -> None:
        """Count a model, and keep its outcome if it is worse."""
        self.models += 1
        self.others = max(self.others, others)
        if moved > self.moved:
            self.moved, self.where = moved, where


def run(quick: bool, json_file: Path | None) -> None:
    """Attack, print the worst outcome of each kind, and write JSON to `json_file` if given."""
    models = QUICK if quick else MODELS
    found = {
        (kind, weight, threads): _worst(kind, weight, threads, number // 4)
        for kind, number in models.items()
        for weight in WEIGHTS
        for threads in (1, 2)
    }
    table = Table("models", "weights", "threads", "number", "moved", "others")
    rows: list[dict[str, Any]] = []
    for (kind, weight, threads), worst in found.items():
        figures = (worst.models, f"{worst.moved:.6f}", f"{worst.others:.1e}")
        table.add_row(kind, f"{weight:g}", str(threads), *map(str, figures))
        rows.append({"kind": kind, "weights": weight, "threads": threads, **vars(worst)})
    console = Console()
    console.print(table)
    moved = max(worst.moved for worst in found.values())
    console.print(_in_words(moved))
    if json_file:
        write_text(json_file, json.dumps({"machine": machine(), "slack": SLACK, "worst": rows}))


def _in_words(moved: float) -> str:
    """Return how much the worst outcome helps to guess whether a cell was there, in a study of one
    step."""
    noise = calibrate(1.0, 1e-5, 1.0, 1)
    normal = NormalDist()
    caught = normal.cdf(normal.inv_cdf(_FALSE_POSITIVES) + moved / (noise * (1 + SLACK)))
    allowed = math.e * _FALSE_POSITIVES + 1e-5
    return (
        f"at most {moved:.6f} C; the noise is made for {1 + SLACK:g} C. One step of epsilon 1: "
        f"true positives {caught:.3f} at {_FALSE_POSITIVES} false; (1, 1e-5) allows {allowed:.3f}"
    )


def _worst(kind: str, weight: float, threads: int, models: int) -> Found:
    before, worst = torch.get_num_threads(), Found()
    torch.set_num_threads(threads)
    attacks, change = (ATTACKS[kind], neighbours) if kind in ATTACKS else (EVALUATED, counted)
    try:
        for seed in range(models):
            attack = attacks[seed % len(attacks)]
            units = UNITS[seed // len(attacks) % len(UNITS)]
            worst.take(*change(attack, weight, units, seed), f"{attack.title}, {units} units")
    finally:
        torch.set_num_threads(before)
    return worst


def neighbours(attack: Attack, weight: float, units: int, seed: int) -> tuple[float, float]:
    """Return how much one more unit changes the clipped sum, and how much of that is not its share.

    Both are L2 norms relative to C.
    """
    generator = torch.Generator().manual_seed(seed)
    model = attack.model(weight, generator)
    sizes = torch.randint(1, attack.cells_of_a_unit + 1, (units + 1,), generator=generator)
    names = torch.arange(units + 1).repeat_interleave(sizes)
    rows = attack.rows(len(names), generator)
    targets = torch.randint(attack.classes, (len(names),), generator=generator)
    gone = int(torch.randint(units + 1, (), generator=generator))

    def total(mine: Tensor) -> Tensor:
        return clipped_gradient_sum(
            model,
            _losses,
            rows[mine],
            targets[mine],
            max_grad_norm=1.0,
            units=names[mine],
            engine=attack.engine,
        ).gradient

    everyone = torch.ones(len(names), dtype=torch.bool)
    moved = total(everyone) - total(names != gone)
    return float(moved.norm()), float((moved - total(names == gone)).norm())


def counted(attack: Attack, weight: float, cells: int, seed: int) -> tuple[float, float]:
    """Return how much one more cell changes the confusion counts, and how much of that is not its
    own count, both as L2 norms."""
    generator = torch.Generator().manual_seed(seed)
    model = attack.model(weight, generator)
    labels = torch.randint(attack.classes, (cells + 1,), generator=generator).numpy()
    rows, everyone = attack.rows(cells + 1, generator), np.arange(cells + 1)
    seen = SiteCells((), labels, np.full(cells + 1, "test"), everyone, held_out=False)
    inputs = Inputs(seen, model, torch.device("cpu"), features=rows)
    gone = int(torch.randint(cells + 1, (), generator=generator))

    def counts(mine: NDArray[np.int64]) -> NDArray[np.int64]:
        return Tally.of(predict(inputs, mine), labels[mine]).confusion

    moved = counts(everyone) - counts(everyone[everyone != gone])
    own = counts(everyone[everyone == gone])
    return float(np.linalg.norm(moved)), float(np.linalg.norm(moved - own))


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, reduction="none")
