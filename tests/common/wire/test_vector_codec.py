import numpy as np
import pytest
import torch
from flwr.app import Array
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from common.config.study import Number
from common.errors import ModelError
from common.models.parameter_vector import Layout, flatten, load
from common.wire.vector_codec import decode, encode, encoded_bytes

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


floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(
    st.lists(floats | st.floats(-1, 1, width=32), max_size=20),
    st.integers(-149, 127),
)
@example([float(np.finfo(np.float32).max), float(np.finfo(np.float32).min)], 0)
def test_float16_rounds_by_no_more_than_it_says(drawn: list[float], power: int) -> None:
    """Whatever the scale: from float32's smallest numbers to its largest, and both at once."""
    values = np.array(drawn, np.float32)
    with np.errstate(over="ignore", under="ignore"):
        scaled = np.ldexp(values, power).astype(np.float32)
    for vector in (values, scaled[np.isfinite(scaled)]):
        found = decode(encode(vector, "float16"), len(vector), "float16").astype(np.float64)
        exact, largest = vector.astype(np.float64), np.abs(vector).max(initial=0)
        # Below 2^-105 the scale is as far as float32 goes, and the rest is float32's own steps.
        bound = 2.0**-11 * np.abs(exact) + 2.0**-39 * float(largest) + 2.0**-144
        assert (np.abs(found - exact) <= bound).all()


@given(st.integers(0, 2**16 - 1), st.integers(-100, 100))
def test_what_float16_holds_comes_back_to_the_bit(bits: int, power: int) -> None:
    """A second journey rounds nothing: a resumed round sends the same bits."""
    half = np.array([bits], np.uint16).view(np.float16).astype(np.float32)
    once = np.ldexp(half[np.isfinite(half)], power)
    size = len(once)
    twice = decode(encode(once, "float16"), size, "float16")
    assert twice.tobytes() == once.tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_so_in_float16(value: float) -> None:
    vector = np.array([1, value, 0], np.float32)
    assert not np.isfinite(decode(encode(vector, "float16"), 3, "float16")).all()


def test_float16_takes_half_the_bytes_and_the_exponent() -> None:
    vector = np.linspace(-1e6, 1e6, 1000, dtype=np.float32)
    assert len(encode(vector, "float16").data) == encoded_bytes(1000, "float16") == 2002
    assert len(encode(vector).data) == encoded_bytes(1000, "float32") == 4000


@pytest.mark.parametrize("exponent", [32767, -32768, 121])
def test_an_exponent_out_of_range_is_refused(exponent: int) -> None:
    data = exponent.to_bytes(2, "little", signed=True) + bytes(8)
    array = Array(dtype="float16", shape=(4,), stype="hemofed.float16", data=data)
    with pytest.raises(ModelError, match=f"got {exponent}"):
        decode(array, 4, "float16")


@pytest.mark.parametrize(("sent", "asked"), [("float32", "float16"), ("float16", "float32")])
def test_the_other_form_is_refused(sent: Number, asked: Number) -> None:
    with pytest.raises(ModelError, match=f"expected 4 values as hemofed.{asked}"):
        decode(encode(np.zeros(4, np.float32), sent), 4, asked)


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
