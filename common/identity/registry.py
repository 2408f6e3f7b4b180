"""The registry of member sites, signed by the server, checked by every site for itself.

A member carries its own signed requests, from its admission on, each new pair of keys agreed to by
the pair before. So a server that is honest once cannot swap a member's keys later: a name stays
with whoever first had it. A site that lost its keys asks again under another name.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import AwareDatetime, Field

from common.config.loading import parse
from common.config.study import Strict
from common.errors import ConfigError, FederationError
from common.identity.admission_request import AdmissionRequest
from common.identity.certificates import WARNING_DAYS
from common.identity.documents import read_json
from common.identity.signatures import sign, statement, verify
from common.untrusted_text import PlainText

Address = Annotated[PlainText, Field(max_length=300)]
"""host:port of a server."""
_LAST_VERSION = 2**31
"""A number that every field it travels in can hold."""
_FARTHEST = 10_000
"""Versions that a registry may be ahead of the one that is trusted: years of a site's absence. One
that is farther would, once accepted, shut out all that the server will ever issue by counting."""


class Member(Strict):
    """A site as the consortium knows it."""

    status: Literal["active", "revoked"]
    not_after: AwareDatetime
    """The membership ends here, unless the operator renews it."""
    requests: tuple[AdmissionRequest, ...] = Field(min_length=1)
    """Oldest first; the last one's keys hold."""

    @property
    def name(self) -> str:
        """The site's name, which stays bound to its keys for good."""
        return self.requests[-1].claim.name

    @property
    def node_public_key(self) -> bytes:
        """PEM, byte for byte what Flower's node registration and authentication use."""
        return self.requests[-1].claim.node_public_key.encode()

    @property
    def signing_public_key(self) -> str:
        """PEM, Ed25519."""
        return self.requests[-1].claim.signing_public_key

    @property
    def fingerprint(self) -> str:
        """Fingerprint of name and keys, as people read it over the telephone."""
        return self.requests[-1].fingerprint

    def warnings(self, name: str, now: datetime) -> tuple[str, ...]:
        """What is to be said about the membership's end; () is well, or the member is revoked."""
        left = self.not_after - now
        if self.status == "revoked" or left.days >= WARNING_DAYS:
            return ()
        day = f"{self.not_after:%Y-%m-%d}"
        state = f"ended on {day}" if left.days < 0 else f"ends in {left.days} days, on {day}"
        return (f"{name}: the membership {state}; `hemofed server renew --site {name}` renews it",)

    def check(self, name: str) -> None:
        """Raise FederationError unless every request proves its keys and follows the one before."""
        for request in self.requests:
            if request.claim.name != name:
                raise FederationError(
                    f"registry: {name} bears a request of {request.claim.name}; it was altered"
                )
            request.check()
        for older, newer in zip(self.requests, self.requests[1:], strict=False):
            newer.check_consent(older)


class Registry(Strict):
    """All members, at one version; every change makes the next version."""

    version: int = Field(ge=1, le=_LAST_VERSION)
    issued: AwareDatetime
    address: Address
    """host:port of the server."""
    sites: dict[str, Member] = {}

    @classmethod
    def load(cls, home: Path) -> Self:
        """The registry of a server's home, as the server itself signed it.

        Members' proofs were checked before that. Raises ConfigError, FederationError.
        """
        try:
            public = (home / "signing.pub").read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"{home}: is not a server's home ({error.strerror}: signing.pub); make one with "
                "`hemofed server init`"
            ) from error
        path = home / "registry.json"
        return cls._signed_by(public, read_json(path), str(path))

    @classmethod
    def read(cls, path: Path, public: str) -> Self:
        """The registry in `path`, signed by `public` (PEM). Raises FederationError, ConfigError."""
        return cls.open(read_json(path), public, str(path))

    @classmethod
    def open(cls, signed: dict[str, Any], public: str, origin: str) -> Self:
        """The registry in what `signed` returned, its signature and all members' proofs checked.

        Raises FederationError when anything does not fit; `origin` names the source in it.
        """
        registry = cls._signed_by(public, signed, origin)
        for name, member in registry.sites.items():
            member.check(name)
        registry.check_keys_differ()
        return registry

    @classmethod
    def _signed_by(cls, public: str, signed: dict[str, Any], origin: str) -> Self:
        try:
            registry = parse(cls, signed["registry"], origin)
            signature = str(signed["signature"])
        except (ConfigError, KeyError, TypeError) as error:
            raise FederationError(f"{origin}: is not a registry ({error})") from error
        verify(public, registry._statement(), signature, f"{origin}: the registry")
        return registry

    def signed(self, key: Ed25519PrivateKey) -> dict[str, Any]:
        """The registry with the server's signature, for JSON."""
        return {
            "registry": self.model_dump(mode="json"),
            "signature": sign(key, self._statement()),
        }

    def active(self, now: datetime | None = None) -> dict[str, Member]:
        """The members that may connect at `now` (default: this moment), by name, sorted."""
        moment = now or datetime.now(UTC)
        return {
            name: member
            for name, member in sorted(self.sites.items())
            if member.status == "active" and moment < member.not_after
        }

    def check_follows(self, older: "Registry") -> None:
        """Raise FederationError unless this may replace `older` in a site that trusted it.

        Versions only grow, and not by leaps; members stay listed, keys change only with the old
        key's consent, and a revoked member stays revoked.
        """
        if self.version > older.version + _FARTHEST:
            raise FederationError(
                f"registry: version {self.version} is more than {_FARTHEST} ahead of version "
                f"{older.version} that is here; no later one could replace it. Call the operator"
            )
        if self.version < older.version or (self.version == older.version and self != older):
            raise FederationError(
                f"registry: version {self.version} cannot replace version {older.version} that is "
                "here; it is an old or a forked copy"
            )
        for name, before in older.sites.items():
            after = self.sites.get(name)
            if after is None or after.requests[: len(before.requests)] != before.requests:
                raise FederationError(
                    f"registry: {name} was removed or given other keys without its consent; call "
                    "the operator and that site"
                )
            if before.status == "revoked" and after.status != "revoked":
                raise FederationError(f"registry: {name} was revoked, and that is final")

    def check_keys_differ(self) -> None:
        """Raise FederationError when two members share a key."""
        owners: dict[bytes | str, str] = {}
        for name, member in self.sites.items():
            for key in (member.node_public_key, member.signing_public_key):
                if owners.setdefault(key, name) != name:
                    raise FederationError(f"registry: {name} and {owners[key]} share a key")

    def _statement(self) -> bytes:
        return statement("registry", self.model_dump(mode="json"))
