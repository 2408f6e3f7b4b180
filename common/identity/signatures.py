"""Signatures over bytes and over JSON, and fingerprints for the telephone."""

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
"""128 bits: nobody finds a second key of the same fingerprint, and it can still be read aloud."""


def statement(kind: str, content: Any) -> bytes:
    """What a signature on a document covers; `kind` keeps one sort from passing for another."""
    return f"hemofed {kind} 1\n".encode() + canonical(content)


def sign(key: Ed25519PrivateKey, message: bytes) -> str:
    """The Ed25519 signature (RFC 8032) of `message`, in hex."""
    return key.sign(message).hex()


def verify(
    public: str | bytes | Ed25519PublicKey, message: bytes, signature: str, what: str = "signature"
) -> None:
    """Return when `signature` (hex) is `public`'s (PEM or key) on `message`.

    Raises FederationError naming `what` when it is not. There is no result to forget to look at.
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
    """The ECDSA signature (SHA-384) of `message`, in hex: proves that the node key is at hand."""
    return key.sign(message, ECDSA(SHA384())).hex()


def verify_node(public: str | bytes, message: bytes, signature: str, what: str) -> None:
    """Do what `verify` does, for the ECDSA signature of a node key."""
    try:
        parse_node_public(public).verify(bytes.fromhex(signature), message, ECDSA(SHA384()))
    except (InvalidSignature, ValueError) as error:
        raise FederationError(f"{what}: the node key's signature does not fit") from error


def fingerprint(public: str | bytes | Ed25519PublicKey | EllipticCurvePublicKey) -> str:
    """A public key's (or a document's bytes') fingerprint, eight groups of four hex digits.

    PEM text of a key is hashed as its DER form, so line ends do not matter.
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
    """The first 128 bits of SHA-256 of `content`, eight groups of four hex digits."""
    text = hashlib.sha256(content).digest()[:_FINGERPRINT_BYTES].hex()
    return " ".join(text[start : start + 4] for start in range(0, len(text), 4))


def same_fingerprint(one: str, other: str) -> bool:
    """Whether two fingerprints are the same, whatever the case and the separators (space : -)."""
    left, right = (_digits(text) for text in (one, other))
    return len(left) == 2 * _FINGERPRINT_BYTES and hmac.compare_digest(left, right)


def _digits(text: str) -> bytes:
    return text.lower().translate(str.maketrans("", "", " :-\t\n")).encode()
