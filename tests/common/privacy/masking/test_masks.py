"""Masks: they cancel in the whole sum and hide everything in any other."""

import hashlib
import itertools
import random

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import PrivacyError
from common.privacy.masking import masks
from common.privacy.masking.masks import add_mask, pair_sign
from common.privacy.masking.neighbours import neighbours
from common.privacy.masking.pairwise_keys import pair_key
from tests.common.privacy.masking.uniformity import p_values

CONTEXT = b'{"attempt": 0, "round": 3}'
WORDS = [np.uint32, np.uint64]


def key(one: str, two: str, context: bytes = CONTEXT) -> bytes:
    """What two sites would agree on, repeatable: a stand-in for what X25519 gives them."""
    shared = hashlib.sha256("|".join(sorted([one, two])).encode()).digest()
    return pair_key(shared, context)


def pairs(site: str, others: frozenset[str], context: bytes = CONTEXT) -> list[tuple[bytes, int]]:
    return [(key(site, other, context), pair_sign(site, other)) for other in sorted(others)]


def masked(
    values: np.ndarray, site: str, others: frozenset[str], context: bytes = CONTEXT
) -> np.ndarray:
    out = values.copy()
    add_mask(out, pairs(site, others, context))
    return out


def cohort(count: int) -> list[str]:
    return [f"lab-{number}" for number in range(count)]


