"""Every closed form gives the per-unit definition's sum, whatever the layer's shape."""

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from common.models.layers import FrozenBatchNorm, WSConv2d
from common.privacy.clipping import clipped_gradient_sum, convolution
from common.privacy.clipping.layers import Call

from .conftest import Reference, cross_entropy

BOUND = 0.3


class Pooled(nn.Module):
    """Layers on images, then the mean over pixels and a head."""

    def __init__(self, *layers: nn.Module, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(channels, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.layers(images)).flatten(2).mean(2))
        return logits


class Tokens(nn.Module):
    """Embedding, LayerNorm and Linear on (rows, time, features)."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 5, padding_idx=0)
        self.norm = nn.LayerNorm(5)
        self.inner = nn.Linear(5, wide)
        self.head = nn.Linear(wide, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.inner(self.norm(self.embed(tokens)))).mean(1))
        return logits


def agree(
    model: nn.Module, inputs: Tensor, units: Tensor | None, reference: Reference, **options: object
) -> None:
    """float64 inside shows that the formula is right; float32, that it loses no accuracy."""
    targets = torch.arange(len(inputs)) % 3
    expected, norms = reference(model, inputs, targets, units, BOUND)
    for kind, tolerance in ((torch.float64, 1e-9), (torch.float32, 2e-5)):
        twin = model.to(kind)
        found = clipped_gradient_sum(
            twin,
            cross_entropy,
            inputs.to(kind) if inputs.is_floating_point() else inputs,
            targets,
            max_grad_norm=BOUND,
            units=units,
            **options,
        )
        assert found.gradient.dtype == torch.float64
        error = (found.gradient - expected).norm() / expected.norm()
        assert error < tolerance, (kind, float(error))
        assert len(found.norms) == len(norms)
        assert float(found.norms.max()) == pytest.approx(float(norms.max()), rel=1e-5)


units_of_rows = st.one_of(st.none(), st.lists(st.integers(0, 3), min_size=6, max_size=6))


def grouping(drawn: list[int] | None) -> Tensor | None:
    return None if drawn is None else torch.tensor(drawn)


@settings(max_examples=40)
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    groups=st.sampled_from([1, 2, 4]),
    bias=st.booleans(),
    standardised=st.booleans(),
    kept=st.booleans(),
    drawn=units_of_rows,
    seed=st.integers(0, 2**31),
)
def test_convolutions(
    reference: Reference,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    bias: bool,
    standardised: bool,
    kept: bool,
    drawn: list[int] | None,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    kind = WSConv2d if standardised else nn.Conv2d
    conv = kind(4, 8, kernel, stride, padding, dilation, groups, bias)
    if standardised and conv.weight[0].numel() <= 2:
        return  # nothing is left of a filter of two weights without its mean and its length
    model = Pooled(conv, channels=8)
    redraw(model, generator)
    images = torch.randn(6, 4, 8, 9, generator=generator)
    with mock.patch.object(convolution, "_KEEP", 0 if kept else 1e9):
        agree(model, images, grouping(drawn), reference)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_named_padding(reference: Reference, padding: str) -> None:
    model = Pooled(nn.Conv2d(20, 4, 3, padding=padding), channels=4)
    agree(model, redraw(model).randn(5, 20, 6, 6), None, reference)


@pytest.mark.parametrize("drawn", [None, [0, 1, 1, 2, 2, 2]])
@pytest.mark.parametrize(
    "layers",
    [
        lambda: [nn.Conv2d(4, 8, 3, padding=1, bias=False), nn.GroupNorm(4, 8)],
        lambda: [nn.Conv2d(4, 8, 3), nn.GroupNorm(2, 8, affine=False), nn.ReLU(inplace=True)],
        lambda: [nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8).eval()],
        lambda: [nn.Conv2d(4, 8, 3, groups=4), FrozenBatchNorm(8, 1e-5)],
        lambda: [WSConv2d(4, 32, 3), nn.ReLU(inplace=True), WSConv2d(32, 8, 3)],
        lambda: [nn.Conv2d(4, 8, 3), nn.LayerNorm((8, 4, 4))],
    ],
)
def test_stacks_of_layers(reference: Reference, layers: object, drawn: list[int] | None) -> None:
    model = Pooled(*layers(), channels=8)
    draw = redraw(model)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point():
                values = draw.randn(*buffer.shape)
                buffer.copy_(values.square() + 0.5 if "var" in name else values)
    agree(model, draw.randn(6, 4, 6, 6), grouping(drawn), reference)


@pytest.mark.parametrize("wide", [4, 64])
@pytest.mark.parametrize("drawn", [None, [3, 1, 1, 0, 3, 3]])
def test_sequences(reference: Reference, wide: int, drawn: list[int] | None) -> None:
    model = Tokens(wide)
    redraw(model)
    tokens = torch.arange(24).reshape(6, 4) * 5 % 7
    agree(model, tokens, grouping(drawn), reference)


class Twice(nn.Module):
    """One layer used twice, and one weight that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 5)
        self.inner = nn.Linear(5, 5)
        self.out = nn.Linear(5, 7, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = torch.tanh(self.inner(torch.tanh(self.inner(self.embed(tokens)))))
        return F.log_softmax(self.out(hidden).mean(1), 1)


@pytest.mark.parametrize("drawn", [None, [0, 1, 1, 2, 2, 2]])
def test_shared_parameters(reference: Reference, drawn: list[int] | None) -> None:
    model = Twice()
    redraw(model)
    agree(model, torch.arange(24).reshape(6, 4) * 5 % 7, grouping(drawn), reference)


@pytest.mark.parametrize("shared", [nn.Conv2d, WSConv2d])
def test_a_convolution_used_twice(reference: Reference, shared: type[nn.Conv2d]) -> None:
    conv = shared(4, 4, 3, padding=1)
    model = Pooled(conv, nn.Tanh(), conv, channels=4)
    agree(model, redraw(model).randn(6, 4, 4, 4), grouping([0, 0, 1, 2, 2, 3]), reference)


@pytest.mark.parametrize("kind", [nn.Conv2d, WSConv2d])
def test_larger_units_may_be_treated_another_way(
    reference: Reference, kind: type[nn.Conv2d]
) -> None:
    model = Pooled(kind(4, 8, 3), nn.Tanh(), kind(8, 8, 3), channels=8)
    images = redraw(model).randn(14, 4, 6, 6)
    units = torch.tensor([0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 4, 5, 5, 5])

    def wide(layer: object, call: Call) -> bool:
        return call.width > 2

    with mock.patch.object(convolution.ConvLayer, "_keeping_is_cheaper", wide):
        agree(model, images, units, reference, chunk=4)


@pytest.mark.parametrize("frozen", ["layers.0.weight", "layers.0.bias", "layers", "head.weight"])
def test_frozen_parameters_have_no_place(reference: Reference, frozen: str) -> None:
    model = Pooled(nn.Conv2d(4, 8, 3), nn.GroupNorm(2, 8), channels=8)
    draw = redraw(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
    agree(model, draw.randn(6, 4, 5, 5), None, reference)


@pytest.mark.parametrize("kind", [nn.Conv2d, WSConv2d])
def test_cancellation_does_not_lift_a_unit_above_the_bound(kind: type[nn.Conv2d]) -> None:
    """Nearly constant images, and backprops that the normalisation makes sum to zero: the norm is
    a small difference of large terms."""
    model = Pooled(kind(8, 16, 3), nn.GroupNorm(16, 16), channels=16)
    images = 1 + 1e-4 * redraw(model).randn(8, 8, 8, 8)
    model.head.requires_grad_(False)
    model.layers[1].requires_grad_(False)
    for row in range(8):
        with mock.patch.object(convolution, "_KEEP", 1e9):
            found = clipped_gradient_sum(
                model,
                lambda *row: 1000 * cross_entropy(*row),
                images[row : row + 1],
                torch.tensor([row % 3]),
                max_grad_norm=1e-3,
            )
        assert float(found.norms) > 1e-3
        assert 0.5e-3 < float(found.gradient.norm()) <= 1e-3


@pytest.mark.parametrize("drawn", [None, [0, 0, 1, 1, 2, 3]])
def test_autocast_lowers_the_network_but_not_the_clipping(drawn: list[int] | None) -> None:
    layers = (WSConv2d(4, 32, 3), nn.GroupNorm(4, 32), nn.ReLU(), nn.Conv2d(32, 8, 3))
    model = Pooled(*layers, FrozenBatchNorm(8, 1e-5), channels=8)
    images, targets = redraw(model).randn(6, 4, 6, 6), torch.arange(6) % 3
    units = grouping(drawn)
    exact = clipped_gradient_sum(
        model, cross_entropy, images, targets, max_grad_norm=BOUND, units=units
    )
    for kept in (0, 1e9):
        with mock.patch.object(convolution, "_KEEP", kept), torch.autocast("cpu", torch.bfloat16):
            rough = clipped_gradient_sum(
                model, cross_entropy, images, targets, max_grad_norm=BOUND, units=units
            )
            alone = clipped_gradient_sum(
                model, cross_entropy, images[:1], targets[:1], max_grad_norm=BOUND
            )
        assert (rough.gradient - exact.gradient).norm() / exact.gradient.norm() < 0.05
        assert BOUND * (1 - 2e-5) < float(alone.gradient.double().norm()) <= BOUND


class Draw:
    """Random values from a generator of their own."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def randn(self, *size: int) -> Tensor:
        return torch.randn(*size, generator=self.generator)


def redraw(model: nn.Module, generator: torch.Generator | None = None) -> Draw:
    """Draw every parameter from `generator`, so that no test depends on another's draws."""
    draw = Draw(generator or torch.Generator().manual_seed(5))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(draw.randn(*parameter.shape) * 0.5)
    return draw


@pytest.mark.parametrize("kind", [nn.Conv2d, WSConv2d])
@pytest.mark.parametrize("kept", [0, 1e9])
def test_images_with_channels_last(
    reference: Reference, kind: type[nn.Conv2d], kept: float
) -> None:
    model = Pooled(kind(4, 8, 3), channels=8)
    images = redraw(model).randn(6, 4, 5, 5).to(memory_format=torch.channels_last)
    with mock.patch.object(convolution, "_KEEP", kept):
        agree(model, images, None, reference)
