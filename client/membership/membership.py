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
    """What a site's home says; private keys are read only when they are asked for."""

    home: Path
    name: str
    address: str
    """host:port of the server."""
    server_public_key: str
    """PEM, Ed25519: signs the registry and the studies."""
    registry: Registry

    @classmethod
    def load(cls, home: Path) -> Self:
        """The membership of the site in `home`, the registry's signature and own keys checked.

        Raises ConfigError when it has not joined, FederationError when something was altered.
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
        """The certificate that the server's TLS certificate must be signed by."""
        return self.home / "kit" / "ca.crt"

    @property
    def fingerprint(self) -> str:
        """The server's, as the operator reads it out."""
        return server_fingerprint(self.authority.read_text("utf-8"), self.server_public_key)

    @property
    def member(self) -> Member:
        """This site's own entry."""
        return self.registry.sites[self.name]

    @property
    def node_key_path(self) -> Path:
        """The key of Flower's node authentication."""
        return self.home / "identity" / "node.key"

    def node_key(self) -> EllipticCurvePrivateKey:
        """The node's private key. Raises ConfigError as `load_node_key` does."""
        return load_node_key(self.node_key_path)

    def signing_key(self) -> Ed25519PrivateKey:
        """The site's signing key. Raises ConfigError as `load_signing_key` does."""
        return load_signing_key(self.home / "identity" / "signing.key")

    def audit_log(self) -> AuditLog:
        """The site's audit log, open; the caller closes it."""
        return AuditLog.open(SiteHome(self.home).audit, self.signing_key())

    def verify_server(self, message: bytes, signature: str, what: str) -> None:
        """Raise FederationError naming `what` unless the server signed `message`."""
        verify(self.server_public_key, message, signature, what)

    def accept(self, signed: dict[str, Any], log: AuditLog) -> "Membership":
        """Trust a newer registry that came from the server; written to the home, and returned.

        Raises FederationError, with an audit line and the old registry kept: altered, older or
        forked, a member's keys swapped, or this site's own keys missing or changed.
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
        """The server's refusal of this site's key, with the reason that the home can tell."""
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
        """What is to be said about this membership and the authority's dates; () is well."""
        found = list(check_certificate(self.authority, now))
        if self.member.status == "revoked":
            found.append(f"{self.name}: was revoked; call the operator")
        found += self.member.warnings(self.name, now)
        return tuple(found)
