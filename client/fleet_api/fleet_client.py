"""The site's connection to the server's fleet API: outbound HTTPS; the site opens no port."""

import hashlib
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message
from google.protobuf.message import DecodeError

from client.fleet_api.clock_skew import is_refused, skew
from client.fleet_api.fleet_calls import FleetCalls
from client.fleet_api.proxy import unreached
from client.fleet_api.tls import out_of_date
from common.backoff import Backoff
from common.errors import FederationError
from common.files import write_text
from common.identity import node_public_pem
from common.wire.flower_internals import (
    ActivateNodeRequest,
    ConfirmMessageReceivedRequest,
    DeactivateNodeRequest,
    GetRunRequest,
    Node,
    PullMessagesRequest,
    PullMessagesResponse,
    PullObjectRequest,
    PushMessagesRequest,
    PushObjectRequest,
    SendNodeHeartbeatRequest,
    message_to_proto,
)
from common.wire.flower_objects import Buffer, identifiers, put_together, take_apart

HEARTBEAT_SECONDS = 15.0
"""The server counts a site as gone after twice this long without a sign of life."""
_PAUSES = (0.5, 20.0)
"""Seconds between tries: the first pause, and the longest."""
_MOST = 2**30
"""Largest size of a message, in bytes: a model of 268 million float32. The bound counts before the
site knows who sent the message."""
_INVALID_HEARTBEAT = 400
"""Flower's HTTP code for a heartbeat interval of 0; an unknown key gets another code."""
_log = logging.getLogger("hemofed.site")

Request = TypeVar("Request")
Result = TypeVar("Result")


class RunOverError(Exception):
    """The run is over at the server, or the server needs this message's answer no more."""


class NoMessageError(Exception):
    """The server sent something that is no message; a server of hemofed never does."""


class HaltedError(Exception):
    """The service must stop, and the server does not answer."""


class ShutOutError(FederationError):
    """The server does not know this site's key, or not under the node's number."""


