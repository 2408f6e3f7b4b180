"""The kit that a site gets from the operator: the server's address and keys, and the members."""

from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from pydantic import Field, field_validator

from common.config.study import SiteName, Strict
from common.identity.keys import parse_signing_public, signing_public_pem
from common.identity.signatures import digest_fingerprint, statement


class Kit(Strict):
    """The content of a kit's file. Nothing in it is secret.

    The kits of all sites of a server have the same fingerprint.
    """

    site: SiteName
    certificate: str = Field(max_length=20_000)
    """PEM of the certificate authority."""
    signing_public_key: str = Field(max_length=1000)
    """PEM of the Ed25519 key that signs the registry and the studies."""
    registry: dict[str, Any]
    """The signed registry, as `Registry.signed` returns it; it names the server's address."""

    @field_validator("certificate")
    @classmethod
    def _is_a_certificate(cls, pem: str) -> str:
        x509.load_pem_x509_certificate(pem.encode())
        return pem

    @field_validator("signing_public_key")
    @classmethod
    def _is_a_key(cls, pem: str) -> str:
        return signing_public_pem(parse_signing_public(pem))

    @property
    def fingerprint(self) -> str:
        """The server's fingerprint; see `server_fingerprint`."""
        return server_fingerprint(self.certificate, self.signing_public_key)


def server_fingerprint(certificate: str, signing_public_key: str) -> str:
    """Return the fingerprint of a server's certificate authority and signing key, both as PEM.

    A site compares it by telephone. It covers all that a kit relies on: TLS rests on the authority,
    and the registry on the signing key.
    """
    authority = x509.load_pem_x509_certificate(certificate.encode()).fingerprint(SHA256()).hex()
    content = {"authority": authority, "signing_public_key": signing_public_key}
    return digest_fingerprint(statement("server", content))
