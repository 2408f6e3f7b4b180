"""The server's side of the envelopes: orders are signed, its audit head and registry go out, the
sites' heads are witnessed."""

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
    """Of the server in `home`, whose audit log `log` is.

    Raises ConfigError as `load_signing_key` does.
    """

    def __init__(self, home: Path, log: AuditLog) -> None:
        self._registry = RegistryFile(home)
        self._audit = log
        self._signing_key = load_signing_key(ServerHome(home).signing_key)
        self._known: dict[str, int] = {}
        self._witnessed = last_heads(log.path)

    def seal(self, message: Message, site: str) -> None:
        """Put the envelope around a message that leaves for the site, with the order signed.

        The registry is in it until the site has said that it goes by this version; the head of the
        site's own log that was witnessed last is, so that it notices when its log is an older copy.
        """
        version = self._registry.read().version
        known = self._known.get(site) == version
        document = "" if known else self._registry.document()
        order = Order.of(message, site).sign(self._signing_key)
        shown = self._witnessed.get(site, NO_HEAD)
        envelope = Envelope(self._audit.signed_head(), version, document, order, shown)
        message.content = envelope.around(message.content)

    def open(self, reply: Message, site: str, about: dict[str, str | int] | None) -> None:
        """Take the envelope off a reply, note the site's registry and witness its head.

        about: what the reply answers. A head that the site's key did not sign is left out, with a
        line that says so; the reply counts all the same. Raises FederationError when the audit log
        cannot be written.
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
        """The signing key (PEM) of a member."""
        member = self._registry.read().sites.get(site)
        if member is None:
            raise FederationError(f"site {site}: is not in the registry")
        return member.signing_public_key
