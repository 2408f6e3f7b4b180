"""No model, loss scale or input lifts one unit's share above the bound, or out of float32."""

import contextlib
from collections.abc import Callable
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from common.errors import PrivacyError
from common.models.layers import WSConv2d
from common.privacy.clipping import (
    ClippedSum,
    ClipRule,
    EngineName,
    clipped_gradient_sum,
    convolution,
)
from common.privacy.clipping.accumulator import Accumulator, block_sum
from common.privacy.clipping.engine_api import squared_norms

from .conftest import cross_entropy

ENGINES: list[EngineName] = ["bookkeeping", "opacus", "vmap"]

Loss = Callable[[Tensor, Tensor], Tensor]

exponents = st.integers(-30, 30)


def weighted(weights: Tensor, scale: float = 1.0) -> Loss:
    """A loss whose backprops at the model's output are `weights` times `scale`."""
    return lambda logits, targets: (logits * weights).flatten(1).sum(1) * scale


def share(
    model: nn.Module, loss: Loss, inputs: Tensor, bound: float, engine: EngineName = "bookkeeping"
) -> ClippedSum:
    """One unit, its rows being `inputs`."""
    units = torch.zeros(len(inputs), dtype=torch.int64)
    return clipped_gradient_sum(
        model, loss, inputs, units, max_grad_norm=bound, engine=engine, units=units
    )


class Layers(nn.Module):
    """Layers with nothing behind them, so that a loss reaches their output directly."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, values: Tensor) -> Tensor:
        result: Tensor = self.layers(values)
        return result


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 8), (6,)),
    "sequence": (lambda: nn.Linear(24, 24), (3, 24)),
    "conv": (lambda: nn.Conv2d(6, 8, 3, padding=1), (6, 4, 4)),
    "standardised": (lambda: WSConv2d(6, 8, 3, padding=1), (6, 4, 4)),
    "normalised": (lambda: nn.Sequential(nn.Conv2d(6, 8, 3), nn.GroupNorm(2, 8)), (6, 4, 4)),
    "deep": (
        lambda: nn.Sequential(WSConv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)),
        (6, 4, 4),
    ),
}


@settings(max_examples=150)
@given(
    name=st.sampled_from(sorted(MODELS)),
    engine=st.sampled_from(ENGINES),
    gain=exponents,
    spread=exponents,
    scales=st.tuples(exponents, exponents),
    size=st.integers(-6, 6),
    bound=st.integers(-3, 3),
    rows=st.integers(1, 2),
    quiet=st.booleans(),
    kept=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_no_scale_lifts_a_unit_above_the_bound(
    name: str,
    engine: EngineName,
    gain: int,
    spread: int,
    scales: tuple[int, int],
    size: int,
    bound: int,
    rows: int,
    quiet: bool,
    kept: bool,
    seed: int,
) -> None:
    """Half of the pixels have a scale of their own; quiet backprops sum to zero. Backprops make up
    for the inputs' scale, so that many gradients are of a size that a bound cuts."""
    make, shape = MODELS[name]
    generator = torch.Generator().manual_seed(seed)
    model = Layers(make())
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(10.0**gain + 10.0**spread * drawn)
    inputs = torch.randn(rows, *shape, generator=generator)
    half = torch.rand(inputs.shape, generator=generator) < 0.5
    inputs = torch.where(half, inputs * 10.0 ** scales[0], inputs * 10.0 ** scales[1])
    with torch.no_grad():
        weights = torch.randn(model(inputs[:1]).shape, generator=generator)
    if quiet:
        weights = weights - weights.flatten(1).mean(1).view(-1, *[1] * (weights.dim() - 1))
    with mock.patch.object(convolution, "_KEEP", 0 if kept else 1e9):
        found = share(
            model, weighted(weights, 10.0 ** (size - scales[0])), inputs, 10.0**bound, engine
        )
    assert torch.isfinite(found.gradient).all()
    assert float(found.gradient.norm()) <= 10.0**bound * (1 + 1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_gradient_whose_squares_underflow_is_clipped(engine: EngineName) -> None:
    """Squares of values below 1e-22 are 0 in float32, and so would be the norm. The norm that is
    found is not below the true one, and a bound as small as such norms is refused."""
    model = nn.Linear(64, 64, bias=False)
    loss = weighted(torch.full((1, 64), 1e-12))
    found = share(model, loss, torch.full((1, 64), 1e-12), 1e-3, engine)
    assert float(found.norms) >= 64e-24 * (1 - 1e-6)
    with pytest.raises(PrivacyError, match=r"max_grad_norm=1e-30 >= 0\.001"):
        share(model, loss, torch.ones(1, 64), 1e-30, engine)


@given(exponent=st.integers(-45, 18), values=st.integers(1, 3000))
def test_a_squared_norm_is_not_too_small(exponent: int, values: int) -> None:
    row = torch.full((1, values), 10.0**exponent)
    true = row.double().square().sum()
    assert float(squared_norms(row)) >= float(true) * (1 - 1e-5)


@pytest.mark.parametrize("kind", [nn.Conv2d, WSConv2d])
@pytest.mark.parametrize(
    ("inputs", "backprops"), [(1e-20, 1e15), (1e-22, 1e17), (1e-23, 1e18), (3e-24, 1e19)]
)
def test_tiny_inputs_under_huge_backprops_are_clipped(
    kind: type[nn.Conv2d], inputs: float, backprops: float
) -> None:
    """The Gram matrix of the inputs underflows, and the norm from it would be 0."""
    model = kind(64, 64, 3, padding=1, bias=False)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 64, 4, 4, generator=generator) * inputs
    loss = weighted(torch.rand(1, 64, 4, 4, generator=generator), backprops)
    with mock.patch.object(convolution, "_KEEP", 1e9):
        found = share(model, loss, images, 1e-3)
    assert float(found.gradient.norm()) <= 1e-3


