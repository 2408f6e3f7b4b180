"""A site's side of provisioning: its keys, its request, and the kit that it accepts.

The files in the site's home:

    site.yaml  policy.yaml  audit.jsonl
    identity/  node.key  signing.key  request.json      (next/: keys that the site asks for)
    kit/       ca.crt  server.json  registry.json
"""

from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from common.audit.log import AuditLog
from common.audit.reader import present_key
from common.config.loading import CONFIGS
from common.config.study import Strict
from common.errors import ConfigError, FederationError
from common.folders import whole_folder
from common.identity.admission_request import AdmissionRequest
from common.identity.documents import read_document, save, write_document
from common.identity.keys import (
    load_signing_key,
    make_node_key,
    make_signing_key,
    signing_public_pem,
    write_private,
)
from common.identity.registry import Address, Member, Registry
from common.identity.signatures import same_fingerprint
from common.identity.site_kit import Kit


class ServerFacts(Strict):
    """The content of `kit/server.json`."""

    address: Address
    """host:port of the server."""
    signing_public_key: str
    """PEM, Ed25519: signs the registry and the studies."""


def make_site(
    home: Path, name: str, now: datetime, passphrase: str | None = None
) -> AdmissionRequest:
    """Make the site's keys and request, and site.yaml and policy.yaml where they are missing.

    home: the site's folder. name: the site's name in the consortium. now: when the request is made.
    passphrase: encrypts the private keys; None: they are stored unencrypted.

    Raises ConfigError when the site has an identity already, or `name` is no valid name.
    """
    identity = home / "identity"
    with whole_folder(identity) as draft:
        request = _make_keys(draft, name, now, passphrase)
    for file in ("site.yaml", "policy.yaml"):
        if not (home / file).exists():
            text = (CONFIGS / "sites" / file).read_text(encoding="utf-8")
            save(home / file, text.replace("name: munich", f"name: {name}"))
    key = load_signing_key(_signing(identity), passphrase)
    with AuditLog.open(home / "audit.jsonl", key) as log:
        log.append("identity_made", site=name, fingerprint=request.fingerprint)
    return request


def read_request(home: Path) -> AdmissionRequest:
    """Read the site's latest request: the one for the next keys, if there are any.

    Raises ConfigError when the site has no identity, and FederationError for a damaged request.
    """
    following = home / "identity" / "next" / "request.json"
    path = following if following.exists() else home / "identity" / "request.json"
    if not path.exists():
        raise ConfigError(f"{home}: has no identity; make one with `hemofed site init`")
    return read_document(AdmissionRequest, path)


def rotate_keys(home: Path, now: datetime, passphrase: str | None = None) -> AdmissionRequest:
    """Make the next keys and a request for them, which the present signing key also signs.

    The present keys stay in use until the site joins a kit with the next ones. `now` and
    `passphrase` are as for `make_site`; the passphrase must also open an encrypted present key.
    Raises ConfigError when the site already has next keys.
    """
    identity = home / "identity"
    present = read_document(AdmissionRequest, identity / "request.json")
    old_key = load_signing_key(_signing(identity), passphrase)
    with whole_folder(identity / "next") as draft:
        request = _make_keys(draft, present.claim.name, now, passphrase, old_key)
    with AuditLog.open(home / "audit.jsonl", old_key) as log:
        log.append("next_keys_made", fingerprint=request.fingerprint)
    return request


def join(home: Path, kit: Kit, fingerprint: str, passphrase: str | None = None) -> Registry:
    """Accept `kit`, whose fingerprint must be the one that the operator reads out.

    Returns the kit's registry, and puts the next keys in the place of the present ones if the
    registry has them.

    Raises:
        ConfigError: the site has no identity.
        FederationError: the kit has another fingerprint, belongs to another site or server, or its
            registry was altered, is older than the one here, or lacks this site's own keys.
            Nothing has changed but the audit log.
    """
    name = read_request(home).claim.name
    with _own_log(home, passphrase) as log:
        try:
            registry = _check_kit(home, name, kit, fingerprint)
        except FederationError as error:
            facts = {"fingerprint": kit.fingerprint, "told": fingerprint[:100]}
            log.append("kit_refused", **facts, reason=str(error)[:500])
            raise
        log.append("joined", fingerprint=kit.fingerprint, registry=registry.version)
        _write_kit(home, kit, registry)
        if (home / "identity" / "next").is_dir():
            _promote(home, registry.sites[name], log, passphrase)
    return registry


