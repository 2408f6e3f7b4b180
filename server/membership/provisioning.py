"""The operator's side of provisioning: makes a server's home and changes its members.

    ca.key  ca.crt  server.key  server.crt  signing.key  signing.pub  registry.json  audit.jsonl

Every change is in the audit log before it is in the registry, and the registry is replaced as a
whole: a running server that reads it again sees either the old or the new one.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.audit.log import AuditLog
from common.errors import ConfigError, FederationError
from common.folders import whole_folder
from common.identity.addresses import split_address
from common.identity.admission_request import AdmissionRequest
from common.identity.certificates import (
    SERVER_DAYS,
    certificate_pem,
    check_certificate,
    issue_server,
    load_certificate,
    make_authority,
)
from common.identity.documents import save, write_document
from common.identity.keys import (
    load_signing_key,
    load_tls_key,
    make_node_key,
    make_signing_key,
    signing_public_pem,
    write_private,
    write_tls_key,
)
from common.identity.registry import Member, Registry
from common.identity.site_kit import Kit
from server.home import ServerHome
from server.service.preflight import check_home

__all__ = [
    "Admission",
    "Member",
    "Registry",
    "admit",
    "check_request",
    "expiries",
    "find_member",
    "make_kit",
    "make_server",
    "prolong",
    "renew_server",
    "revoke",
]

MEMBER_DAYS = 365

Outcome = Literal["admitted", "keys_changed", "renewed"]


@dataclass(frozen=True)
class Admission:
    """What `admit` did."""

    outcome: Outcome
    member: Member
    """The member as the registry has it from now on."""


def make_server(home: Path, address: str, now: datetime, passphrase: str | None = None) -> None:
    """Make a server's home: certificate authority, TLS certificate, signing key, empty registry.

    Args:
        home: the folder to make.
        address: host:port at which the sites will reach the server.
        now: the time from which the certificates are valid.
        passphrase: encrypts the private keys; None leaves them unencrypted.

    Raises:
        ConfigError: `address` has another form, or `home` exists and is not empty.
    """
    host, _ = split_address(address)
    authority_key, server_key, signing_key = make_node_key(), make_node_key(), make_signing_key()
    authority = make_authority(authority_key, now)
    certificate = issue_server(authority, authority_key, server_key.public_key(), host, now)
    with whole_folder(home) as draft:
        made = ServerHome(draft)
        write_tls_key(made.authority_key, authority_key, passphrase)
        write_tls_key(made.certificate_key, server_key, passphrase)
        write_private(made.signing_key, signing_key, passphrase)
        save(made.authority, certificate_pem(authority).decode())
        save(made.certificate, certificate_pem(certificate).decode())
        save(made.signing_public, signing_public_pem(signing_key))
        registry = Registry(version=1, issued=now, address=address)
        write_document(made.registry, registry.signed(signing_key))
        with AuditLog.open(made.audit, signing_key) as log:
            log.append("server_made", address=address)


def admit(
    home: Path,
    request: AdmissionRequest,
    now: datetime,
    *,
    days: int = MEMBER_DAYS,
    passphrase: str | None = None,
) -> Admission:
    """Make the requester a member, give a member its next keys, or prolong a membership.

    The caller has compared `request.fingerprint` with the site's.

    Raises:
        FederationError: the proofs do not fit, the name is another's or was revoked, or a key is in
            use. The audit log notes it.
    """
    with _changing(home, passphrase) as change:
        try:
            outcome, member = _admitted(change.registry, request, now + timedelta(days=days))
            proposed = _with(change.registry, member, now)
            member.check(member.name)
            proposed.check_keys_differ()
        except FederationError:
            change.log.append("admission_refused", site=request.claim.name)
            raise
        facts = {"site": member.name, "fingerprint": member.fingerprint}
        change.log.append(outcome, version=proposed.version, **facts)
        change.commit(proposed)
    return Admission(outcome, member)


def check_request(home: Path, request: AdmissionRequest, *, passphrase: str | None = None) -> None:
    """Check the request's proofs.

    `admit` checks them, too; this is for a caller that then asks people to compare fingerprints.

    Raises:
        FederationError: the proofs do not fit. The audit log notes it.
    """
    try:
        request.check()
    except FederationError:
        with _changing(home, passphrase) as change:
            change.log.append("admission_refused", site=request.claim.name)
        raise


def revoke(home: Path, name: str, now: datetime, *, passphrase: str | None = None) -> Registry:
    """Shut the member out for good, and return the registry.

    A running server drops the member when it reads the registry again.

    Raises:
        ConfigError: there is no such member.
    """
    with _changing(home, passphrase) as change:
        member = find_member(change.registry, name)
        if member.status == "revoked":
            return change.registry
        revoked = member.model_copy(update={"status": "revoked"})
        proposed = _with(change.registry, revoked, now)
        change.log.append("revoked", site=name, version=proposed.version)
        change.commit(proposed)
        return proposed


def prolong(
    home: Path, name: str, now: datetime, *, days: int = MEMBER_DAYS, passphrase: str | None = None
) -> Member:
    """Let a membership end `days` from `now`, and return the member.

    Raises:
        ConfigError: there is no such member, or it was revoked.
    """
    with _changing(home, passphrase) as change:
        member = find_member(change.registry, name)
        if member.status == "revoked":
            raise ConfigError(f"site {name}: was revoked, and that is final")
        longer = member.model_copy(update={"not_after": now + timedelta(days=days)})
        proposed = _with(change.registry, longer, now)
        change.log.append("renewed", site=name, version=proposed.version)
        change.commit(proposed)
        return longer


def renew_server(
    home: Path,
    now: datetime,
    *,
    address: str | None = None,
    days: int = SERVER_DAYS,
    passphrase: str | None = None,
) -> None:
    """Give the server's TLS key a new certificate, for another address if one is given.

    The sites need nothing for a new certificate; for another address they need a new kit.
    """
    files = ServerHome(home)
    authority = load_certificate(files.authority)
    authority_key = load_tls_key(files.authority_key, passphrase)
    with _changing(home, passphrase) as change:
        host, _ = split_address(address or change.registry.address)
        public = load_tls_key(files.certificate_key, passphrase).public_key()
        certificate = issue_server(authority, authority_key, public, host, now, days)
        change.log.append("server_renewed", days=days, address=address or change.registry.address)
        save(files.certificate, certificate_pem(certificate).decode())
        if address and address != change.registry.address:
            moved = {"address": address, "version": change.registry.version + 1, "issued": now}
            change.commit(change.registry.model_copy(update=moved))


def make_kit(home: Path, name: str, *, passphrase: str | None = None) -> Kit:
    """Return the kit of a member, with the present registry.

    Raises:
        ConfigError: there is no such member.
    """
    registry = Registry.load(home)
    find_member(registry, name)
    files = ServerHome(home)
    key = load_signing_key(files.signing_key, passphrase)
    return Kit(
        site=name,
        certificate=certificate_pem(load_certificate(files.authority)).decode(),
        signing_public_key=signing_public_pem(key),
        registry=registry.signed(key),
    )


def expiries(home: Path, registry: Registry, now: datetime) -> tuple[str, ...]:
    """Return a line for each certificate and membership that has expired or expires soon."""
    found = [
        warning
        for file in ("ca.crt", "server.crt")
        for warning in check_certificate(home / file, now)
    ]
    for name, member in sorted(registry.sites.items()):
        found += member.warnings(name, now)
    return tuple(found)


@dataclass(frozen=True)
class _Change:
    """A change of the registry, while no other process can change it."""

    home: Path
    registry: Registry
    key: Ed25519PrivateKey
    log: AuditLog

    def commit(self, registry: Registry) -> None:
        registry.check_follows(self.registry)
        write_document(ServerHome(self.home).registry, registry.signed(self.key))


@contextmanager
def _changing(home: Path, passphrase: str | None) -> Iterator[_Change]:
    """Read the registry under a lock that one process holds at a time, for a change."""
    files = ServerHome(home)
    if not files.registry.exists():
        raise ConfigError(f"{home}: is not a server's home; make one with `hemofed server init`")
    check_home(home)
    key = load_signing_key(files.signing_key, passphrase)
    handle = os.open(home, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        registry = Registry.load(home)
        with AuditLog.open(files.audit, key) as log:
            yield _Change(home, registry, key, log)
    finally:
        os.close(handle)


def _admitted(
    registry: Registry, request: AdmissionRequest, until: datetime
) -> tuple[Outcome, Member]:
    name = request.claim.name
    member = registry.sites.get(name)
    if member is None:
        return "admitted", Member(status="active", not_after=until, requests=(request,))
    if member.status == "revoked":
        raise FederationError(f"request of {name}: was revoked; it must ask under another name")
    if member.requests[-1].claim == request.claim:
        return "renewed", member.model_copy(update={"not_after": until})
    if request.consent is None:
        raise FederationError(
            f"request of {name}: the name is taken by the keys {member.fingerprint}, and the "
            "request lacks their consent. A member changes its keys with `hemofed site request "
            "--rotate`; a site that lost its keys asks under another name, and the old is revoked"
        )
    requests = (*member.requests, request)
    return "keys_changed", Member(status="active", not_after=until, requests=requests)


def _with(registry: Registry, member: Member, now: datetime) -> Registry:
    sites = {**registry.sites, member.name: member}
    change = {"version": registry.version + 1, "issued": now, "sites": sites}
    return registry.model_copy(update=change)


def find_member(registry: Registry, name: str) -> Member:
    """Return the member of this name, revoked or not.

    Raises:
        ConfigError: there is none; the message names all members.
    """
    if name not in registry.sites:
        known = ", ".join(sorted(registry.sites)) or "none"
        raise ConfigError(f"site {name}: is not a member; members: {known}")
    return registry.sites[name]
