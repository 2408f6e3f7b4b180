"""What a site's audit log says about messages: what was asked, under which policy, what left."""

import json
import logging
import time
from typing import Any

from flwr.app import Message

from client.consent.proposals import Proposals
from client.home import SiteHome
from client.membership.membership import Membership
from client.service.witnessed_log import OLDER, WitnessedLog
from client.site import open_site
from common.audit.log import AuditLog, SignedHead
from common.config.study import SERVER
from common.errors import ConfigError, FederationError, PrivacyError
from common.files import file_digest
from common.identity.documents import LARGEST_BYTES
from common.wire.agreement import Agreement
from common.wire.envelope import WITNESSED_KINDS, Envelope, take_off
from common.wire.messages import (
    WITHDRAW,
    read_absence,
    read_head,
    read_proposal,
    read_refusal,
    task_facts,
)
from common.wire.order import CLOCK_SECONDS, Order
from common.wire.reasons import Reason

_log = logging.getLogger("hemofed.site")


class MessageAudit:
    """Writes the audit log of the site in `home`, and exchanges its head for the server's.

    Every method that writes raises FederationError when the log cannot be written. The node lets
    nothing leave in that case.
    """

    def __init__(self, home: SiteHome, membership: Membership, log: AuditLog) -> None:
        self._home = home
        self._membership = membership
        self._audit = log
        self._policy = ""
        self._noted: set[tuple[str, str | int]] = set()
        self._refused_registry = ""
        self._terms: dict[str, float] = {}
        """Signature -> end of the term (Unix time) of each order that this process has taken. An
        order whose term is over needs no entry: `Order.check` refuses it."""
        self._proposals = Proposals(home)
        self._shown = WitnessedLog(log.path)

    @property
    def membership(self) -> Membership:
        """The site's membership, with the newest registry that it has accepted."""
        return self._membership

    def came(self, message: Message) -> None:
        """Take the envelope off a message, accept its registry, and witness the server's head.

        The site keeps its present registry when the new one may not replace it, and skips a head
        that the server's key did not sign; the audit log gets a line in both cases.

        Raises:
            PrivacyError: the server did not order this very message for this site, or this log
                lacks a head that the site showed to the server. The audit log gets a line, and
                nothing may be computed.
        """
        envelope, about = take_off(message), task_facts(message)
        self._note_policy()
        self._accept(envelope.document)
        self._check_order(message, envelope.order, about)
        self._check_newest(envelope.witnessed)
        self._witness(envelope.head, about)
        if about and about["kind"] == "query.prepare":
            self._keep(message, about)
        if about and about["kind"] == WITHDRAW:
            self._proposals.drop(str(about["study"]))
            self._audit.append("proposal_withdrawn", study=about["study"])

    def unreadable(self) -> None:
        """Write that unreadable content came, which nobody ordered; one line for all of it."""
        self._note("order_refused", {"kind": "unknown", "study": ""})

    def _check_order(
        self, message: Message, signature: str, about: dict[str, str | int] | None
    ) -> None:
        order = Order.of(message, self._membership.name)
        try:
            order.check(self._membership.server_public_key, signature, now := time.time())
            self._take(signature, order.term, now)
        except FederationError as error:
            self._note("order_refused", about or {"kind": "unknown", "study": ""})
            said = f"not ordered by this site's server, not answered: {error}"
            raise PrivacyError(said, Reason.NOT_ORDERED) from error

    def _check_newest(self, head: SignedHead) -> None:
        """Raise PrivacyError when the log is an older copy, and write one line for each head."""
        keys = [one.claim.signing_public_key for one in self._membership.member.requests]
        try:
            self._shown.check(head, keys)
        except PrivacyError:
            if (OLDER, head.hash) not in self._noted:
                self._audit.append(OLDER, head=head.hash)
                self._noted.add((OLDER, head.hash))
            raise

    def _take(self, signature: str, term: float, now: float) -> None:
        """Raise FederationError when the order came before: each is signed for one message."""
        if signature in self._terms:
            raise FederationError("the same order was answered before; somebody sent a copy")
        self._terms = {
            known: end for known, end in self._terms.items() if now <= end + CLOCK_SECONDS
        } | {signature: term}

    def _keep(self, message: Message, about: dict[str, str | int]) -> None:
        """Keep a proposed study for a person to read.

        A proposal that the server did not sign gets one line in the log, and is not kept.
        """
        try:
            self._proposals.keep(read_proposal(message), "message from the server")
        except (FederationError, ConfigError) as error:
            _log.error("%s", error)
            self._note("proposal_refused", about)

    def _accept(self, document: str) -> None:
        """Trust a newer registry. A refused one comes with every message, and gets one line."""
        if not document or document == self._refused_registry:
            return
        try:
            self._membership = self._membership.accept(_json(document), self._audit)
        except FederationError as error:
            _log.error("%s", error)
            self._refused_registry = document

    def _witness(self, head: SignedHead, about: dict[str, str | int] | None) -> None:
        if about is None or about["kind"] not in WITNESSED_KINDS:
            return
        try:
            head.check(self._membership.server_public_key, "the server")
        except FederationError as error:
            _log.warning("%s", error)
            self._audit.append("not_witnessed", peer=SERVER, **about)
        else:
            self._audit.witness(head, SERVER, **about)

    def leaves(self, message: Message, reply: Message) -> None:
        """Write the line of an answer before it leaves, and put `reply` into its envelope."""
        about = task_facts(message)
        refused = "the ClientApp failed" if reply.has_error() else read_refusal(reply)
        absent = None if reply.has_error() else read_absence(reply)
        if about and refused:
            self._note("refused", about, reason=str(refused))
        elif about and absent:
            self._note("sat_out", about, reason=str(absent))
        elif about and about["kind"] in WITNESSED_KINDS:
            facts = {"ledger": read_head(reply), **_masked_with(message)}
            self._audit.append("released", **about, **facts)
        if reply.has_content():
            head = self._audit.signed_head()
            self._shown.shown(head)
            envelope = Envelope(head, self._membership.registry.version)
            reply.content = envelope.around(reply.content)

    def _note(self, event: str, about: dict[str, str | int], **facts: str) -> None:
        """Write one line.

        A study that waits for sites asks every few seconds; all its questions share one line.
        """
        once = (event, about["study"])
        if about["kind"] in WITNESSED_KINDS or once not in self._noted:
            self._audit.append(event, **about, **facts)
        if about["kind"] not in WITNESSED_KINDS:
            self._noted.add(once)

    def _note_policy(self) -> None:
        """Write a line at the first message, and whenever the policy file has changed since."""
        found = _policy_digest(self._home)
        if found != self._policy:
            self._audit.append("policy", digest=found)
            self._policy = found


def _json(document: str) -> dict[str, Any]:
    """The JSON object in a document from the wire; {}, which no check accepts, if there is none."""
    try:
        content = json.loads(document) if len(document) <= LARGEST_BYTES else None
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _masked_with(message: Message) -> dict[str, str]:
    """Whom an answer was masked with: sites that were shown different ones can compare this."""
    agreement = Agreement.read(message)
    return {} if agreement is None else {"agreement": agreement.digest}


def _policy_digest(home: SiteHome) -> str:
    """SHA-256 (hex) of the site's policy file; "none" when it or site.yaml cannot be read."""
    try:
        return file_digest(open_site(home.site_file).policy)
    except (OSError, ConfigError):
        return "none"
