"""Signatures of bytes and JSON values, and fingerprints that people compare by telephone."""

import hashlib
import hmac
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from common.canonical_json import canonical
from common.errors import FederationError
from common.identity.keys import parse_node_public, parse_signing_public

_FINGERPRINT_BYTES = 16
"""128 bits: too many for anyone to find a second key with the same fingerprint, and few enough to
read aloud."""


def statement(kind: str, content: Any) -> bytes:
    """Return the bytes that a signature of a document signs.

    The bytes begin with `kind`, so that a signature of one kind of document is not valid for
    another.

    >>> statement("study", {"rounds": 20})
    b'hemofed study 1\\n{"rounds":20}'
    """
    return f"hemofed {kind} 1\n".encode() + canonical(content)


def sign(key: Ed25519PrivateKey, message: bytes) -> str:
    """Return the Ed25519 signature (RFC 8032) of `message` in hex."""
    return key.sign(message).hex()


def verify(
    public: str | bytes | Ed25519PublicKey, message: bytes, signature: str, what: str = "signature"
) -> None:
    """Check that `signature` (hex) is the signature of `message` by the key `public`.

    It returns nothing, so that no caller can ignore the result.

    Args:
        public: PEM or the key itself.
        message: the signed bytes.
        signature: in hex.
        what: names the signed thing in an error.

    Raises:
        FederationError: the signature does not match, or `public` is not an Ed25519 key.
    """
    key = public if isinstance(public, Ed25519PublicKey) else parse_signing_public(public)
    try:
        key.verify(bytes.fromhex(signature), message)
    except (InvalidSignature, ValueError) as error:
        raise FederationError(
            f"{what}: the signature does not fit; it was altered, or signed with another key than "
            f"{fingerprint(key)}"
        ) from error


def sign_as_node(key: EllipticCurvePrivateKey, message: bytes) -> str:
    """Return the ECDSA signature (SHA-384) of `message` by a node key, in hex."""
    return key.sign(message, ECDSA(SHA384())).hex()


def verify_node(public: str | bytes, message: bytes, signature: str, what: str) -> None:
    """Check an ECDSA signature of a node key; arguments and errors as `verify`."""
    try:
        parse_node_public(public).verify(bytes.fromhex(signature), message, ECDSA(SHA384()))
    except (InvalidSignature, ValueError) as error:
        raise FederationError(f"{what}: the node key's signature does not fit") from error


def fingerprint(public: str | bytes | Ed25519PublicKey | EllipticCurvePublicKey) -> str:
    """Return the fingerprint of a public key: eight groups of four hex digits.

    The key is hashed in DER form, so the line ends of its PEM text do not matter.

    Raises:
        FederationError: `public` is text or bytes, but not a PEM public key.
    """
    if isinstance(public, Ed25519PublicKey | EllipticCurvePublicKey):
        content = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    else:
        try:
            key = load_pem_public_key(public.encode() if isinstance(public, str) else public)
        except ValueError as error:
            raise FederationError("fingerprint: not a PEM public key") from error
        content = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return digest_fingerprint(content)


def digest_fingerprint(content: bytes) -> str:
    """Return the first 128 bits of the SHA-256 of `content`: eight groups of four hex digits.

    >>> digest_fingerprint(b"")
    'e3b0 c442 98fc 1c14 9afb f4c8 996f b924'
    """
    text = hashlib.sha256(content).digest()[:_FINGERPRINT_BYTES].hex()
    return " ".join(text[start : start + 4] for start in range(0, len(text), 4))


def same_fingerprint(one: str, other: str) -> bool:
    """Return whether two fingerprints are equal, without regard to case, white space, ":" and "-".

    >>> same_fingerprint("E3B0C442 98FC1C14 9AFBF4C8 996FB924", digest_fingerprint(b""))
    True
    """
    left, right = (_digits(text) for text in (one, other))
    return len(left) == 2 * _FINGERPRINT_BYTES and hmac.compare_digest(left, right)


def _digits(text: str) -> bytes:
    return text.lower().translate(str.maketrans("", "", " :-\t\n")).encode()
