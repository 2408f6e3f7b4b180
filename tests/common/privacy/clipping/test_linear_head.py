"""A head that trains alone takes a shorter way to the same sum."""

from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

from common.models.layers import Centred
from common.privacy.clipping import ClippedSum, Clipping, clipped_gradient_sum
from common.privacy.clipping.linear_head import LinearHead
from tests.common.privacy.clipping.conftest import cross_entropy


class Recording(nn.Linear):
    """Computes what Linear does, but is none: nobody knows what a subclass computes."""


def _sum(model: nn.Module, inputs: Tensor, bound: float, clipping: Clipping) -> ClippedSum:
    targets = torch.arange(len(inputs)) % 3
    return clipped_gradient_sum(
        model, cross_entropy, inputs, targets, max_grad_norm=bound, clipping=clipping, expected=9.0
    )


@given(
    rows=st.integers(0, 200),
    features=st.sampled_from([2, 7, 64, 1030]),
    bias=st.booleans(),
    centred=st.booleans(),
    odd=st.sampled_from([1.0, 0.0, 1e30, float("inf"), float("nan")]),
    bound=st.sampled_from([1e-3, 1.0, 1e4]),
    clipping=st.sampled_from(["flat", "automatic"]),
)
@example(
    rows=80, features=64, bias=True, centred=False, odd=float("nan"), bound=1.0, clipping="flat"
)
def test_it_is_to_the_bit_what_the_layers_give(
    rows: int,
    features: int,
    bias: bool,
    centred: bool,
    odd: float,
    bound: float,
    clipping: Clipping,
) -> None:
    generator = torch.Generator().manual_seed(rows)
    inputs = torch.randn(rows, features, generator=generator)
    inputs[rows // 2 : rows // 2 + 1] *= odd
    head = nn.Linear(features, 3, bias=bias)
    model = nn.Sequential(Centred(features), head) if centred else head
    assert LinearHead.of(model) is not None
    found = _sum(model, inputs, bound, clipping)
    with patch.object(LinearHead, "of", return_value=None):
        general = _sum(model, inputs, bound, clipping)
    assert torch.equal(found.gradient, general.gradient)
    assert torch.equal(found.norms.nan_to_num(-1.0), general.norms.nan_to_num(-1.0))
    assert all(value.grad is None and value.requires_grad for value in head.parameters())


def _hooked() -> nn.Module:
    model = nn.Linear(4, 3)
    model.register_forward_hook(lambda module, given, output: output * 2)
    return model


def _frozen_bias() -> nn.Module:
    model = nn.Linear(4, 3)
    assert model.bias is not None
    model.bias.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    "make",
    [
        _hooked,
        _frozen_bias,
        lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)),
        lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh()),
        lambda: Recording(4, 3),
    ],
)
def test_any_other_model_goes_the_long_way(make: Callable[[], nn.Module]) -> None:
    assert LinearHead.of(make()) is None
