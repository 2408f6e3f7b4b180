"""What the operator hands a site: how to find the server, how to know it, and who is a member."""

from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from pydantic import Field, field_validator

from common.config.study import SiteName, Strict
from common.identity.keys import parse_signing_public, signing_public_pem
from common.identity.signatures import digest_fingerprint, statement


class Kit(Strict):
    """One file; nothing in it is secret. Its fingerprint is the same for all sites of a server."""

    site: SiteName
    certificate: str = Field(max_length=20_000)
    """PEM of the certificate authority."""
    signing_public_key: str = Field(max_length=1000)
    """PEM: signs the registry and the studies."""
    registry: dict[str, Any]
    """The signed registry, as `Registry.signed` returns it."""

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
        """See `server_fingerprint`."""
        return server_fingerprint(self.certificate, self.signing_public_key)


def server_fingerprint(certificate: str, signing_public_key: str) -> str:
    """Fingerprint of a server's certificate authority and signing key: a site compares it by phone.

    The rest of a kit hangs on these two: TLS on the one, the registry on the other.
    """
    authority = x509.load_pem_x509_certificate(certificate.encode()).fingerprint(SHA256()).hex()
    content = {"authority": authority, "signing_public_key": signing_public_key}
    return digest_fingerprint(statement("server", content))
