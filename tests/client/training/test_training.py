"""A round without privacy against its definition: each step by hand, with torch's optimizer."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from client.randomness import SystemEntropy
from client.training.inputs import shuffled
from client.training.job import Job
from client.training.training import train
from common.config.study import Participant, Study
from common.errors import ModelError
from common.models.parameter_vector import flatten, load
from common.wire.vector_codec import Vector
from tests.client.lab import first_model, make_lab, study
from tests.client.training.bench import RATE, UNITS, bench


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_lab(tmp_path_factory.mktemp("training") / "lab", cells=36)


def plain_study(**spec: Any) -> Study:
    fields = {"batch_size": 8, "learning_rate": RATE, "augment": False} | spec
    return study(privacy={}, training=fields)


def train_plain(lab: Path, of: Study, number: int = 1) -> tuple[Vector, float]:
    made = bench(lab, of)
    loss = train(Job(of, "lab", Participant(units=UNITS), number), made.inputs, SystemEntropy())
    assert loss is not None
    return flatten(made.parameters) - first_model(of), loss


def by_hand(lab: Path, of: Study, steps: int, rates: list[float]) -> tuple[Vector, float]:
    """SGD over the same batches, with torch's own optimizer."""
    made, spec = bench(lab, of), of.training
    model = copy.deepcopy(made.model)
    start = [value.detach().clone() for value in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    rows, losses = made.inputs.cells.rows("train"), []
    seed = Job(of, "lab", Participant(units=UNITS), 1).seed("shuffle")
    for at, positions in zip(range(steps), shuffled(rows, 8, 9, seed), strict=False):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(made.inputs.batch(positions)), made.inputs.targets(positions))
        loss.backward()
        for value, origin in zip(model.parameters(), start, strict=True):
            assert value.grad is not None
            value.grad += spec.proximal_mu * (value.detach() - origin)
        if spec.gradient_clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), spec.gradient_clip)
        for group in optimizer.param_groups:
            group["lr"] = rates[at]
        optimizer.step()
        losses.append(float(loss.detach()))
    parts = [v.detach() - origin for v, origin in zip(model.parameters(), start, strict=True)]
    return np.asarray(torch.cat([p.flatten() for p in parts]).numpy()), float(np.mean(losses))


@pytest.mark.parametrize(
    ("spec", "steps", "rates"),
    [
        ({"max_local_steps": 3}, 3, [RATE] * 3),
        ({"max_local_steps": 3, "local_epochs": 9, "warmup_steps": 3}, 3, [0.025, 0.05, 0.075]),
        ({"max_local_steps": 3, "gradient_clip": 0.01}, 3, [RATE] * 3),
        ({"max_local_steps": 3, "proximal_mu": 5.0}, 3, [RATE] * 3),
    ],
)
def test_plain_training_is_the_optimizers_over_the_same_batches(
    lab: Path, spec: dict[str, Any], steps: int, rates: list[float]
) -> None:
    of = plain_study(**spec)
    expected, mean = by_hand(lab, of, steps, rates)
    found, loss = train_plain(lab, of)
    assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)
    assert loss == pytest.approx(mean, rel=1e-4)


def test_plain_augmentation_follows_the_seed_and_changes_what_is_learned(lab: Path) -> None:
    of = plain_study(augment=True)
    once, again = train_plain(lab, of), train_plain(lab, of)
    assert np.array_equal(once[0], again[0])
    assert not np.allclose(once[0], train_plain(lab, plain_study())[0])


def test_training_that_diverges_is_an_error_and_says_so(lab: Path) -> None:
    of = plain_study(learning_rate=100.0, local_epochs=30)
    made = bench(lab, of)
    load(made.parameters, first_model(of) * np.float32(1e30))
    with pytest.raises(ModelError, match="round 1: the loss is (nan|inf); lower training"):
        train(Job(of, "lab", Participant(), 1), made.inputs, SystemEntropy())
