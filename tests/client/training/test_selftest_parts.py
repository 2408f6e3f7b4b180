"""What the self-test asks of a machine: the same unit, alone and in every company."""

from collections.abc import Iterator
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from client.data.site_cells import SiteCells
from client.training import selftest
from client.training.augmentation import VIEW_DRAWS
from client.training.dp_sgd import Summand
from client.training.feature_centring import Offset
from client.training.inputs import Inputs
from client.training.job import Job
from client.training.selftest import _Images, _inputs, _orders, _same, _shares, _sizes, _unsettle
from common.config.study import ModelSpec, Participant
from common.models import build, trainable
from common.privacy.clipping import EngineName
from common.privacy.clipping.clip_rule import ClipRule
from common.privacy.clipping.engine import _engine
from common.privacy.clipping.engine_api import Problem
from tests.client.lab import PRIVACY, study

CPU = torch.device("cpu")
OTHERS = 36


@pytest.mark.parametrize("cells", [1, 3])
def test_a_unit_is_asked_alone_first_last_and_in_between(cells: int) -> None:
    count = cells + OTHERS
    orders = [order.tolist() for order, _ in _orders(cells, count)]
    places = []
    for order, own in _orders(cells, count):
        assert order[own].tolist() == list(range(cells)), "the unit's own cells, in their order"
        assert own.sum() == cells and len(set(order.tolist())) == len(order)
        assert (order[~own] >= cells).all() and order.max() < count
        before = int(np.argmax(own))
        places.append((before, len(order) - cells - before))
    assert places == [(0, 0), (0, 1), (3, 0), (7, 8), (18, 18)]
    assert orders[1][-1] == orders[3][-1] == count - 1, "the last, whose features are no number"


def test_made_up_cells_are_the_same_in_any_company() -> None:
    images = _Images(1 + OTHERS, 8)
    assert len(images) == 1 + OTHERS and images.fingerprint
    everyone = images.take(np.arange(1 + OTHERS))
    assert everyone.shape == (1 + OTHERS, 8, 8, 3) and everyone.dtype == np.uint8
    assert everyone.min() < 5 and everyone.max() == 255
    for rows in ([0], [5, 0, 36], list(range(10))):
        assert np.array_equal(images.take(np.array(rows)), everyone[rows])
    assert len(np.unique(everyone.reshape(1 + OTHERS, -1), axis=0)) == 1 + OTHERS


@pytest.mark.parametrize("cells", [1, 4])
def test_only_the_units_cells_are_labelled(cells: int) -> None:
    model = build(ModelSpec(name="cnn", width=1), 2, 16, 1)
    made = _inputs(model, _Images(cells + OTHERS, 16), CPU)
    assert made.cells.labels.tolist() == [0] * cells + [-1] * OTHERS
    assert made.features is None and made.images is not None
    assert made.images.shape == (cells + OTHERS, 16, 16, 3)
    assert set(made.cells.splits) == {"train"} and not made.cells.held_out


def test_the_others_features_are_no_numbers_or_large() -> None:
    spec = ModelSpec(name="cnn", width=1, encoder="frozen")
    made = _inputs(build(spec, 2, 16, 1), _Images(1 + OTHERS, 16), CPU)
    assert made.images is None and made.features is not None
    assert made.features[-1].isnan().all() and made.features[:-1].isfinite().all()
    assert made.features[-2].abs().max() > 1e25
    assert made.features[:-2].abs().max() < 1e10


def test_no_head_of_zeros_hides_what_lies_behind_it() -> None:
    model, before = (build(ModelSpec(name="cnn", width=1), 2, 16, 1) for _ in range(2))
    _unsettle(model)
    for name, value in trainable(model).items():
        moved = value - trainable(before)[name]
        assert (moved != 0).all() and moved.abs().max() < 0.6, name


def test_what_is_asked_is_the_same_each_time_and_draws_from_no_generator_of_others() -> None:
    """A simulation's own draws come after it."""
    before = torch.get_rng_state()
    one, again = (selftest._model(ModelSpec(name="cnn", width=1), 2, 16, CPU) for _ in range(2))
    for name, value in trainable(one).items():
        assert torch.equal(value, trainable(again)[name]), name
    assert torch.equal(torch.get_rng_state(), before)


