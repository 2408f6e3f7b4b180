"""Layers against what the papers and torch say they compute."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from common.models.efficientnet import convolve_same, same_conv
from common.models.layers import FrozenBatchNorm, Recolour, Standardise, WSConv2d, initialise
from common.models.pixels import MEAN, STD


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=15)
@given(
    channels=st.integers(1, 6),
    out=st.integers(1, 5),
    kernel=st.sampled_from([1, 3]),
    scale=st.sampled_from([1e-2, 1.0, 1e3]),
    shift=st.floats(-5, 5),
)
def test_filters_are_standardised(
    channels: int, out: int, kernel: int, scale: float, shift: float
) -> None:
    conv = WSConv2d(channels, out, kernel, padding=kernel // 2)
    with torch.no_grad():
        conv.weight.copy_(random(*conv.weight.shape) * scale + shift * scale)
    weight = conv.standardised_weight().flatten(1)
    fan_in = weight.shape[1]
    torch.testing.assert_close(weight.mean(1), torch.zeros(out), atol=1e-5, rtol=0)
    before = conv.weight.detach().flatten(1).var(1, correction=0)
    variance = weight.var(1, correction=0) * fan_in
    torch.testing.assert_close(variance, before / (before + conv.epsilon), atol=1e-3, rtol=0)
    images = random(2, channels, 7, 7)
    expected = F.conv2d(images, conv.standardised_weight(), conv.bias, padding=kernel // 2)
    assert torch.equal(conv(images), expected)


def test_standardised_filters_pass_gradients_in_float64() -> None:
    conv = WSConv2d(2, 3, 3, bias=False).double()
    images = random(2, 2, 5, 5).double()

    def output(weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(conv, {"weight": weight}, (images,))  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(output, (conv.weight,))


def test_frozen_statistics_are_batchnorm_in_evaluation_always() -> None:
    reference = nn.BatchNorm2d(5, eps=1e-3)
    frozen = FrozenBatchNorm(5, 1e-3)
    with torch.no_grad():
        reference(random(8, 5, 4, 4) * 3 + 1)
        reference.weight.copy_(random(5, seed=1))
        reference.bias.copy_(random(5, seed=2))
        frozen.weight.copy_(reference.weight)
        frozen.bias.copy_(reference.bias)
        frozen.mean.copy_(reference.running_mean)  # type: ignore[arg-type]
        frozen.variance.copy_(reference.running_var)  # type: ignore[arg-type]
    reference.eval()
    frozen.train()
    before = frozen.mean.clone()
    images = random(3, 5, 6, 6, seed=3)
    torch.testing.assert_close(frozen(images), reference(images))
    assert torch.equal(frozen.mean, before)
    assert set(dict(frozen.named_parameters())) == {"weight", "bias"}


@pytest.mark.parametrize(
    ("mean", "std"), [(MEAN, STD), ((127 / 255,) * 3, (128 / 255,) * 3), ((0.5,) * 3, (0.25,) * 3)]
)
def test_recolour_goes_from_imagenet_to_another_normalisation(
    mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    pixels = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def by(values: tuple[float, ...]) -> torch.Tensor:
        return torch.tensor(values).view(1, 3, 1, 1)

    normalised = (pixels - by(MEAN)) / by(STD)
    torch.testing.assert_close(Recolour(mean, std)(normalised), (pixels - by(mean)) / by(std))


def test_standardised_features_all_have_one_norm() -> None:
    features = random(6, 50) * torch.tensor([1e-2, 1, 1e2, 1e3, 5, 7])[:, None] + 3
    norms = Standardise()(features).norm(dim=1)
    torch.testing.assert_close(norms, torch.full((6,), 50**0.5), rtol=0.1, atol=0)
    assert Standardise()(torch.zeros(1, 50)).isfinite().all()
    assert not list(Standardise().parameters())


@settings(max_examples=20)
@given(side=st.integers(5, 20), kernel=st.sampled_from([1, 3, 5]), stride=st.sampled_from([1, 2]))
def test_same_padding_puts_the_odd_pixel_right_and_below(
    side: int, kernel: int, stride: int
) -> None:
    conv = same_conv(2, 3, kernel, stride)
    images = random(1, 2, side, side)
    out = -(-side // stride)
    total = max((out - 1) * stride + kernel - side, 0)
    before, after = total // 2, total - total // 2
    padded = F.pad(images, (before, after, before, after))
    expected = F.conv2d(padded, conv.weight, stride=stride)
    assert expected.shape[-1] == out
    torch.testing.assert_close(convolve_same(conv, images), expected)


def test_initialisation_leaves_no_weight_to_the_global_generator() -> None:
    def drawn() -> dict[str, torch.Tensor]:
        parts = nn.Sequential(WSConv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(4, 2))
        initialise(parts, torch.Generator().manual_seed(5))
        return parts.state_dict()

    first, second = drawn(), drawn()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not first["3.bias"].any() and first["3.weight"].any()
