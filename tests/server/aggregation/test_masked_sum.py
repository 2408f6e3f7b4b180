"""The masked sum: exact in any order, whole or not at all, and no upload is kept."""

import gc
import itertools
import random
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ModelError
from common.privacy.masking.masks import add_mask
from common.wire import packed_integers
from common.wire.packed_integers import PIECE, pack, packed_bytes, word_type
from server.aggregation.masked_sum import MaskedSum


def uploads(count: int, size: int, bits: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return list(rng.integers(0, 2**bits - 1, (count, size), dtype=np.uint64, endpoint=True))


def keys(count: int, site: int) -> list[tuple[bytes, int]]:
    """A key for each pair of sites, that the first one adds."""
    pairs = enumerate(itertools.combinations(range(count), 2))
    return [
        (number.to_bytes(32), 1 if site == pair[0] else -1)
        for number, pair in pairs
        if site in pair
    ]


@given(
    count=st.integers(2, 40),
    bits=st.integers(2, 64),
    size=st.integers(1, 200) | st.integers(PIECE - 3, PIECE + 3),
    seed=st.integers(0, 2**32 - 1),
    order=st.randoms(),
)
@settings(max_examples=60, deadline=None)
def test_the_masked_sum_is_the_plain_one_in_any_order(
    count: int, bits: int, size: int, seed: int, order: random.Random
) -> None:
    plain = uploads(min(count, 6) if size > 200 else count, size, bits, seed)
    sent = []
    for site, values in enumerate(plain):
        words = values.astype(word_type(bits))
        add_mask(words, keys(len(plain), site))
        sent.append(pack(words, bits))
    order.shuffle(sent)
    masked = MaskedSum(size, bits)
    for data in sent:
        masked.add(data)
    found = masked.total()
    assert found.dtype == word_type(bits)
    expected = [sum(int(values[n]) for values in plain) % 2**bits for n in (0, size // 2, size - 1)]
    assert [int(found[n]) for n in (0, size // 2, size - 1)] == expected
    assert np.array_equal(found, np.sum(plain, axis=0) & np.uint64(2**bits - 1))


@pytest.mark.parametrize("bits", [7, 31, 32, 35, 64])
@pytest.mark.parametrize("size", [9, PIECE + 9])
@pytest.mark.parametrize("fault", ["longer", "shorter", "empty", "dirty"])
def test_what_does_not_fit_is_refused_and_nothing_of_it_added(
    bits: int, size: int, fault: str
) -> None:
    good = pack(uploads(1, size, bits, seed=0)[0], bits)
    bad = {"longer": good + b"\0", "shorter": good[:-1], "empty": b"", "dirty": dirty(good)}[fault]
    masked = MaskedSum(size, bits)
    masked.add(good)
    if fault == "dirty" and size * bits % 8 == 0:
        return
    with pytest.raises(ModelError, match=f"{size:,} values of {bits} bits"):
        masked.add(bad)
    assert pack(masked.total(), bits) == good


def dirty(data: bytes) -> bytes:
    """With a bit set behind the last value, where its bytes leave one."""
    return data[:-1] + bytes([data[-1] | 0x80])


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_bytes_are_added(kind: type) -> None:
    masked = MaskedSum(100, 33)
    data = pack(uploads(1, 100, 33, seed=1)[0], 33)
    masked.add(kind(data))
    assert pack(masked.total(), 33) == data


@pytest.mark.parametrize("bits", [31, 32, 35])
def test_the_memory_is_the_accumulators(bits: int) -> None:
    size = 2_000_000
    data = bytes(packed_bytes(size, bits))
    gc.collect()
    tracemalloc.start()
    masked = MaskedSum(size, bits)
    for _ in range(3):
        masked.add(data)
    masked.total()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < size * word_type(bits)().itemsize + 24 * packed_integers.PIECE + 100_000