def test_the_sizes_are_the_fewest_cells_of_a_unit_and_the_most() -> None:
    patients = PRIVACY | {"unit": "patient", "max_cells_per_patient": 3}
    for privacy, sizes in ((PRIVACY, [1]), (patients, [1, 3])):
        job = selftest._job(study(privacy=privacy), 20)
        assert _sizes(job) == sizes and job.member == Participant(units=20)


def test_one_bit_is_another_answer() -> None:
    one = torch.tensor([1.0, 2.0])
    assert _same(iter([one, one.clone()])) and _same(iter([one]))
    assert not _same(iter([one, one, torch.nextafter(one, 2 * one)]))
    assert not _same(iter([torch.nextafter(one, 2 * one), one, one]))


@pytest.mark.parametrize("augment", [False, True])
def test_a_units_share_is_asked_for_with_the_others_counting_for_nothing(
    monkeypatch: pytest.MonkeyPatch, augment: bool
) -> None:
    """The views' draws go with the cells; the others' losses are 0, their targets none."""
    privacy = PRIVACY | {
        "unit": "patient",
        "max_cells_per_patient": 2,
        "augmentations": 1 + augment,
    }
    of = study(privacy=privacy, training={"learning_rate": 0.1, "augment": augment})
    everyone, asked = np.arange(2 + OTHERS), []
    labels = np.where(everyone < 2, 0, -1)
    cells = SiteCells((), labels, np.full(len(labels), "train"), everyone, held_out=False)
    inputs = Inputs(cells, nn.Linear(3, 2), CPU, features=torch.ones((len(labels), 3)))

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        assert (targets >= 0).all()
        return outputs.sum(1) + 1

    def kept(*given: object) -> torch.Tensor:
        asked.append(given[2:])
        return torch.zeros(1)

    monkeypatch.setattr(selftest, "clipped_sum", kept)
    summand = Summand(inputs.network, loss)
    before = torch.get_rng_state()
    list(_shares(selftest._job(of, 20), inputs, summand, 2))
    assert len(asked) == 5 and torch.equal(torch.get_rng_state(), before)
    tables = []
    for alone, drawn, draws in asked:
        targets = torch.from_numpy(labels[drawn.rows])
        found = alone.loss(torch.ones((len(targets), 3)), targets)
        assert found.tolist() == [4.0 if target == 0 else 0.0 for target in targets]
        own = drawn.rows < 2
        assert len(set(drawn.units[own])) == 1 and len(set(drawn.units)) == len(own) - 1
        assert (draws is not None) == augment
        if augment:
            assert draws.shape == (2 * len(own), VIEW_DRAWS)
            tables.append(draws[np.repeat(own, 2)])
    assert all(torch.equal(table, tables[0]) for table in tables)


def test_every_engines_largest_chunk_is_known() -> None:
    """Else sites whose chunks differ would be taken for alike."""
    model = nn.Linear(1, 1)
    problem = Problem(model, nn.functional.mse_loss, dict(model.named_parameters()), ClipRule(1.0))
    rows = torch.zeros(1, 3), torch.zeros(1, 3, 16, 16)
    found = {
        _engine(name, problem).chunk(problem, row) for name in get_args(EngineName) for row in rows
    }
    assert found == set(selftest._LARGEST)


@pytest.mark.parametrize("centre", [False, True])
def test_a_study_that_seeks_a_centre_is_asked_for_the_shares_of_that_too(
    monkeypatch: pytest.MonkeyPatch, centre: bool
) -> None:
    asked: list[tuple[bool, int]] = []

    def shares(_: Job, inputs: Inputs, of: Summand, cells: int) -> Iterator[torch.Tensor]:
        asked.append((of.network is inputs.network, cells))
        assert of.network is inputs.network or isinstance(of.network, Offset)
        return iter([torch.zeros(1)])

    monkeypatch.setattr(selftest, "_shares", shares)
    of = study(
        model={"name": "cnn", "width": 1, "encoder": "frozen", "centre": centre},
        privacy=PRIVACY | {"unit": "patient", "max_cells_per_patient": 3},
    )
    assert selftest._of_sums.__wrapped__(of, 20, CPU, 1) is None
    assert asked == [
        (network, cells) for network in (True, False)[: 1 + centre] for cells in (1, 3)
    ]


def test_the_model_is_where_it_is_asked_for() -> None:
    model = selftest._model(ModelSpec(name="cnn", width=1), 2, 16, torch.device("meta"))
    assert {value.device.type for value in model.parameters()} == {"meta"}
