"""The server's side of the envelopes around messages.

An envelope to a site holds a signed order, the head of the server's audit log and the registry. An
envelope from a site holds the head of the site's log, which the server witnesses.
"""

import logging
from pathlib import Path

from flwr.app import Message

from common.audit.log import AuditLog
from common.audit.witness import NO_HEAD, last_heads
from common.errors import FederationError
from common.identity import load_signing_key
from common.wire.envelope import WITNESSED_KINDS, Envelope, take_off
from common.wire.order import Order
from server.home import ServerHome
from server.membership.registry_file import RegistryFile

_log = logging.getLogger("hemofed.rounds")


class Envelopes:
    """Puts on and takes off the envelopes of the server in `home`, whose audit log is `log`."""

    def __init__(self, home: Path, log: AuditLog) -> None:
        """Raises ConfigError if the server's signing key cannot be used."""
        self._registry = RegistryFile(home)
        self._audit = log
        self._signing_key = load_signing_key(ServerHome(home).signing_key)
        self._known: dict[str, int] = {}
        self._witnessed = last_heads(log.path)

    def seal(self, message: Message, site: str) -> None:
        """Put an envelope with a signed order around a message that leaves for the site.

        It holds the registry until the site has confirmed that it uses this version. It also holds
        the head of the site's own log that was witnessed last, so that the site notices if its log
        has been replaced by an older copy.
        """
        version = self._registry.read().version
        known = self._known.get(site) == version
        document = "" if known else self._registry.document()
        order = Order.of(message, site).sign(self._signing_key)
        shown = self._witnessed.get(site, NO_HEAD)
        envelope = Envelope(self._audit.signed_head(), version, document, order, shown)
        message.content = envelope.around(message.content)

    def open(self, reply: Message, site: str, about: dict[str, str | int] | None) -> None:
        """Take the envelope off a reply, note the site's registry version and witness its head.

        A head that the site's key did not sign is not witnessed, and the audit log says so; the
        reply counts all the same.

        Args:
            reply: the site's reply, changed in place.
            site: the site that was asked.
            about: what the reply answers, for the audit log; None if it answers no task.

        Raises:
            FederationError: the audit log cannot be written.
        """
        envelope = take_off(reply)
        self._known[site] = envelope.registry
        if about is None or about["kind"] not in WITNESSED_KINDS:
            return
        try:
            envelope.head.check(self._key(site), f"site {site}")
        except FederationError as error:
            _log.warning("%s", error)
            self._audit.append("not_witnessed", peer=site, **about)
        else:
            self._audit.witness(envelope.head, site, **about)
            self._witnessed[site] = envelope.head

    def _key(self, site: str) -> str:
        """Return the member's public signing key (PEM)."""
        member = self._registry.read().sites.get(site)
        if member is None:
            raise FederationError(f"site {site}: is not in the registry")
        return member.signing_public_key