class FleetLink:
    """One site's link to the server at `address` (host:port), with `key` as the node's key.

    The link logs a passing fault and waits until it is over: a server that is away, an expired
    certificate of the server, or two clocks that differ. `halt` ends the wait.

    Raises:
        ConfigError: the environment names a proxy that cannot be used.
        FederationError: the certificate in `authority` cannot be read.
    """

    def __init__(
        self, address: str, authority: Path, key: ec.EllipticCurvePrivateKey, halt: Event
    ) -> None:
        self._key = key
        self._halt = halt
        self._closed = Event()
        self._node = Node()
        self._address = address
        self._authority = authority
        self._hindrance = ""
        self._client = FleetCalls(address, authority, key)
        self._held: dict[str, Buffer] = {}
        """SHA-256 -> piece, of the last ordered message that had pieces."""
        self._fetched: dict[str, Buffer] = {}
        """Name -> piece, of the last message; the names are the server's, and unchecked."""

    def connect(self, memory: Path) -> bool:
        """Activate this key's node at the server, or continue as the node of a predecessor.

        Starts the heartbeat. Returns whether it continues as the predecessor's node.

        memory: the file with the node's number, which this method writes. Without the number the
        server refuses the key for as long as it believes a killed predecessor alive, and gives up
        the message that the predecessor was answering.

        Raises:
            ShutOutError: the server does not know this site's key.
            FederationError: the server's certificate is not accepted.
            HaltedError: `halt` is set while the server does not answer.
        """
        continues = self._continues(_number_in(memory))
        if not continues:
            request = ActivateNodeRequest(
                public_key=node_public_pem(self._key), heartbeat_interval=HEARTBEAT_SECONDS
            )
            number = self._ask(self._client.ActivateNode, request).node_id
            self._node = Node(node_id=number)
            write_text(memory, str(number))
        Thread(target=self._beat, daemon=True).start()
        return continues

    def check_known(self) -> None:
        """Raise ShutOutError unless the server knows this key; the server's state does not change.

        The method asks for a node with the invalid heartbeat interval 0. Flower looks the key up
        first, and refuses an unknown key and an invalid interval with different codes. A running
        client of the same site is not disturbed.

        Raises:
            ShutOutError: the server does not know this site's key.
            httpx.HTTPError: the server does not answer.
        """
        request = ActivateNodeRequest(public_key=node_public_pem(self._key), heartbeat_interval=0)
        try:
            self._client.ActivateNode(request)
        except httpx.HTTPStatusError as error:
            if error.response.status_code >= 500:
                raise
            if error.response.status_code != _INVALID_HEARTBEAT:
                raise self._shut_out() from error

    def _continues(self, number: int | None) -> bool:
        """Take `number` as the node's, and return whether the server still knows this key by it."""
        if number is None:
            return False
        self._node = Node(node_id=number)
        try:
            return bool(self._ask(self._client.SendNodeHeartbeat, self._sign_of_life()).success)
        except (FederationError, RunOverError):
            return False

    def leave(self) -> None:
        """Deactivate the node at the server, so that nobody waits for this site, and close."""
        with suppress(httpx.HTTPError):
            self._client.DeactivateNode(DeactivateNodeRequest(node_id=self._node.node_id))
        self.close()

    def close(self) -> None:
        """End the heartbeat and close the connection.

        The server counts the site as gone after twice `HEARTBEAT_SECONDS`.
        """
        self._closed.set()
        self._client.close()

    def pull(self) -> PullMessagesResponse | None:
        """Return the next message without its content, or None when none comes for some seconds.

        Raises ShutOutError, FederationError and HaltedError like `fetch`. Any other refusal is
        waited out.
        """
        response = self._ask(self._client.PullMessages, PullMessagesRequest(node=self._node))
        return response if response.messages_list else None

    def bundle_hash(self, run: int) -> str:
        """Return the hash of the code bundle that the run names.

        Raises like `fetch`, but never NoMessageError.
        """
        response = self._ask(self._client.GetRun, GetRunRequest(node=self._node, run_id=run))
        return response.run.fab_hash

    def fetch(self, pulled: PullMessagesResponse) -> Message:
        """Return the message with its content.

        Pieces that `keep` kept of an earlier message do not come again over the network.

        Raises:
            NoMessageError: the content is no message, or holds more than 1 GiB.
            RunOverError: the server no longer has an object of the message, or does not have it
                before the time for the answer is over.
            ShutOutError, FederationError: the server and the site do not accept each other.
            HaltedError: `halt` is set while the server does not answer.
        """
        if (len(pulled.messages_list), len(pulled.message_object_trees)) != (1, 1):
            raise NoMessageError("the server sent a message without the names of its objects")
        (tree,), (said,) = pulled.message_object_trees, pulled.messages_list
        end = time.monotonic() + said.metadata.ttl
        run = said.metadata.run_id
        contents: dict[str, Buffer] = {}
        fetched = 0
        for part in identifiers(tree):
            held = self._held.get(part)
            contents[part] = self._object(run, part, end) if held is None else held
            fetched += len(contents[part])
            if fetched > _MOST:
                raise NoMessageError(f"the server sent a message of more than {_MOST:,} bytes")
        try:
            message = put_together(tree.object_id, contents)
        except Exception as error:
            raise _no_message(tree.object_id) from error
        if not message.has_content():
            raise _no_message(tree.object_id)
        self._fetched = {part: contents[part] for part in contents if part != tree.object_id}
        return message

    def keep(self) -> None:
        """Keep the pieces of the message that was fetched last, in place of earlier ones.

        Call this only after a check that the server ordered the message. A message without pieces
        changes nothing. A piece whose SHA-256 is not its name is not kept: with it, every later
        message that names this piece would fail the check of the order's digest.
        """
        fetched, self._fetched = self._fetched, {}
        if fetched:
            self._held = {
                name: content
                for name, content in fetched.items()
                if name in self._held or hashlib.sha256(content).hexdigest() == name
            }

    def push(self, reply: Message) -> None:
        """Send the reply, with all objects of it that the server lacks.

        Raises:
            RunOverError: the run is over at the server, or nobody waits for the reply.
            ShutOutError, FederationError: the server and the site do not accept each other.
            HaltedError: `halt` is set while the server does not answer.
        """
        parts, run = take_apart(reply), reply.metadata.run_id
        request = PushMessagesRequest(
            node=self._node,
            messages_list=[message_to_proto(parts.head)],
            message_object_trees=[parts.tree],
            clientapp_runtime_list=[0.0],
        )
        response = self._ask(self._client.PushMessages, request)
        for identifier in response.objects_to_push:
            part = PushObjectRequest(
                node=self._node,
                run_id=run,
                object_id=identifier,
                session_id=response.session_id,
            )
            self._ask(partial(self._client.push_object, spans=parts.spans(identifier)), part)
        confirmed = ConfirmMessageReceivedRequest(
            node=self._node, run_id=run, message_object_id=reply.metadata.reply_to_message_id
        )
        self._ask(self._client.ConfirmMessageReceived, confirmed)

    def _object(self, run: int, identifier: str, end: float) -> Buffer:
        """Return an object as soon as the server has it.

        Raises RunOverError when the server does not have it by `end` of the monotonic clock.
        """
        request = PullObjectRequest(node=self._node, run_id=run, object_id=identifier)
        while True:
            response, content = self._ask(self._client.pull_object, request)
            if response.object_found and response.object_available:
                return content
            if not response.object_found or time.monotonic() > end:
                raise RunOverError
            if self._halt.wait(_PAUSES[0]):
                raise HaltedError

    def _ask(self, call: Callable[[Request], Result], request: Request) -> Result:
        """Return the server's answer to `request`, however long that takes.

        Raises:
            ShutOutError, FederationError: the server and the site do not accept each other.
            RunOverError: the server refuses the request for any other reason.
            HaltedError: `halt` is set before the answer.
        """
        pauses = Backoff(*_PAUSES)
        while True:
            try:
                result = call(request)
            except httpx.HTTPStatusError as error:
                self._wait_out(*self._refused(error))
            except httpx.TransportError as error:
                self._wait_out(*self._unreached(error))
            except (ValueError, DecodeError) as error:
                kind = type(error).__name__
                self._wait_out("answer", f"{self._address}: its answer cannot be read ({kind})")
            else:
                self._wait_out("", "")
                return result
            if self._halt.wait(pauses.next()):
                raise HaltedError

    def _refused(self, error: httpx.HTTPStatusError) -> tuple[str, str]:
        """The kind of the hindrance and its text, if the hindrance can pass.

        Raises ShutOutError for an unknown key, and RunOverError for any other lasting refusal.
        """
        status, path = error.response.status_code, error.request.url.path
        if status >= 500:
            return "server", f"{self._address}: cannot answer at this moment (HTTP {status})"
        if status != 401 and path.endswith("pull-messages"):
            return "gateway", (
                f"{self._address}: refuses the question for messages (HTTP {status}); look at what "
                "stands between this site and the server, or at the server's log"
            )
        if status != 401 and not path.endswith("activate-node"):
            raise RunOverError from error
        ahead = skew(error.response)
        if ahead is not None and is_refused(ahead):
            return "clock", (
                f"{self._address}: refuses this site's signatures, for this clock is {ahead:+.0f} "
                "s off the server's; set the clock that is wrong, by NTP"
            )
        raise self._shut_out() from error

    def _shut_out(self) -> ShutOutError:
        return ShutOutError(f"{self._address}: does not accept this site's key")

    def _unreached(self, error: httpx.TransportError) -> tuple[str, str]:
        """The kind of the hindrance and its text, if the hindrance can pass.

        Raises FederationError for a certificate that is not accepted.
        """
        fault = out_of_date(error, self._address, self._authority)
        if fault:
            return "certificate", fault
        return "network", unreached(self._address, error)

    def _wait_out(self, hindrance: str, words: str) -> None:
        """Log a hindrance once when it begins, and its end ("")."""
        if hindrance == self._hindrance:
            return
        self._hindrance = hindrance
        if hindrance:
            _log.error("%s. This site waits, and goes on by itself", words)
        else:
            _log.warning("%s: answers again", self._address)

    def _beat(self) -> None:
        while not self._closed.wait(HEARTBEAT_SECONDS / 3):
            with suppress(httpx.HTTPError):
                self._client.SendNodeHeartbeat(self._sign_of_life())

    def _sign_of_life(self) -> SendNodeHeartbeatRequest:
        return SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_SECONDS)


def _number_in(memory: Path) -> int | None:
    """The node's number in the file; None where there is no file, or it holds no such number."""
    if not memory.exists():
        return None
    text = memory.read_bytes()[:32]
    if text.isdigit() and int(text) < 2**64:
        return int(text)
    _log.error("%s: is damaged; this site connects as a new node", memory)
    return None


def _no_message(identifier: str) -> NoMessageError:
    return NoMessageError(f"the server sent object {identifier:.12}, which is no message")
