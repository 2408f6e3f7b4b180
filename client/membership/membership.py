"""A site that joined: its keys, its server, and the registry that it trusts."""

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.home import SiteHome
from client.membership.enrolment import ServerFacts, check_own_entry, read_request
from common.audit.log import AuditLog
from common.errors import ConfigError, FederationError
from common.identity.certificates import check_certificate
from common.identity.documents import read_document, write_document
from common.identity.keys import load_node_key, load_signing_key
from common.identity.registry import Member, Registry
from common.identity.signatures import verify
from common.identity.site_kit import server_fingerprint
from common.text import typed


@dataclass(frozen=True)
class Membership:
    """What a site's home says about its membership. The private keys stay on disk until needed."""

    home: Path
    name: str
    """The site's name."""
    address: str
    """host:port of the server."""
    server_public_key: str
    """PEM, Ed25519: signs the registry and the studies."""
    registry: Registry

    @classmethod
    def load(cls, home: Path) -> Self:
        """Read the membership of the site in `home`.

        Raises:
            ConfigError: the site has not joined a server.
            FederationError: the server did not sign the registry, or the registry lacks this
                site's keys.
        """
        name = read_request(home).claim.name
        kit = home / "kit"
        if not (kit / "registry.json").exists():
            raise ConfigError(f"{home}: has not joined a server; see `hemofed site join`")
        facts = read_document(ServerFacts, kit / "server.json")
        registry = Registry.read(kit / "registry.json", facts.signing_public_key)
        check_own_entry(home, name, registry)
        return cls(home, name, registry.address, facts.signing_public_key, registry)

    @property
    def authority(self) -> Path:
        """The file with the certificate that must have signed the server's TLS certificate."""
        return self.home / "kit" / "ca.crt"

    @property
    def fingerprint(self) -> str:
        """The server's fingerprint, as the operator reads it out."""
        return server_fingerprint(self.authority.read_text("utf-8"), self.server_public_key)

    @property
    def member(self) -> Member:
        """This site's own entry in the registry."""
        return self.registry.sites[self.name]

    @property
    def node_key_path(self) -> Path:
        """The file with the private key for Flower's node authentication."""
        return self.home / "identity" / "node.key"

    def node_key(self) -> EllipticCurvePrivateKey:
        """The node's private key. Raises ConfigError as `load_node_key` does."""
        return load_node_key(self.node_key_path)

    def signing_key(self) -> Ed25519PrivateKey:
        """The site's signing key. Raises ConfigError as `load_signing_key` does."""
        return load_signing_key(self.home / "identity" / "signing.key")

    def audit_log(self) -> AuditLog:
        """Open the site's audit log; the caller closes it. Raises as `AuditLog.open` does."""
        return AuditLog.open(SiteHome(self.home).audit, self.signing_key())

    def verify_server(self, message: bytes, signature: str, what: str) -> None:
        """Raise FederationError, which names `what`, unless the server signed `message`."""
        verify(self.server_public_key, message, signature, what)

    def accept(self, signed: dict[str, Any], log: AuditLog) -> "Membership":
        """Trust a newer registry from the server, and write it to the home.

        Returns the membership with the registry, or this one when the registry is the same.

        Raises:
            FederationError: the registry was altered, is older than the present one or forked from
                it, exchanges a member's keys without the old key's consent, or lacks this site's
                own keys. The present registry stays, and the audit log gets a line.
        """
        try:
            registry = Registry.open(signed, self.server_public_key, "registry from the server")
            registry.check_follows(self.registry)
            check_own_entry(self.home, self.name, registry)
        except FederationError:
            log.append("registry_refused", trusted=self.registry.version)
            raise
        if registry == self.registry:
            return self
        log.append("registry_accepted", version=registry.version, members=len(registry.active()))
        write_document(self.home / "kit" / "registry.json", signed)
        return replace(self, registry=registry, address=registry.address)

    def shut_out(self, refusal: FederationError, now: datetime) -> FederationError:
        """Add to the server's refusal of this site's key the reason that the home shows."""
        following = self.home / "identity" / "next"
        reason = "it is not a member, or not any more; ask the operator"
        if following.is_dir():
            command = typed("hemofed", "site", "join", self.home, f"{self.name}.kit.json")
            reason = (
                f"new keys wait in {following}; once the operator has admitted them, join the kit "
                f"with `{command}`"
            )
        elif now >= self.member.not_after:
            reason = "; ".join(self.member.warnings(self.name, now)) or reason
        return FederationError(f"{refusal}: {reason}")

    def warnings(self, now: datetime) -> tuple[str, ...]:
        """Warnings on this membership and on the dates of the authority's certificate; () if none.

        Raises as `check_certificate` does.
        """
        found = list(check_certificate(self.authority, now))
        if self.member.status == "revoked":
            found.append(f"{self.name}: was revoked; call the operator")
        found += self.member.warnings(self.name, now)
        return tuple(found)
