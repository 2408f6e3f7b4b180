"""Double masking with Shamir's shares, which hemofed does not do: what it would cost.

Bonawitz et al. 2017 (ePrint 2017/281), figure 4, with hemofed's own masks: beside the mask of each
pair a site adds one of its own, from a seed. It deals out shares of that seed, and of its masking
key, to all others. After the masked vectors are in, those who are left give the server a share of
the seed of everyone who is there, and of the key of everyone who is not. For a benchmark: nothing
here keeps a site from giving both.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from common.privacy.masking.masks import add_mask
from common.privacy.masking.pairwise_keys import EphemeralKey, pair_key
from common.wire.packed_integers import Words
from simulations.bench.sums.shamir import SHARE_BYTES, combine, split, weights_at_zero

_NONCE_BYTES = 12
SIGNATURE_BYTES = 64


def threshold(sites: int) -> int:
    """Shares that open a secret: two thirds of them."""
    return -(-2 * sites // 3)


def pair_mask(shared: bytes, one: int, other: int) -> tuple[bytes, int]:
    """The key and the sign of the mask that `one` adds for the pair of the two."""
    return pair_key(shared, b"pair %d %d" % (min(one, other), max(one, other))), _sign(one, other)


def _sign(one: int, other: int) -> int:
    return 1 if one < other else -1


def own_mask(seed: bytes) -> bytes:
    """The key of the mask that a site adds for itself."""
    return pair_key(seed, b"own")


@dataclass(frozen=True)
class Public:
    """What a site tells all others, signed."""

    masking: bytes
    """X25519, for the masks."""
    channel: bytes
    """X25519, for the shares on their way through the server."""
    signature: bytes

    @property
    def size(self) -> int:
        """Bytes on the wire."""
        return len(self.masking) + len(self.channel) + len(self.signature)


class DoubleMasker:
    """One site of a round; `place` is its number, from 1 on."""

    def __init__(self, place: int, sites: int, signing: Ed25519PrivateKey) -> None:
        self.place, self._sites, self._signing = place, sites, signing
        self._secret, self._seed = os.urandom(32), os.urandom(32)
        self._masking, self._channel = EphemeralKey(self._secret), EphemeralKey(os.urandom(32))
        keys = self._masking.public, self._channel.public
        self.public = Public(*keys, signing.sign(b"".join(keys)))
        self._held: dict[int, bytes] = {}
        self._ciphers: dict[int, AESGCM] = {}

    def deal(self, publics: Mapping[int, Public]) -> dict[int, bytes]:
        """Place -> the shares of this site's two secrets, for that site alone to read."""
        opened_by = threshold(self._sites)
        seeds = split(self._seed, opened_by, self._sites)
        keys = split(self._secret, opened_by, self._sites)
        self._held[self.place] = seeds[self.place] + keys[self.place]
        dealt = {}
        for place, public in publics.items():
            if place != self.place:
                shared = self._channel.shared(public.channel)
                self._ciphers[place] = AESGCM(pair_key(shared, b"shares"))
                nonce = os.urandom(_NONCE_BYTES)
                shares = seeds[place] + keys[place]
                dealt[place] = nonce + self._ciphers[place].encrypt(nonce, shares, None)
        return dealt

    def receive(self, dealt: Mapping[int, bytes]) -> None:
        """Keep the shares that each place dealt to this site."""
        for place, sealed in dealt.items():
            nonce, shares = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
            self._held[place] = self._ciphers[place].decrypt(nonce, shares, None)

    def mask(self, words: Words, publics: Mapping[int, Public]) -> None:
        """Add the site's own mask and those of all its pairs, in place."""
        pairs = [
            pair_mask(self._masking.shared(public.masking), self.place, place)
            for place, public in publics.items()
            if place != self.place
        ]
        add_mask(words, [*pairs, (own_mask(self._seed), 1)])

    def agree(self, alive: Sequence[int]) -> bytes:
        """The site's signature of who is there."""
        return self._signing.sign(_statement(alive))

    def reveal(self, alive: Iterable[int], away: Iterable[int]) -> dict[int, bytes]:
        """Place -> this site's share: of the seed of those who are there, else of the key."""
        seeds = {place: self._held[place][:SHARE_BYTES] for place in alive}
        return seeds | {place: self._held[place][SHARE_BYTES:] for place in away}


def check(signing: Sequence[Ed25519PrivateKey], publics: Mapping[int, Public], own: int) -> None:
    """Check the signature of every other site's keys. Raises InvalidSignature."""
    for place, public in publics.items():
        if place != own:
            signed = public.masking + public.channel
            signing[place - 1].public_key().verify(public.signature, signed)


def check_alive(
    signing: Sequence[Ed25519PrivateKey], signatures: Mapping[int, bytes], alive: Sequence[int]
) -> None:
    """Check that all agree on who is there. Raises InvalidSignature."""
    for place, signature in signatures.items():
        signing[place - 1].public_key().verify(signature, _statement(alive))


def unmask(
    words: Words, revealed: Mapping[int, Mapping[int, bytes]], publics: Mapping[int, Public]
) -> None:
    """Take all masks off the sum of those who are there, in place.

    Args:
        words: (P,), the sum of their masked vectors.
        revealed: place -> what that site revealed, of everyone.
        publics: of everyone.
    """
    places = tuple(sorted(revealed))[: threshold(len(publics))]
    weights = weights_at_zero(places)
    masks = []
    for place in publics:
        secret = combine({one: revealed[one][place] for one in places}, weights)
        if place in revealed:
            masks.append((own_mask(secret), -1))
        else:
            lost = EphemeralKey(secret)
            masks += [pair_mask(lost.shared(publics[one].masking), place, one) for one in revealed]
    add_mask(words, masks)


def _statement(alive: Sequence[int]) -> bytes:
    return b"there: " + ",".join(map(str, alive)).encode()
