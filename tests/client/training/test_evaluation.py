"""A model's class probabilities: a row a cell, whatever the number, and no error that tells."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from client.data.site_cells import SiteCells
from client.training.evaluation import BATCH, predict
from client.training.inputs import Inputs
from common.metrics import Floats

CELLS, WIDTH, CLASSES = 100, 5, 3
CPU = torch.device("cpu")


class Head(nn.Module):
    """Linear, and remembers in which mode and of how many rows it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, CLASSES)
        self.dropout = nn.Dropout(0.5)
        self.asked: list[tuple[int, bool, bool]] = []

    def forward(self, rows: Tensor) -> Tensor:
        self.asked.append((len(rows), self.training, torch.is_inference_mode_enabled()))
        return torch.as_tensor(self.linear(self.dropout(rows)))


def inputs(network: nn.Module, **changes: Any) -> Inputs:
    everyone = np.arange(CELLS)
    cells = SiteCells((), everyone % CLASSES, np.full(CELLS, "test"), everyone, held_out=False)
    features = torch.randn((CELLS, WIDTH), generator=torch.Generator().manual_seed(1))
    return Inputs(cells, network, CPU, **({"features": features} | changes))


def softmax(made: Inputs, head: Head, rows: np.ndarray[Any, Any]) -> Floats:
    with torch.no_grad():
        logits = head.linear(made.features[torch.from_numpy(rows)])  # type: ignore[index]
    raised = np.exp(logits.double().numpy())
    return np.asarray(raised / raised.sum(1, keepdims=True))


@pytest.mark.parametrize("count", [1, 2, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH + 5])
def test_each_cell_has_its_row_whatever_their_number(count: int) -> None:
    head = Head()
    made, rows = inputs(head), np.random.default_rng(count).permutation(CELLS)[:count]
    found = predict(made, rows)
    assert found.shape == (count, CLASSES) and found.dtype == np.float64
    np.testing.assert_allclose(found, softmax(made, head, rows), rtol=1e-5)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-12)
    assert {rows for rows, _, _ in head.asked} == {BATCH}, "in one shape, whoever is asked for"


def test_no_cell_has_no_row() -> None:
    assert predict(inputs(Head()), np.arange(0)).shape == (0, 0)


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_asked_as_it_is_used_and_left_as_it_was(training: bool) -> None:
    head = Head().train(training)
    predict(inputs(head), np.arange(3))
    assert head.asked == [(BATCH, False, True)] and head.training == training
    assert head.dropout.training == training


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_cell_without_a_finite_output_counts_for_nothing_and_moves_no_other(value: float) -> None:
    head = Head()
    made = inputs(head)
    sound = predict(made, np.arange(10))
    assert made.features is not None
    made.features[3] = value
    found = predict(made, np.arange(10))
    assert (found[3] == 0).all()
    assert np.array_equal(np.delete(found, 3, 0), np.delete(sound, 3, 0))


def test_it_is_computed_in_the_precision_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = inputs(Head())
    exact = predict(made, np.arange(5))
    rough = predict(inputs(made.network, precision="bfloat16"), np.arange(5))
    assert not np.array_equal(exact, rough)
    np.testing.assert_allclose(rough, exact, atol=0.05)