def vectors(count: int, size: int, word: type, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    most = np.iinfo(word).max
    return {site: rng.integers(0, most, size, dtype=word, endpoint=True) for site in cohort(count)}


@pytest.mark.parametrize("word", WORDS)
@given(
    count=st.integers(2, 40),
    degree=st.none() | st.sampled_from([2, 4, 8]),
    size=st.integers(1, 400),
    seed=st.integers(0, 2**32 - 1),
    order=st.randoms(),
)
@settings(max_examples=25)
def test_the_masked_sum_is_the_plain_sum(
    word: type, count: int, degree: int | None, size: int, seed: int, order: random.Random
) -> None:
    plain = vectors(count, size, word, seed)
    graph = neighbours(cohort(count), b"seed", degree)
    uploads = [masked(plain[site], site, graph[site]) for site in plain]
    order.shuffle(uploads)
    expected = np.sum([*plain.values()], axis=0, dtype=word)
    assert np.array_equal(np.sum(uploads, axis=0, dtype=word), expected)


@pytest.mark.parametrize("word", WORDS)
def test_pieces_do_not_show(monkeypatch: pytest.MonkeyPatch, word: type) -> None:
    values = vectors(1, 1003, word)["lab-0"]
    whole = masked(values, "lab-0", frozenset(cohort(4)[1:]))
    monkeypatch.setattr(masks, "_PIECE", 64)
    assert np.array_equal(masked(values, "lab-0", frozenset(cohort(4)[1:])), whole)


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_mask_is_the_keystream_as_little_endian_words(word: type, sign: int) -> None:
    stream = Cipher(algorithms.AES256(bytes(range(32))), modes.CTR(bytes(16))).encryptor()
    mask = np.frombuffer(stream.update(bytes(1000 * word().itemsize)), f"<u{word().itemsize}")
    values = vectors(1, 1000, word)["lab-0"]
    expected = values + mask if sign > 0 else values - mask
    add_mask(values, [(bytes(range(32)), sign)])
    assert np.array_equal(values, expected)


@pytest.mark.parametrize("lacking", ["lab-0", "lab-2", "lab-4"])
@pytest.mark.parametrize(("word", "bits"), [(np.uint32, 29), (np.uint32, 32), (np.uint64, 37)])
def test_one_upload_and_a_sum_that_lacks_one_look_uniform(
    word: type, bits: int, lacking: str
) -> None:
    plain = small(5, word)
    everyone = frozenset(plain)
    uploads = {site: masked(plain[site], site, everyone - {site}) for site in plain}
    left = [site for site in plain if site != lacking]
    partial = np.sum([uploads[site] for site in left], axis=0, dtype=word)
    hidden = np.sum([signed(plain[site]) for site in left], axis=0)
    for values, vector in (
        (uploads[lacking], signed(plain[lacking])),
        (partial, hidden),
        (partial, signed(plain[lacking])),
    ):
        found = p_values(values, bits, vector)
        assert min(found.values()) > 1e-4, found


@pytest.mark.parametrize(("word", "bits"), [(np.uint32, 29), (np.uint32, 32), (np.uint64, 37)])
def test_every_test_of_uniformity_can_tell_an_unmasked_vector(word: type, bits: int) -> None:
    plain = small(1, word)["lab-0"]
    found = p_values(plain, bits, signed(plain))
    # Its bits are balanced and its values independent: these three are for the slips below.
    blind = {"bits", "next value", "bits of the next value"}
    assert max(p for name, p in found.items() if name not in blind) < 1e-9, found


def test_the_tests_of_uniformity_tell_a_mask_that_is_used_twice_or_repeats() -> None:
    plain, size = small(2, np.uint32), 40_000
    one, two = (masked(vector, "lab-0", frozenset(["lab-1"])) for vector in plain.values())
    assert p_values(one - two, 32, signed(plain["lab-0"]))["leading byte"] < 1e-9
    period = masked(np.zeros(size, np.uint32), "lab-0", frozenset(["lab-1"]))
    period[1::2] = period[::2]
    repeats = p_values(period, 32, np.arange(size))
    assert max(repeats["next value"], repeats["bits of the next value"]) < 1e-9
    even = period & ~np.uint32(1)
    assert p_values(even, 32, np.arange(size))["bits"] < 1e-9


@pytest.mark.parametrize("word", WORDS)
def test_sites_that_do_not_agree_have_masks_that_do_not_cancel(word: type) -> None:
    """One of three was told of another round: the sum is hidden, and no half of it is bare."""
    plain = small(3, word)
    everyone = frozenset(plain)
    contexts = [CONTEXT, CONTEXT, CONTEXT.replace(b"3", b"4")]
    uploads = [
        masked(plain[site], site, everyone - {site}, context)
        for site, context in zip(plain, contexts, strict=True)
    ]
    for count in (1, 2, 3):
        for some in itertools.combinations(range(3), count):
            total = np.sum([uploads[site] for site in some], axis=0, dtype=word)
            found = p_values(total, 8 * word().itemsize, signed(plain["lab-0"]))
            assert min(found.values()) > 1e-5, (some, found)


def test_signs_are_opposite_and_the_first_site_adds() -> None:
    assert pair_sign("lab-1", "lab-2") == 1
    for one, two in itertools.permutations(["a", "B", "lab-10", "lab-9"], 2):
        assert pair_sign(one, two) == -pair_sign(two, one) in (1, -1)


@pytest.mark.parametrize("word", [np.int64, np.float32, np.uint16])
def test_other_words_are_refused(word: type) -> None:
    with pytest.raises(PrivacyError, match="expected uint32 or uint64"):
        add_mask(np.zeros(4, word), [(bytes(32), 1)])


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ([], "0 pairs"),
        ([(bytes(32), 1), (bytes(32), -1)], "2 pairs with 1 keys"),
        ([(bytes(32), 0)], "sign"),
        ([(bytes(32), 1), (b"\1" * 32, 2)], "sign"),
    ],
)
def test_masks_that_would_hide_nothing_are_refused(
    bad: list[tuple[bytes, int]], match: str
) -> None:
    values = np.arange(5, dtype=np.uint32)
    with pytest.raises(PrivacyError, match=match):
        add_mask(values, iter(bad))
    assert np.array_equal(values, np.arange(5)), "nothing was changed"


def small(count: int, word: type) -> dict[str, np.ndarray]:
    """What sites send: Gaussian numbers far smaller than the modulus."""
    rng = np.random.default_rng(7)
    return {
        site: rng.normal(0, 2.0**20, 40_000).astype(np.int64).astype(word) for site in cohort(count)
    }


def signed(words: np.ndarray) -> np.ndarray:
    return words.view(f"i{words.itemsize}").astype(np.int64)
