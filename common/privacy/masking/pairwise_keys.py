"""The secret that two sites share, and the key that one mask is made from.

X25519 (RFC 7748) gives two sites the same 32 bytes from one's private and the other's public key;
HKDF-SHA256 (RFC 5869) makes a key for each vector from them.
"""

from typing import NoReturn

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from common.errors import PrivacyError

PUBLIC_BYTES = KEY_BYTES = 32

_PRIME = 2**255 - 19
_LABEL = b"hemofed pairwise mask 1\0"


class EphemeralKey:
    """A private key of one site for one study, which lives in this process alone.

    It cannot be copied, pickled or read: with it, every mask of the site could be taken off.
    """

    __slots__ = ("_private", "public")

    public: bytes
    """What the others are told, 32 bytes."""

    def __init__(self, secret: bytes) -> None:
        """secret: 32 bytes that nobody can predict; another number of them raises ValueError."""
        self._private = X25519PrivateKey.from_private_bytes(secret)
        self.public = self._private.public_key().public_bytes_raw()

    def shared(self, peer_public: bytes) -> bytes:
        """The 32 bytes that only the holder of the other private key can compute as well.

        Raises PrivacyError when `peer_public` is not 32 bytes, is this key's own, is not the one
        way to write its point, or is a point of low order, which makes a secret that anyone knows.
        """
        fault = self._fault(peer_public)
        if fault:
            raise PrivacyError(
                f"a peer's X25519 key {peer_public[:PUBLIC_BYTES].hex() or '(empty)'} {fault}; no "
                "mask is made with it: ask that site for a fresh key"
            )
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(peer_public))
        except ValueError as error:
            raise PrivacyError(
                f"a peer's X25519 key {peer_public.hex()} is of low order: what it shares is no "
                "secret; no mask is made with it: ask that site for a fresh key"
            ) from error

    def _fault(self, peer_public: bytes) -> str | None:
        if len(peer_public) != PUBLIC_BYTES:
            return f"has {len(peer_public)} bytes, not {PUBLIC_BYTES}"
        if int.from_bytes(peer_public, "little") >= _PRIME:
            return "is not a number below 2^255 - 19"
        return "is this site's own" if peer_public == self.public else None

    def __reduce__(self) -> NoReturn:
        raise TypeError("an EphemeralKey cannot be copied or pickled: it stays in its process")


def pair_key(shared: bytes, context: bytes) -> bytes:
    """The key, 32 bytes, of the mask that two sites put on the one vector that `context` names.

    `shared` is what `EphemeralKey.shared` gave. `context` names all that the two must agree on,
    with both public keys, and is different for every vector; two contexts give keys that have
    nothing to do with each other, so masks of sites that do not agree do not cancel.
    """
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=_LABEL + context).derive(shared)