def check_own_entry(home: Path, name: str, registry: Registry) -> Member:
    """Return the entry of the site `name` in `home`, whose keys must be this site's.

    Raises FederationError when the registry lacks the entry, or has other keys in it.
    """
    member = registry.sites.get(name)
    if member is None:
        raise FederationError(f"registry: {name} is not in it; send the operator the request")
    folders = (home / "identity", home / "identity" / "next")
    known = [
        read_document(AdmissionRequest, folder / "request.json").claim
        for folder in folders
        if (folder / "request.json").exists()
    ]
    if member.requests[-1].claim not in known:
        raise FederationError(
            f"registry: bears other keys for {name} than this site has; someone else may have been "
            "admitted under the name: call the operator"
        )
    return member


def read_kit(path: Path) -> Kit:
    """Read a kit. Raises FederationError when the file is missing or damaged."""
    try:
        return read_document(Kit, path)
    except FederationError as error:
        if not path.is_file():
            raise
        raise _damaged(str(path), error) from error


def _damaged(what: str, error: FederationError) -> FederationError:
    """The error for a kit, or its registry, that differs from what the operator sent."""
    reason = str(error).removeprefix(f"{what}: ").partition(";")[0]
    return FederationError(
        f"{what}: damaged or altered ({reason}); ask the operator for the kit again"
    )


def _check_kit(home: Path, name: str, kit: Kit, fingerprint: str) -> Registry:
    if not same_fingerprint(kit.fingerprint, fingerprint):
        raise FederationError(
            f"kit: its fingerprint is not {fingerprint!r:.100}; have the operator read the "
            "server's fingerprint once more, and if it is the same again, do not use this kit"
        )
    try:
        registry = Registry.open(kit.registry, kit.signing_public_key, "kit")
    except FederationError as error:
        raise _damaged("kit", error) from error
    if kit.site != name:
        raise FederationError(f"kit: was made for {kit.site}; this site is {name}")
    member = check_own_entry(home, name, registry)
    if member.status != "active":
        raise FederationError(f"kit: {name} is revoked; ask again under another name")
    if (home / "kit" / "registry.json").exists():
        facts = read_document(ServerFacts, home / "kit" / "server.json")
        if facts.signing_public_key != kit.signing_public_key:
            raise FederationError(
                f"kit: is another server's than {facts.address}, which this site joined; a home "
                "has one server. Another home for the other shares this one's ledger: name it in "
                "that site.yaml (`ledger: PATH`), and run `hemofed site ledger rebind`"
            )
        older = Registry.read(home / "kit" / "registry.json", facts.signing_public_key)
        registry.check_follows(older)
    return registry


def _write_kit(home: Path, kit: Kit, registry: Registry) -> None:
    folder = home / "kit"
    save(folder / "ca.crt", kit.certificate)
    facts = ServerFacts(address=registry.address, signing_public_key=kit.signing_public_key)
    write_document(folder / "server.json", facts.model_dump(mode="json"))
    write_document(folder / "registry.json", kit.registry)


def _promote(home: Path, member: Member, log: AuditLog, passphrase: str | None) -> None:
    """Put the next keys in the place of the present ones, if the registry has them.

    After a crash in between, the next join moves the files that are still in `next`.
    """
    identity, following = home / "identity", home / "identity" / "next"
    request = following / "request.json"
    if (
        request.exists()
        and read_document(AdmissionRequest, request).claim != member.requests[-1].claim
    ):
        return
    if _signing(following).exists():
        key = load_signing_key(_signing(following), passphrase)
        if present_key(log.path) != signing_public_pem(key):
            log.append("keys_changed", fingerprint=member.fingerprint)
            log.change_key(key)
    for file in ("node.key", "signing.key", "request.json"):
        if (following / file).exists():
            (following / file).replace(identity / file)
    following.rmdir()


def _own_log(home: Path, passphrase: str | None) -> AuditLog:
    """Open the site's log with the key that signs it: the next one, after a crash in `_promote`."""
    path, following = home / "audit.jsonl", _signing(home / "identity" / "next")
    if following.exists():
        key = load_signing_key(following, passphrase)
        if present_key(path) == signing_public_pem(key):
            return AuditLog.open(path, key)
    return AuditLog.open(path, load_signing_key(_signing(home / "identity"), passphrase))


def _make_keys(
    folder: Path,
    name: str,
    now: datetime,
    passphrase: str | None,
    old_key: Ed25519PrivateKey | None = None,
) -> AdmissionRequest:
    node_key, signing_key = make_node_key(), make_signing_key()
    try:
        request = AdmissionRequest.make(name, node_key, signing_key, now, old_key)
    except ValidationError as error:
        raise ConfigError(
            f"name {name!r:.80}: expected up to 64 letters, digits, '.', '_' or '-', beginning "
            "with a letter or digit, and not 'server', which is the server's"
        ) from error
    write_private(folder / "node.key", node_key, passphrase)
    write_private(folder / "signing.key", signing_key, passphrase)
    save(folder / "request.json", request.text())
    return request


def _signing(identity: Path) -> Path:
    return identity / "signing.key"
