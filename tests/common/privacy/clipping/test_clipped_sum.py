"""What holds for every engine: the bound, the units, the bad rows, and a model left alone."""

import copy
import logging

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import PrivacyError
from common.privacy.clipping import ClipRule, EngineName, clipped_gradient_sum

from .conftest import Reference, cross_entropy

ENGINES: list[EngineName] = ["bookkeeping", "opacus", "vmap"]
GROUPS = torch.tensor([5, 5, 2, 9, 9, 9, 9, 9, 1, 2, 3, 4])


@pytest.fixture
def model() -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3)
    )
    generator = torch.Generator().manual_seed(3)
    for parameter in net.parameters():
        parameter.data.normal_(0, 0.5, generator=generator)
    return net


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    images = torch.randn(12, 3, 6, 6, generator=torch.Generator().manual_seed(4))
    return images, torch.arange(12) % 3


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("units", [None, GROUPS])
@pytest.mark.parametrize("chunk", [None, 1, 4, 5])
def test_the_definition(
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    reference: Reference,
    engine: EngineName,
    units: Tensor | None,
    chunk: int | None,
) -> None:
    expected, norms = reference(model, *batch, units, 2.0)
    found = clipped_gradient_sum(
        model, cross_entropy, *batch, max_grad_norm=2.0, engine=engine, units=units, chunk=chunk
    )
    assert (found.gradient - expected).norm() / expected.norm() < 1e-6
    assert int((found.norms > 2.0).sum()) == int((norms > 2.0).sum())
    assert len(found.norms) == len(norms)
    assert ClipRule.usable(found.norms).all()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("clipping", ["flat", "automatic"])
@pytest.mark.parametrize("bound", [1e-3, 0.1, 7.0, 1e4])
def test_one_unit_moves_the_sum_by_at_most_the_bound(
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    engine: EngineName,
    clipping: str,
    bound: float,
) -> None:
    images, targets = batch
    for rows in (slice(0, 1), slice(3, 8)):
        found = clipped_gradient_sum(
            model,
            cross_entropy,
            images[rows] * 10,
            targets[rows],
            max_grad_norm=bound,
            clipping=clipping,
            engine=engine,
            units=GROUPS[rows],
        )
        assert float(found.gradient.double().norm()) <= bound


@pytest.mark.parametrize(("with_it", "chunk"), [(2, None), (3, None), (9, 4), (6, 5), (34, 33)])
def test_neighbouring_batches_differ_by_the_bound_even_where_rounding_is_blown_up(
    with_it: int, chunk: int | None
) -> None:
    """Head weights of +-1e9 on pairs of equal features make a logit of nothing but rounding errors:
    it is the same for a unit whichever others there are, or its whole gradient would turn."""
    draws = torch.Generator().manual_seed(with_it)
    for _ in range(60):
        half = torch.rand(34, 160, generator=draws)
        weights = 1e9 * torch.randn(160, generator=draws)
        head = nn.Linear(320, 2)
        with torch.no_grad():
            head.weight.copy_(torch.stack([torch.cat([weights, -weights]), torch.zeros(320)]))
        rows, targets = torch.cat([half, half], dim=1), torch.zeros(34, dtype=torch.int64)
        one, other = (
            clipped_gradient_sum(
                head, cross_entropy, rows[:n], targets[:n], max_grad_norm=1.0, chunk=chunk
            ).gradient
            for n in (with_it, with_it - 1)
        )
        assert float((one - other).norm()) <= 1.001


@pytest.mark.parametrize("chunk", [2, 7, 100])
def test_the_order_of_rows_and_the_names_of_units_do_not_matter(
    model: nn.Module, batch: tuple[Tensor, Tensor], chunk: int
) -> None:
    images, targets = batch
    first = clipped_gradient_sum(
        model, cross_entropy, images, targets, max_grad_norm=1.0, units=GROUPS
    )
    order = torch.randperm(12, generator=torch.Generator().manual_seed(chunk))
    second = clipped_gradient_sum(
        model,
        cross_entropy,
        images[order],
        targets[order],
        max_grad_norm=1.0,
        units=100 - GROUPS[order],
        chunk=chunk,
    )
    torch.testing.assert_close(second.gradient, first.gradient, rtol=1e-4, atol=1e-6)


def test_automatic_clipping_divides_by_the_norm_plus_gamma(
    model: nn.Module, batch: tuple[Tensor, Tensor], reference: Reference
) -> None:
    images, targets = batch[0][:1], batch[1][:1]
    gradient, (norm,) = reference(model, images, targets, None, 1e9)
    found = clipped_gradient_sum(
        model,
        cross_entropy,
        images,
        targets,
        max_grad_norm=0.5,
        clipping="automatic",
        gamma=0.2,
    )
    expected = gradient * 0.5 / (norm + 0.2)
    assert (found.gradient - expected).norm() / expected.norm() < 1e-6


@pytest.mark.parametrize("engine", ENGINES)
def test_an_empty_batch_is_zeros(model: nn.Module, engine: EngineName) -> None:
    found = clipped_gradient_sum(
        model,
        cross_entropy,
        torch.zeros(0, 3, 6, 6),
        torch.zeros(0, dtype=torch.int64),
        max_grad_norm=1.0,
        engine=engine,
        units=torch.zeros(0, dtype=torch.int64),
    )
    assert found.gradient.shape == (sum(p.numel() for p in model.parameters()),)
    assert not found.gradient.any()
    assert found.norms.shape == (0,)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("units", [None, GROUPS])
