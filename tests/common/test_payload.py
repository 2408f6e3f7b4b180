import numpy as np
import pytest
import torch
from flwr.app import Array
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from common.errors import ModelError
from common.payload import Layout, decode, encode, flatten, load

shapes = st.lists(st.lists(st.integers(1, 4), max_size=3), min_size=1, max_size=5)


def parameters(sizes: list[list[int]], seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {f"p{n}": torch.randn(size, generator=generator) for n, size in enumerate(sizes)}


def network(sizes: list[list[int]], seed: int = 0) -> nn.Module:
    model = nn.Module()
    for name, value in parameters(sizes, seed).items():
        model.register_parameter(name, nn.Parameter(value))
    return model


@given(shapes)
def test_a_vector_comes_back_as_the_parameters_it_was_made_of(sizes: list[list[int]]) -> None:
    before, after = parameters(sizes), parameters(sizes, seed=1)
    vector = flatten(before)
    assert vector.shape == (Layout.of(network(sizes)).size,)
    load(after, decode(encode(vector), len(vector)))
    for name, value in before.items():
        assert torch.equal(after[name], value)


@given(shapes, shapes)
def test_a_layout_is_known_by_names_and_shapes(one: list[list[int]], two: list[list[int]]) -> None:
    same = Layout.of(network(one)).digest == Layout.of(network(two)).digest
    assert same == (one == two)


def test_a_layout_tells_another_frozen_encoder_but_not_other_trained_weights() -> None:
    one, two = network([[2, 3], [4]]), network([[2, 3], [4]], seed=1)
    assert Layout.of(one).digest == Layout.of(two).digest
    for model in (one, two):
        model.p1.requires_grad_(False)
    assert Layout.of(one).digest != Layout.of(two).digest
    two.p1.data.copy_(one.p1.data)
    assert Layout.of(one).digest == Layout.of(two).digest


def test_a_vector_of_another_size_is_not_loaded() -> None:
    with pytest.raises(ModelError, match="does not fit 6"):
        load(parameters([[2, 3]]), np.zeros(5, np.float32))


@pytest.mark.parametrize(
    "array",
    [
        Array(np.zeros(4, np.float32)),
        Array(dtype="float32", shape=(4,), stype="hemofed.float32", data=bytes(15)),
        Array(dtype="float32", shape=(2, 2), stype="hemofed.float32", data=bytes(16)),
        Array(dtype="float32", shape=(5,), stype="hemofed.float32", data=bytes(20)),
    ],
    ids=["pickled or numpy form", "short", "other shape", "other size"],
)
def test_only_the_exact_form_is_decoded(array: Array) -> None:
    with pytest.raises(ModelError, match="expected 4 values"):
        decode(array, 4)
