"""Products with patches: the same numbers as a convolution's, and the same bits in any company."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from common.privacy.clipping.contributions import KeptGradients
from common.privacy.clipping.convolution import ConvLayer
from common.privacy.clipping.engine import _taken
from common.privacy.clipping.layers import Call
from common.privacy.clipping.patches import padded_last, patches

_UNITS = 16
SHAPES = [(3, 2, 5, 2, 2, 16), (3, 32, 5, 2, 2, 32), (32, 64, 3, 2, 1, 16), (2, 4, 3, 2, 1, 8)]
"""Channels in and out, kernel, stride, padding, side; of the first a unit's numbers are no whole
lines of a cache, and its product's last bits hang on its place."""


@given(
    channels=st.integers(1, 4),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
)
def test_patches_are_those_of_unfold(
    channels: int, kernel: int, stride: int, padding: int, dilation: int
) -> None:
    inputs = torch.randn(2, channels, 9, 11)
    weight = torch.zeros(1, channels, kernel, kernel)
    size = F.conv2d(inputs, weight, None, stride, padding, dilation).shape[2:]
    found = patches(
        padded_last(inputs, (padding, padding)), (kernel,) * 2, (stride,) * 2, (dilation,) * 2, size
    )
    unfolded = F.unfold(inputs, kernel, dilation, padding, stride)
    expected = unfolded.view(2, channels, kernel, kernel, *size).permute(0, 4, 5, 2, 3, 1)
    assert torch.equal(found, expected)


def _kept(shape: tuple[int, ...], inputs: torch.Tensor, backprops: torch.Tensor) -> KeptGradients:
    channels, out, kernel, stride, padding, _ = shape
    layer = ConvLayer(nn.Conv2d(channels, out, kernel, stride, padding, bias=False))
    call = Call(inputs, backprops, backprops, (), 1, keep=False, needs_input=False)
    return layer._kept(layer.module.weight, call)


def _made(shape: tuple[int, ...], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    channels, out, kernel, stride, padding, side = shape
    after = (side + 2 * padding - kernel) // stride + 1
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(_UNITS, channels, side, side, generator=generator)
    return inputs, torch.randn(_UNITS, out, after, after, generator=generator)


@pytest.mark.parametrize("shape", SHAPES)
def test_no_bit_of_a_units_gradient_depends_on_its_place_or_company(shape: tuple[int, ...]) -> None:
    own = _made(shape, 0)
    found = []
    for place in range(_UNITS):
        inputs, backprops = _made(shape, place + 1)
        inputs[place], backprops[place] = own[0][0], own[1][0]
        found.append(_kept(shape, inputs, backprops).gradients[place])
    assert all(torch.equal(one, found[0]) for one in found)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_of_autograd(shape: tuple[int, ...]) -> None:
    channels, out, kernel, stride, padding, _ = shape
    inputs, backprops = _made(shape, 1)
    kept = _kept(shape, inputs, backprops)
    for unit in range(_UNITS):
        weight = torch.zeros(out, channels, kernel, kernel, dtype=torch.float64, requires_grad=True)
        output = F.conv2d(inputs[unit, None].double(), weight, None, stride, padding)
        (expected,) = torch.autograd.grad(output, weight, backprops[unit, None].double())
        gradient = kept.gradients[unit]
        gradient = gradient if kept.order is None else gradient.permute(kept.order)
        assert torch.allclose(gradient.double(), expected, atol=1e-4)


def test_rows_that_lie_otherwise_than_their_copy_are_copied() -> None:
    held = torch.arange(64.0).view(16, 4)
    for first in range(4):
        run = slice(first, first + 8)
        found = _taken(held, torch.arange(first, first + 8), run)
        assert torch.equal(found, held[run])
        assert found.data_ptr() % 64 == 0
    assert _taken(held, torch.arange(8), slice(0, 8)).data_ptr() == held.data_ptr()