@pytest.mark.parametrize("chunk", [3, 12])
def test_a_unit_without_a_finite_norm_counts_as_zero(
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    engine: EngineName,
    value: float,
    units: Tensor | None,
    chunk: int,
) -> None:
    linear = nn.Sequential(nn.Conv2d(3, 20, 3), nn.Flatten(), nn.Linear(320, 3))
    images, targets = batch[0].clone(), batch[1]
    images[4, 0, 0, 0] = value
    groups = torch.arange(12) if units is None else units
    others = groups != groups[4]
    options = {"max_grad_norm": 1.0, "engine": engine, "chunk": chunk}
    found = clipped_gradient_sum(linear, cross_entropy, images, targets, units=units, **options)
    without = clipped_gradient_sum(
        linear,
        cross_entropy,
        images[others],
        targets[others],
        units=groups[others],
        **options,
    )
    assert int((~ClipRule.usable(found.norms)).sum()) == 1
    assert len(found.norms) == len(without.norms) + 1
    torch.testing.assert_close(found.gradient, without.gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_model_is_left_as_it_was(
    model: nn.Module, batch: tuple[Tensor, Tensor], engine: EngineName
) -> None:
    calls: list[int] = []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    weight = next(model.parameters())
    weight.grad = torch.ones_like(weight)
    before = copy.deepcopy(model.state_dict())
    names = {name: set(vars(module)) for name, module in model.named_modules()}
    hooks = {name: len(module._forward_hooks) for name, module in model.named_modules()}
    clipped_gradient_sum(model, cross_entropy, *batch, max_grad_norm=1.0, engine=engine)
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.ones_like(weight))
    assert all(p.grad is None for p in list(model.parameters())[1:])
    assert all(
        torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True)
    )
    assert names == {name: set(vars(module)) for name, module in model.named_modules()}
    assert hooks == {name: len(module._forward_hooks) for name, module in model.named_modules()}
    assert all(module.training for module in model.modules())
    assert not any(hasattr(p, "grad_sample") for p in model.parameters())
    assert calls, "the caller's own hook still runs"


def test_a_failing_loss_leaves_the_model_as_it_was(
    model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    def broken(logits: Tensor, targets: Tensor) -> Tensor:
        raise RuntimeError("no loss today")

    with pytest.raises(RuntimeError, match="no loss today"):
        clipped_gradient_sum(model, broken, *batch, max_grad_norm=1.0)
    assert not any("forward" in vars(module) for module in model.modules())


def test_batch_statistics_are_refused_with_a_way_out() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    with pytest.raises(PrivacyError, match=r"Layer 1 is BatchNorm2d.*GroupNorm") as refusal:
        clipped_gradient_sum(
            model, cross_entropy, torch.zeros(2, 3, 4, 4), torch.zeros(2), max_grad_norm=1.0
        )
    assert "FrozenBatchNorm" in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_grad_norm": 0.0}, "max_grad_norm=0.0"),
        ({"max_grad_norm": 9e-4}, "max_grad_norm=0.0009"),
        ({"max_grad_norm": float("nan")}, "max_grad_norm=nan"),
        ({"gamma": -1.0}, "gamma=-1.0"),
        ({"clipping": "soft"}, "clipping='soft'"),
        ({"engine": "magic"}, "engine='magic'"),
        ({"chunk": 0}, "chunk=0"),
        ({"units": torch.zeros(3, dtype=torch.int64)}, "units"),
        ({"units": torch.zeros(12)}, "units"),
        ({"targets": torch.zeros(3, dtype=torch.int64)}, "3 targets"),
        ({"loss": lambda a, b: cross_entropy(a, b).mean()}, "reduction='none'"),
    ],
)
def test_wrong_arguments_are_named(
    model: nn.Module, batch: tuple[Tensor, Tensor], change: dict[str, object], message: str
) -> None:
    given = {"loss": cross_entropy, "inputs": batch[0], "targets": batch[1], "max_grad_norm": 1.0}
    with pytest.raises(PrivacyError, match=message):
        clipped_gradient_sum(model, **{**given, **change})


def test_nothing_to_train_is_an_error(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(PrivacyError, match="requires_grad"):
        clipped_gradient_sum(model.requires_grad_(False), cross_entropy, *batch, max_grad_norm=1.0)


class Scale(nn.Module):
    """A layer that no closed form knows."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, values: Tensor) -> Tensor:
        return values * self.scale


class Borrowing(nn.Module):
    """Uses a layer's weight outside the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, values: Tensor) -> Tensor:
        return F.linear(self.inner(values), self.inner.weight)


class TimeFirst(nn.Module):
    """Hands its layer (time, rows, features), with as many times as a batch has rows."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, values: Tensor) -> Tensor:
        series = torch.stack([values * (k + 1) for k in range(6)])
        return torch.tanh(self.inner(series)).mean(0)


@pytest.mark.parametrize("make", [Scale, Borrowing, TimeFirst])
@pytest.mark.parametrize("units", [None, torch.tensor([0, 0, 1, 1, 1, 2])])
def test_what_no_closed_form_covers_goes_through_vmap_and_is_said_once(
    reference: Reference,
    caplog: pytest.LogCaptureFixture,
    make: type[nn.Module],
    units: Tensor | None,
) -> None:
    net = nn.Sequential(nn.Linear(4, 4), make(), nn.Linear(4, 3))
    inputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    targets = torch.arange(6) % 3
    expected, _ = reference(net, inputs, targets, units, 0.1)
    with caplog.at_level(logging.WARNING, logger="common.privacy.clipping.engine"):
        for _ in range(2):
            found = clipped_gradient_sum(
                net, cross_entropy, inputs, targets, max_grad_norm=0.1, units=units
            )
            assert (found.gradient - expected).norm() / expected.norm() < 1e-6
    assert len(caplog.records) <= 1
