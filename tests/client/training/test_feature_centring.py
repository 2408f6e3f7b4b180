"""The round that finds the features' centre: right, bounded, and no later one moves it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from client.randomness import Entropy
from client.site import open_site
from client.training import feature_centring
from client.training.job import Job
from client.training.training import train
from client.training.workspace import Workspace, workspace
from common.config.study import Participant, Study
from common.models.layers import standardised
from common.models.parameter_vector import flatten, load
from common.privacy.clipping import clipped_gradient_sum
from common.wire.vector_codec import Vector
from simulations.engine.seeded import SeededEntropy
from tests.client.lab import PRIVACY, make_lab, study

MODEL = {"name": "cnn", "width": 2, "encoder": "frozen", "centre": True}
ALL = PRIVACY | {"sample_rate": 1.0, "local_steps": 1, "max_grad_norm": 0.5}


def centred(**changes: Any) -> Study:
    training = {"batch_size": 8, "learning_rate": 0.1, "augment": False}
    return study(**{"model": MODEL, "training": training} | changes)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return make_lab(tmp_path)


def bench(site: Path, of: Study) -> Workspace:
    """With the model as a study begins, whatever other tests left of it."""
    made = workspace(open_site(site), of)
    with torch.no_grad():
        for value in made.parameters.values():
            value.zero_()
    return made


def trained(
    made: Workspace, of: Study, number: int, noise: float = 0.0, entropy: Entropy | None = None
) -> Vector:
    """The vector after the round, which begins where the model stands."""
    units = len(made.inputs.cells.rows("train"))
    job = Job(of, "lab", Participant(units=units), number, noise)
    loss = train(job, made.inputs, entropy or SeededEntropy(1))
    assert (loss is None) == (number == 1 or of.privacy.mode != "none")
    return flatten(made.parameters)


def features(made: Workspace) -> Tensor:
    return standardised(made.inputs.batch(made.inputs.cells.rows("train")))


@pytest.mark.parametrize("privacy", [{}, ALL, ALL | {"local_steps": 3}])
def test_it_is_the_mean_and_the_head_stays(site: Path, privacy: dict[str, Any]) -> None:
    of = centred(privacy=privacy)
    made = bench(site, of)
    vector = trained(made, of, 1, noise=1e-9)
    mean = features(made).mean(0).numpy()
    assert np.linalg.norm(mean) > 1, "there is something to be found"
    assert np.allclose(feature_centring.centre_of(made.model).numpy(), mean, atol=2e-4)
    assert np.count_nonzero(vector) == np.count_nonzero(mean), "nothing else moves"
    assert len(vector) == made.layout.size == len(mean) + 2 * (len(mean) + 1)


def test_it_has_the_noise_of_a_step_whose_bound_is_the_features_length(site: Path) -> None:
    of = centred(privacy=ALL)
    made, multiplier, found = bench(site, of), 3.0, []
    for seed in range(200):
        trained(made, of, 1, multiplier, SeededEntropy(seed))
        found.append(feature_centring.centre_of(made.model).clone())
    errors = torch.stack(found) - features(made).mean(0)
    units, dim = len(features(made)), errors.shape[1]
    expected = multiplier * math.sqrt(dim) / units
    assert float(errors.std()) == pytest.approx(expected, rel=0.1)
    assert float(errors.mean(0).abs().max()) < 5 * expected / math.sqrt(len(found))


def test_it_stays_within_the_weights_that_a_site_takes(site: Path) -> None:
    """Else much noise would end the study: no site takes the next round's model."""
    of = centred(privacy=ALL)
    made = bench(site, of)
    train(
        Job(of, "lab", Participant(units=1), 1, 50.0, max_weight=2.0), made.inputs, SeededEntropy(1)
    )
    assert float(feature_centring.centre_of(made.model).abs().max()) == pytest.approx(2.0, rel=2e-3)


@pytest.mark.parametrize("privacy", [{}, PRIVACY])
def test_no_later_round_moves_it(site: Path, privacy: dict[str, Any]) -> None:
    of = centred(privacy=privacy)
    made = bench(site, of)
    first = trained(made, of, 1, noise=1e-9)
    centre = feature_centring.centre_of(made.model).clone()
    load(made.parameters, first)
    second = trained(made, of, 2, noise=1e-9)
    assert torch.equal(feature_centring.centre_of(made.model), centre)
    assert np.count_nonzero(second - first) > 0, "the head trains"


wild = st.floats(width=32, allow_nan=True, allow_infinity=True)


@given(arrays(np.float32, (4, 6), elements=wild), st.integers(0, 3))
def test_one_cell_changes_the_sum_by_no_more_than_the_bound(
    rows: np.ndarray[Any, Any], left_out: int
) -> None:
    offset = feature_centring.Offset(6, 1.5)

    def total(inputs: np.ndarray[Any, Any]) -> Tensor:
        return clipped_gradient_sum(
            offset,
            feature_centring.half_square,
            torch.from_numpy(inputs),
            torch.zeros(len(inputs)),
            max_grad_norm=1.5,
            engine="vmap",
        ).gradient

    difference = total(rows) - total(np.delete(rows, left_out, 0))
    assert float(difference.double().norm()) <= 1.5 * (1 + 1e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": MODEL | {"encoder": "train"}}, "model.centre=True: is about the features"),
        ({"rounds": 1}, "rounds=1: model.centre takes the first"),
        ({"server": {"name": "fedadam"}}, "server.name=fedadam"),
        ({"server": {"learning_rate": 0.5}}, "learning_rate=0.5: model.centre is a mean"),
    ],
)
def test_a_study_that_could_not_use_it_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        centred(**changes)
