"""Pairwise keys: both sites get the same, nobody else does, and the secrets stay where they are."""

import copy
import hmac
import itertools
import os
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import PrivacyError
from common.privacy.masking.pairwise_keys import EphemeralKey, pair_key

LOW_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (2**255 - 20).to_bytes(32, "little"),
]
"""The points of order 1, 2, 4 and 8 that are written below 2^255 - 19 (RFC 7748, section 6.1)."""
PRIME = 2**255 - 19


def test_two_sites_share_what_a_third_does_not() -> None:
    one, two, three = (EphemeralKey(os.urandom(32)) for _ in range(3))
    assert one.shared(two.public) == two.shared(one.public)
    secrets = {one.shared(two.public), one.shared(three.public), two.shared(three.public)}
    assert len(secrets) == 3 and all(len(secret) == 32 for secret in secrets)


def test_every_key_is_fresh() -> None:
    assert len({EphemeralKey(os.urandom(32)).public for _ in range(100)}) == 100


@pytest.mark.parametrize("public", LOW_ORDER)
def test_a_key_of_low_order_is_refused(public: bytes) -> None:
    with pytest.raises(PrivacyError, match="low order: what it shares is no secret"):
        EphemeralKey(os.urandom(32)).shared(public)


@pytest.mark.parametrize("public", [b"", b"\x09", bytes(31), bytes(33), bytes(1 << 20)])
def test_a_key_of_another_length_is_refused(public: bytes) -> None:
    with pytest.raises(PrivacyError, match=f"has {len(public)} bytes, not 32") as caught:
        EphemeralKey(os.urandom(32)).shared(public)
    assert len(str(caught.value)) < 250


@given(st.integers(PRIME, 2**256 - 1) | st.integers(PRIME, PRIME + 20))
def test_a_point_has_one_way_to_be_written(number: int) -> None:
    with pytest.raises(PrivacyError, match="below 2\\^255 - 19"):
        EphemeralKey(os.urandom(32)).shared(number.to_bytes(32, "little"))


def test_the_largest_number_that_writes_a_point_is_taken() -> None:
    peer = (PRIME - 2).to_bytes(32, "little")
    assert len(EphemeralKey(os.urandom(32)).shared(peer)) == 32


def test_a_sites_own_key_is_no_peers() -> None:
    key = EphemeralKey(os.urandom(32))
    with pytest.raises(PrivacyError, match="this site's own"):
        key.shared(key.public)


def test_a_private_key_stays_in_its_process() -> None:
    key = EphemeralKey(os.urandom(32))
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="stays in its process"):
            duplicate(key)
    secret = key._private.private_bytes_raw()
    assert secret.hex() not in repr(key) and str(secret) not in repr(key)
    assert not hasattr(key, "__dict__")


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_two_contexts_give_two_keys(one: bytes, two: bytes) -> None:
    shared = bytes(range(32))
    assert (pair_key(shared, one) == pair_key(shared, two)) == (one == two)
    assert len(pair_key(shared, one)) == 32


def test_a_key_depends_on_every_bit_of_the_secret_and_the_context() -> None:
    inputs = [(bytes(32), bytes(4))]
    inputs += [(flipped(bytes(32), bit), bytes(4)) for bit in range(256)]
    inputs += [(bytes(32), flipped(bytes(4), bit)) for bit in range(32)]
    keys = [int.from_bytes(pair_key(*given_)) for given_ in inputs]
    apart = [(one ^ two).bit_count() for one, two in itertools.combinations(keys, 2)]
    assert min(apart) > 70 and max(apart) < 186


def test_the_key_is_rfc_5869s() -> None:
    """HKDF-SHA256 by hand, so that another implementation gets the same masks."""
    shared, context = bytes(range(32)), b'{"round": 1}'
    extracted = hmac.digest(bytes(32), shared, "sha256")
    info = b"hemofed pairwise mask 1\0" + context
    assert pair_key(shared, context) == hmac.digest(extracted, info + b"\x01", "sha256")


def flipped(data: bytes, bit: int) -> bytes:
    return (int.from_bytes(data) ^ (1 << bit)).to_bytes(len(data))
