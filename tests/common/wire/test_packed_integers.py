"""Packed integers: what is packed comes back, bit by bit where the module says it lies."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ModelError
from common.wire import packed_integers
from common.wire.packed_integers import PIECE, pack, packed_bytes, unpack, word_type

SIZES = st.integers(0, 300) | st.integers(PIECE - 9, PIECE + 9)
SEEDS = st.integers(0, 2**32 - 1)


def words(size: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2**64, size, dtype=np.uint64)
    # Runs of zeros and ones show a bit that went to a neighbour.
    values[rng.random(size) < 0.2] = 0
    values[rng.random(size) < 0.2] = 2**64 - 1
    return values


def as_the_text_says(values: np.ndarray, bits: int) -> bytes:
    number = sum((int(value) % 2**bits) << (place * bits) for place, value in enumerate(values))
    return number.to_bytes(-(-len(values) * bits // 8), "little")


@pytest.mark.parametrize("bits", range(1, 65))
@given(size=SIZES, seed=SEEDS)
@settings(max_examples=8)
def test_what_is_packed_comes_back_modulo_2_to_the_bits(bits: int, size: int, seed: int) -> None:
    values = words(size, seed)
    data = pack(values, bits)
    assert len(data) == packed_bytes(size, bits)
    back = unpack(data, size, bits)
    assert back.dtype == word_type(bits) == (np.uint32 if bits <= 32 else np.uint64)
    assert np.array_equal(back, values & np.uint64(2**bits - 1))


@pytest.mark.parametrize("bits", range(1, 65))
@given(size=SIZES, seed=SEEDS)
@settings(max_examples=4)
def test_short_words_are_packed_like_long_ones(bits: int, size: int, seed: int) -> None:
    values = words(size, seed).astype(np.uint32)
    assert pack(values, bits) == pack(values.astype(np.uint64), bits)


@given(bits=st.integers(1, 64), size=st.integers(0, 200), seed=SEEDS)
def test_each_bit_lies_where_the_text_says(bits: int, size: int, seed: int) -> None:
    values = words(size, seed)
    assert pack(values, bits) == as_the_text_says(values, bits)


@pytest.mark.parametrize("bits", [3, 31, 37, 61])
def test_pieces_do_not_show(monkeypatch: pytest.MonkeyPatch, bits: int) -> None:
    values = words(1000, seed=1)
    whole = pack(values, bits)
    monkeypatch.setattr(packed_integers, "PIECE", 64)
    assert pack(values, bits) == whole
    assert np.array_equal(unpack(whole, 1000, bits), values & np.uint64(2**bits - 1))


@given(
    bits=st.integers(1, 64), size=st.integers(0, 100), more=st.integers(-9, 9).filter(lambda n: n)
)
def test_another_length_is_refused(bits: int, size: int, more: int) -> None:
    length = max(packed_bytes(size, bits) + more, 0)
    if length == packed_bytes(size, bits):
        length += 1
    with pytest.raises(ModelError, match=f"{size} values of {bits} bits in"):
        unpack(bytes(length), size, bits)


@given(bits=st.integers(1, 64), size=st.integers(1, 40), data=st.data())
def test_a_bit_behind_the_last_value_is_refused(bits: int, size: int, data: st.DataObject) -> None:
    used = size * bits % 8
    if not used:
        return
    packed = bytearray(pack(words(size, seed=2), bits))
    packed[-1] |= 1 << data.draw(st.integers(used, 7))
    with pytest.raises(ModelError, match=f"zeros in the last {8 - used} bits"):
        unpack(bytes(packed), size, bits)


@pytest.mark.parametrize("bits", [7, 32, 35, 64])
def test_views_of_bytes_are_read_and_the_result_is_a_copy(bits: int) -> None:
    values = words(100, seed=3)
    data = bytearray(pack(values, bits))
    back = unpack(memoryview(data), 100, bits)
    expected = back.copy()
    data[:] = bytes(len(data))
    assert np.array_equal(back, expected) and back.flags.writeable
