"""Authenticates the fleet API's requests by their headers, before their bodies are read.

Flower's sites sign the time of each request. Flower by itself checks the signature only after it
has read the body, so that a stranger could fill the memory, and a large body on a slow line would
make the signature too old.
"""

from base64 import b64decode
from datetime import UTC, datetime

from starlette.types import Scope

from common.identity import Registry
from common.identity.keys import parse_node_public
from common.wire.flower_internals import (
    FLEET_HTTP_PUBLIC_KEY_HEADER,
    FLEET_HTTP_SIGNATURE_HEADER,
    SYSTEM_TIME_TOLERANCE,
    TIMESTAMP_HEADER,
    TIMESTAMP_TOLERANCE,
    verify_signature,
)
from server.fleet_api.rejection_log import Reason, Refusals


class Gate:
    """Lets in requests signed by an active member's key; none until it is given a registry."""

    def __init__(self, refusals: Refusals) -> None:
        self._refusals = refusals
        self._known: dict[bytes, str] = {}
        self._active: frozenset[bytes] = frozenset()

    def follow(self, registry: Registry) -> None:
        """Use this registry from now on, with the memberships that are active at this moment."""
        self._known = {
            request.claim.node_public_key.encode(): site
            for site, member in registry.sites.items()
            for request in member.requests
        }
        self._active = frozenset(member.node_public_key for member in registry.active().values())

    def site_of(self, key: bytes) -> str:
        """Return the site whose node key this is or was, by the registry; "" for a stranger's."""
        return self._known.get(key, "")

    def lets_in(self, scope: Scope) -> bool:
        """Return whether the request's body may be read; a refusal is noted."""
        key = claimed_key(scope)
        site = self.site_of(key)
        if key not in self._active:
            self._refusals.note(scope, _reason(key, site), key, site)
            return False
        timestamp = dict(scope["headers"]).get(TIMESTAMP_HEADER.encode(), b"")
        if not _is_signed(scope, key, timestamp):
            self._refusals.note(scope, "signature does not fit", key, site)
            return False
        if not _is_timely(timestamp):
            self._refusals.note(scope, "signed at another time", key, site)
            return False
        return True


def _reason(key: bytes, site: str) -> Reason:
    """Return why a key that belongs to no active member is refused."""
    if site:
        return "not an active member's key"
    return "unknown key" if key else "no key"


def claimed_key(scope: Scope) -> bytes:
    """Return the public key (PEM) that the request claims to be signed with; b"" if it has none."""
    return _decoded(scope, FLEET_HTTP_PUBLIC_KEY_HEADER)


def _is_signed(scope: Scope, key: bytes, timestamp: bytes) -> bool:
    """Return whether this key, a member's, signed the request's time."""
    signature = _decoded(scope, FLEET_HTTP_SIGNATURE_HEADER)
    return verify_signature(parse_node_public(key), timestamp, signature)


def _is_timely(timestamp: bytes) -> bool:
    """Return whether the time is about now, so that an intercepted request cannot be sent later."""
    try:
        age = (datetime.now(UTC) - datetime.fromisoformat(timestamp.decode())).total_seconds()
    except (ValueError, TypeError):  # TypeError: the time has no zone
        return False
    return -SYSTEM_TIME_TOLERANCE < age < TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE


def _decoded(scope: Scope, header: str) -> bytes:
    try:
        return b64decode(dict(scope["headers"]).get(header.encode(), b""), validate=True)
    except ValueError:
        return b""