def test_scales_that_differ_between_positions_do_not_hide_a_gradient() -> None:
    """Each position's product is 1; no common factor brings both tensors into float32's range."""
    model = nn.Linear(64, 64, bias=False)
    sizes = torch.tensor([1e-25, 1.0, 1e15])[None, :, None]
    loss = weighted((1 / sizes).expand(1, 3, 64))
    found = share(model, loss, sizes * torch.ones(1, 3, 64), 1.0)
    assert float(found.gradient.norm()) <= 1.0


@pytest.mark.parametrize(("offset", "spread"), [(3e5, 0.01), (1e6, 0.1), (1e7, 1.0)])
@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("bias", [0.0, 1e8])
def test_standardised_filters_far_from_zero(
    offset: float, spread: float, quiet: bool, bias: float
) -> None:
    model = WSConv2d(256, 256, 3, padding=1)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        model.weight.copy_(offset + spread * torch.randn(model.weight.shape, generator=generator))
        model.bias.fill_(bias)
    model.bias.requires_grad_(False)
    images, weights = torch.randn(2, 1, 256, 4, 4, generator=generator)
    if quiet:
        weights -= weights.mean((2, 3), keepdim=True)
    found = share(model, weighted(weights), images, 1e-3)
    assert 0.9e-3 < float(found.gradient.norm()) <= 1e-3


def test_a_unit_whose_terms_cancel_does_not_spoil_the_others() -> None:
    """Its terms are 10^6 times its gradient; in one contraction they would drown the others'."""
    model = nn.Linear(32, 32, bias=False)
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(9, 2, 32, generator=generator)
    inputs[4] = 1e6 * (1 + 1e-7 * inputs[4])
    weights = torch.randn(9, 2, 32, generator=generator)
    weights[4, 1] = -weights[4, 0]

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        return (logits * weights[targets]).flatten(1).sum(1)

    def total(rows: Tensor) -> Tensor:
        return clipped_gradient_sum(model, loss, inputs[rows], rows, max_grad_norm=1.0).gradient

    rows = torch.arange(9)
    found = total(rows) - total(rows[rows != 4])
    assert float((found - total(rows[4:5])).norm()) < 1e-5


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -3e38])
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("rows", [0, 1, 3])
def test_a_model_that_is_not_finite_sends_zeros(
    engine: EngineName, value: float, layer: int, rows: int
) -> None:
    model = nn.Sequential(
        WSConv2d(3, 64, 3, bias=False), WSConv2d(64, 64, 3), nn.Flatten(), nn.Linear(64, 3)
    )
    with torch.no_grad():
        model[layer].weight[1].fill_(value)
    images = torch.randn(rows, 3, 5, 5, generator=torch.Generator().manual_seed(3))
    with mock.patch.object(convolution, "_KEEP", 1e9):
        found = clipped_gradient_sum(
            model,
            cross_entropy,
            images,
            torch.zeros(rows, dtype=torch.int64),
            max_grad_norm=1.0,
            engine=engine,
        )
    assert torch.isfinite(found.gradient).all()
    assert float(found.gradient.norm()) <= rows
    if value != value:
        assert len(found.norms) == rows and not ClipRule.usable(found.norms).any()
        assert not found.gradient.any()


