"""The registry of member sites, which the server signs and every site checks for itself.

A member's entry holds all signed requests since its admission, and the previous signing key has
signed each new pair of keys. So once sites have a registry, not even the server can exchange a
member's keys: a name stays with its first owner. A site that lost its keys must take another name.
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
"""The largest version: every field that carries a version can hold it."""
_FARTHEST = 10_000
"""Most versions by which a registry may be ahead of the one that a site has; a site may be away for
years. If a site accepted a version far ahead, it would refuse all later ones of the server, which
counts up by one."""


class Member(Strict):
    """A member site of the consortium."""

    status: Literal["active", "revoked"]
    not_after: AwareDatetime
    """When the membership ends, unless the operator renews it."""
    requests: tuple[AdmissionRequest, ...] = Field(min_length=1)
    """All requests of the site, oldest first. The keys of the last one are valid."""

    @property
    def name(self) -> str:
        """The site's name, which never passes to another site."""
        return self.requests[-1].claim.name

    @property
    def node_public_key(self) -> bytes:
        """The node key as PEM, byte for byte as Flower registers and authenticates nodes."""
        return self.requests[-1].claim.node_public_key.encode()

    @property
    def signing_public_key(self) -> str:
        """The signing key (Ed25519) as PEM."""
        return self.requests[-1].claim.signing_public_key

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the name and the keys, which people compare by telephone."""
        return self.requests[-1].fingerprint

    def warnings(self, name: str, now: datetime) -> tuple[str, ...]:
        """Return a sentence for the operator if the membership ends soon or has ended, else ().

        A revoked member has no warnings.

        Args:
            name: names the site in the sentence.
            now: with a time zone.
        """
        left = self.not_after - now
        if self.status == "revoked" or left.days >= WARNING_DAYS:
            return ()
        day = f"{self.not_after:%Y-%m-%d}"
        state = f"ended on {day}" if left.days < 0 else f"ends in {left.days} days, on {day}"
        return (f"{name}: the membership {state}; `hemofed server renew --site {name}` renews it",)

    def check(self, name: str) -> None:
        """Check all requests: their name, their signatures, and each key's consent to the next.

        Raises:
            FederationError: a request does not match.
        """
        for request in self.requests:
            if request.claim.name != name:
                raise FederationError(
                    f"registry: {name} bears a request of {request.claim.name}; it was altered"
                )
            request.check()
        for older, newer in zip(self.requests, self.requests[1:], strict=False):
            newer.check_consent(older)


class Registry(Strict):
    """All members at one version. Every change makes the next version."""

    version: int = Field(ge=1, le=_LAST_VERSION)
    issued: AwareDatetime
    address: Address
    """host:port of the server."""
    sites: dict[str, Member] = {}

    @classmethod
    def load(cls, home: Path) -> Self:
        """Return the registry of a server's home.

        Only the server's signature is checked: the server checked the members before it signed.

        Raises:
            ConfigError: `home` is not a server's home.
            FederationError: the registry cannot be read, or its signature does not match.
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
        """Return the registry in the file `path`, checked as `open` does.

        Raises:
            FederationError: the file cannot be read, or a signature or a proof does not match.
        """
        return cls.open(read_json(path), public, str(path))

    @classmethod
    def open(cls, signed: dict[str, Any], public: str, origin: str) -> Self:
        """Return a signed registry, after a check of its signature and of all members' proofs.

        Args:
            signed: what `Registry.signed` returned.
            public: PEM of the server's signing key.
            origin: names the source in an error.

        Raises:
            FederationError: it is not a registry, a signature or a proof does not match, or two
                members share a key.
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
        """Return the registry with its signature by `key`, as values for JSON."""
        return {
            "registry": self.model_dump(mode="json"),
            "signature": sign(key, self._statement()),
        }

    def active(self, now: datetime | None = None) -> dict[str, Member]:
        """Return name -> member, sorted by name, for the members that may connect at `now`.

        now: with a time zone; None: this moment.
        """
        moment = now or datetime.now(UTC)
        return {
            name: member
            for name, member in sorted(self.sites.items())
            if member.status == "active" and moment < member.not_after
        }

    def check_follows(self, older: "Registry") -> None:
        """Check that a site that trusts `older` may take this registry in its place.

        The version may be the same only if the registry is the same, and otherwise must be higher,
        by at most 10,000. All members must still be there with all their earlier requests, and
        revoked members must still be revoked.

        Raises:
            FederationError: it may not.
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
        """Check that no two members share a key; raise FederationError if two do."""
        owners: dict[bytes | str, str] = {}
        for name, member in self.sites.items():
            for key in (member.node_public_key, member.signing_public_key):
                if owners.setdefault(key, name) != name:
                    raise FederationError(f"registry: {name} and {owners[key]} share a key")

    def _statement(self) -> bytes:
        return statement("registry", self.model_dump(mode="json"))
