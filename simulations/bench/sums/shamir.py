"""Shamir's secret sharing (1979), as double masking needs it; for a benchmark alone."""

import secrets
from collections.abc import Mapping

PRIME = 2**256 + 297
"""The least above 2^256: a secret of 32 bytes is a number of the field."""
SECRET_BYTES, SHARE_BYTES = 32, 33


def split(secret: bytes, threshold: int, places: int) -> dict[int, bytes]:
    """Place, from 1 on -> its share of the 32 bytes; any `threshold` of them give the secret."""
    below = [secrets.randbelow(PRIME) for _ in range(threshold - 1)]
    shares = {}
    for place in range(1, places + 1):
        value = 0
        for coefficient in below:
            value = (value + coefficient) * place % PRIME
        value = (value + int.from_bytes(secret, "big")) % PRIME
        shares[place] = value.to_bytes(SHARE_BYTES, "big")
    return shares


def weights_at_zero(places: tuple[int, ...]) -> dict[int, int]:
    """Lagrange's weight of each place: the weighted sum of its shares is the secret."""
    weights = {}
    for place in places:
        above = below = 1
        for other in places:
            if other != place:
                above, below = above * other % PRIME, below * (other - place) % PRIME
        weights[place] = above * pow(below, -1, PRIME) % PRIME
    return weights


def combine(shares: Mapping[int, bytes], weights: Mapping[int, int]) -> bytes:
    """The secret, from its share at each of the places that `weights_at_zero` was given."""
    value = sum(weight * int.from_bytes(shares[place], "big") for place, weight in weights.items())
    return (value % PRIME).to_bytes(SECRET_BYTES, "big")