def test_a_sum_that_is_not_finite_after_all_is_zeros() -> None:
    def broken(self: Accumulator, parameter: Tensor, gradient: Tensor) -> None:
        self.flat.fill_(torch.nan)

    with mock.patch.object(Accumulator, "add", broken):
        found = clipped_gradient_sum(
            nn.Linear(3, 2),
            cross_entropy,
            torch.ones(4, 3),
            torch.zeros(4, dtype=torch.int64),
            max_grad_norm=1.0,
        )
    assert found.norms.isnan().tolist() == [True] * 4
    assert not found.gradient.any()


@pytest.mark.parametrize("fails", [False, True])
def test_products_are_of_full_precision_inside_and_as_before_outside(fails: bool) -> None:
    seen: list[tuple[str, bool]] = []

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
        if fails:
            raise RuntimeError("no loss today")
        return cross_entropy(logits, targets)

    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = True
    try:
        expected = (
            pytest.raises(RuntimeError, match="no loss today")
            if fails
            else contextlib.nullcontext()
        )
        with expected:
            share(nn.Linear(3, 2), loss, torch.ones(1, 3), 1.0)
        after = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
    assert seen == [("highest", False)]
    assert after == ("medium", True)


def test_a_large_sum_changes_by_one_unit_s_share_alone() -> None:
    """Units that pull the same way, so that the sum is as long as it can be."""
    model = nn.Linear(512, 8)
    generator = torch.Generator().manual_seed(4)
    features = 0.2 * torch.randn(20_001, 512, generator=generator) + 1

    def total(rows: Tensor) -> Tensor:
        targets = torch.zeros(len(rows), dtype=torch.int64)
        return clipped_gradient_sum(model, cross_entropy, rows, targets, max_grad_norm=1.0).gradient

    whole, without, one = total(features), total(features[1:]), total(features[:1])
    assert float(whole.norm()) > 15_000
    assert float((whole - without - one).norm()) < 1e-4


@given(rows=st.integers(0, 200), seed=st.integers(0, 9), wide=st.sampled_from([5, 300]))
def test_a_sum_over_blocks_is_the_product(rows: int, seed: int, wide: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    left, right = torch.randn(2, rows, wide, generator=generator)
    expected = left.double().T @ right.double()
    torch.testing.assert_close(block_sum(left, right), expected, rtol=1e-4, atol=1e-4)


def test_parameters_of_few_bits_are_refused() -> None:
    with pytest.raises(PrivacyError, match="weight is torch.bfloat16"):
        share(nn.Linear(3, 2).bfloat16(), cross_entropy, torch.ones(1, 3).bfloat16(), 1.0)


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight

    def forward(self, rows: Tensor) -> Tensor:
        return torch.as_tensor(self.two(self.one(rows).relu()))


@pytest.mark.parametrize(
    "model",
    [
        Tied(),
        nn.Sequential(nn.Embedding(4, 3, padding_idx=0), nn.Flatten(), nn.Linear(12, 2)),
        nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"), nn.Flatten()),
    ],
)
def test_opacus_is_not_asked_for_what_it_gets_wrong(model: nn.Module) -> None:
    rows = torch.zeros(2, 4, dtype=torch.int64)
    with pytest.raises(PrivacyError, match="engine opacus gives wrong gradients"):
        clipped_gradient_sum(
            model, cross_entropy, rows, rows[:, 0], max_grad_norm=1.0, engine="opacus"
        )
