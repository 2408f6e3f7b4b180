"""Makes, writes and reads keys. A private key that others could read is not accepted."""

import getpass
import os
import sys
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP384R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
    load_ssh_private_key,
)

from common.errors import ConfigError, FederationError
from common.files import replacing
from common.text import typed

PASSPHRASE_VARIABLE = "HEMOFED_PASSPHRASE"  # noqa: S105  the variable's name, not a secret

PrivateKey = EllipticCurvePrivateKey | Ed25519PrivateKey


def make_node_key() -> EllipticCurvePrivateKey:
    """Return a new ECDSA P-384 key, for Flower's node authentication or for TLS."""
    return generate_private_key(SECP384R1())


def make_signing_key() -> Ed25519PrivateKey:
    """Return a new Ed25519 key, for documents and audit logs."""
    return Ed25519PrivateKey.generate()


def write_private(path: Path, key: PrivateKey, passphrase: str | None = None) -> None:
    """Write `key` to `path` with mode 0600, encrypted if there is a passphrase.

    A node key without a passphrase is written in OpenSSH's format, which `flower-supernode` reads;
    every other key is written as PKCS #8.

    Raises:
        ConfigError: the file cannot be written.
    """
    plain_node_key = isinstance(key, EllipticCurvePrivateKey) and not passphrase
    text = key.private_bytes(
        Encoding.PEM,
        PrivateFormat.OpenSSH if plain_node_key else PrivateFormat.PKCS8,
        BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption(),
    )
    _write_secret(path, text)


def write_tls_key(path: Path, key: EllipticCurvePrivateKey, passphrase: str | None = None) -> None:
    """Write a certificate's key with mode 0600 as PKCS #8, which TLS libraries read.

    Raises:
        ConfigError: the file cannot be written.
    """
    cipher = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    _write_secret(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, cipher))


def load_signing_key(path: Path, passphrase: str | None = None) -> Ed25519PrivateKey:
    """Return the Ed25519 private key in `path`.

    passphrase: of an encrypted key; None takes HEMOFED_PASSPHRASE, or asks at a terminal.

    Raises:
        ConfigError: the file cannot be read, its mode lets the group or others read it, the
            passphrase is missing or wrong, or the key is of another kind.
    """
    key = _load_private(path, passphrase)
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path}: holds a {_kind(key)}, expected an Ed25519 signing key")
    return key


def load_node_key(path: Path, passphrase: str | None = None) -> EllipticCurvePrivateKey:
    """Return the ECDSA P-384 private key in `path`; arguments and errors as `load_signing_key`."""
    key = _load_private(path, passphrase)
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP384R1):
        raise ConfigError(f"{path}: holds a {_kind(key)}, expected an ECDSA P-384 key")
    return key


load_tls_key = load_node_key


def node_public_pem(key: EllipticCurvePrivateKey | EllipticCurvePublicKey) -> bytes:
    """Return the public key as PEM, byte for byte as Flower registers and authenticates nodes."""
    public = key.public_key() if isinstance(key, EllipticCurvePrivateKey) else key
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def signing_public_pem(key: Ed25519PrivateKey | Ed25519PublicKey) -> str:
    """Return the public key as PEM text, as in documents and `signing.pub`."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def parse_node_public(pem: str | bytes) -> EllipticCurvePublicKey:
    """Return the ECDSA P-384 public key in `pem`.

    Raises:
        FederationError: `pem` is not PEM, or a key of another kind.
    """
    key = _parse_public(pem)
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP384R1):
        raise FederationError(f"a node's public key is a {_kind(key)}, expected ECDSA P-384")
    return key


def parse_signing_public(pem: str | bytes) -> Ed25519PublicKey:
    """Return the Ed25519 public key in `pem`.

    Raises:
        FederationError: `pem` is not PEM, or a key of another kind.
    """
    key = _parse_public(pem)
    if not isinstance(key, Ed25519PublicKey):
        raise FederationError(f"a signing public key is a {_kind(key)}, expected Ed25519")
    return key


def new_passphrase(ask: bool) -> str | None:
    """Return the passphrase that encrypts new keys, or None for keys that are not encrypted.

    ask: whether to ask for it at the terminal, twice, if HEMOFED_PASSPHRASE is not set.

    Raises:
        ConfigError: the two answers differ or are empty.
    """
    given = os.environ.get(PASSPHRASE_VARIABLE)
    if given or not ask:
        return given or None
    first = getpass.getpass("Passphrase for the private keys: ")
    if not first or getpass.getpass("Once more: ") != first:
        raise ConfigError("passphrase: the two entries differ or are empty; nothing was written")
    return first


def _write_secret(path: Path, text: bytes) -> None:
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error


def _load_private(path: Path, passphrase: str | None) -> object:
    text = _read_secret(path)
    try:
        if b"OPENSSH PRIVATE KEY" in text:
            return load_ssh_private_key(text, None)
        secret = _passphrase(path, passphrase) if b"BEGIN ENCRYPTED" in text else None
        return load_pem_private_key(text, secret)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"{path}: cannot be read as a private key; the passphrase is wrong, or the file is "
            f"damaged ({type(error).__name__})"
        ) from error


def _read_secret(path: Path) -> bytes:
    """Return the file's bytes; raise ConfigError if its mode lets the group or others use it."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            if mode & 0o077:
                raise ConfigError(
                    f"{path}: mode {mode:04o} lets others read this private key; run "
                    f"`{typed('chmod', '600', path)}`, and if others could have read it, make new "
                    "keys"
                )
            return file.read()
    except OSError as error:
        raise ConfigError(f"{path}: the private key cannot be read ({error.strerror})") from error


def _passphrase(path: Path, given: str | None) -> bytes:
    found = given or os.environ.get(PASSPHRASE_VARIABLE)
    if not found and sys.stdin is not None and sys.stdin.isatty():
        found = getpass.getpass(f"Passphrase for {path}: ")
    if not found:
        raise ConfigError(f"{path}: is encrypted; set {PASSPHRASE_VARIABLE} to its passphrase")
    return found.encode()


def _parse_public(pem: str | bytes) -> object:
    try:
        return load_pem_public_key(pem.encode() if isinstance(pem, str) else pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise FederationError(
            "a public key is not valid PEM; ask its owner for it again"
        ) from error


def _kind(key: object) -> str:
    return type(key).__name__.lstrip("_")
