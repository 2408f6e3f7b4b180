"""Masks that cancel: what one site of a pair adds, the other subtracts.

A mask is the AES-256-CTR keystream of the pair's key from counter zero, read as little-endian
words. Of sites that are joined, directly or through one another, by keys that nobody else knows,
nothing can be learnt but the sum, as long as AES-256 is a pseudorandom permutation: take a tree of
such pairs; leaf by leaf, a site's vector is made uniform and independent of all others by the mask
of its edge, until the last one, which is the sum less all others (Bonawitz et al. 2017).
"""

from collections.abc import Iterable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from common.errors import PrivacyError
from common.wire.packed_integers import Words

_PIECE = 1 << 17
"""Bytes that are worked on at a time: with as much keystream they stay in a core's second-level
cache, however many pairs there are."""
_ZEROS = bytes(_PIECE)


def pair_sign(site: str, peer: str) -> int:
    """1 for the one of the two sites that adds their mask, -1 for the one that subtracts it."""
    return 1 if site < peer else -1


def add_mask(values: Words, pairs: Iterable[tuple[bytes, int]]) -> None:
    """Add the masks of all `pairs` to `values` (P,), in place, modulo 2^32 or 2^64 by their type.

    `pairs` has a (key, sign) for each peer: a 32-byte key of `pair_key`, and `pair_sign`. A key is
    used for one vector and never again: the difference of two vectors under one mask is bare.
    Taken modulo 2^b, masked values are uniform there for every b up to the words' width.

    Raises PrivacyError, with `values` as they were, for words of another type, for no pair at all,
    a key twice, or a sign other than 1 and -1.
    """
    given = list(pairs)
    _require_masks(values, given)
    streams = [(_stream(key), np.add if sign > 0 else np.subtract) for key, sign in given]
    words = values.dtype.newbyteorder("<")
    buffer = np.empty(_PIECE // words.itemsize, words)
    for start in range(0, len(values), len(buffer)):
        piece = values[start : start + len(buffer)]
        mask = buffer[: len(piece)]
        for stream, combine in streams:
            stream.update_into(memoryview(_ZEROS)[: mask.nbytes], mask.view(np.uint8).data)
            combine(piece, mask, out=piece)


def _require_masks(values: Words, pairs: list[tuple[bytes, int]]) -> None:
    if values.dtype not in (np.uint32, np.uint64):
        raise PrivacyError(f"masks: the values are {values.dtype}; expected uint32 or uint64")
    if not pairs or len({key for key, _ in pairs}) < len(pairs):
        raise PrivacyError(
            f"masks: {len(pairs)} pairs with {len({key for key, _ in pairs})} keys; expected at "
            "least one pair, and a key of its own for each"
        )
    if any(sign not in (1, -1) for _, sign in pairs):
        raise PrivacyError("masks: a sign is neither 1 nor -1")


def _stream(key: bytes) -> CipherContext:
    # A key is used for one stream only, so the counter may begin at zero.
    return Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
