"""The calls of Flower's fleet API: its handlers on its state, without its web framework.

The framework would serve all of Flower's APIs, and takes two thirds of a request's processor time.
Its checks of the caller are made by the gate, before the body is read, and here. The checks of a
site's messages that it lacks are in `server.rounds.reply_checks`.
"""

import logging
import math
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

from flwr.app import Error
from google.protobuf.message import DecodeError, Message

from common.audit.log import AuditLog
from common.errors import FederationError
from common.wire.flower_internals import (
    ActivateNodeRequest,
    ConfirmMessageReceivedRequest,
    DeactivateNodeRequest,
    GetRunRequest,
    PullMessagesRequest,
    PullMessagesResponse,
    PullObjectRequest,
    PushMessagesRequest,
    PushObjectRequest,
    RunStatus,
    SendNodeHeartbeatRequest,
)
from common.wire.flower_objects import Buffer
from common.wire.reply_status import UNREADABLE
from server.fleet_api.objects import PushedObject, is_plain, pull_object, push_object
from server.flower.delivery import LostError, hand_out
from server.flower.internals import (
    API_ERROR_MAP,
    ApiErrorCode,
    FlowerError,
    LinkState,
    fleet_handlers,
)
from server.rounds.reply_checks import (
    Questions,
    RefusedError,
    check_answers,
    check_object,
    error_in_place,
    is_one_reply,
    is_within_bounds,
)

_log = logging.getLogger("hemofed.superlink")
_FRESH_SECONDS = 0.2
"""How long the status of a run is taken for current."""
Handler = Callable[[Any, LinkState], Message | tuple[Buffer, ...]]
"""(request, state) -> the answer, as a message or serialised, in spans."""


def _with_store(handler: Callable[..., Message]) -> Handler:
    return lambda request, state: handler(request, state, state.object_store)


PULL_MESSAGES = "/v1/fleet/pull-messages"
PULL_OBJECT = "/v1/fleet/pull-object"
PUSH_OBJECT = "/v1/fleet/push-object"
_CALLS: dict[str, tuple[type[Message], Handler]] = {
    "/v1/fleet/activate-node": (ActivateNodeRequest, fleet_handlers.activate_node),
    "/v1/fleet/deactivate-node": (DeactivateNodeRequest, fleet_handlers.deactivate_node),
    "/v1/fleet/send-node-heartbeat": (
        SendNodeHeartbeatRequest,
        fleet_handlers.send_node_heartbeat,
    ),
    "/v1/fleet/get-run": (GetRunRequest, fleet_handlers.get_run),
    PULL_MESSAGES: (PullMessagesRequest, hand_out),
    PULL_OBJECT: (PullObjectRequest, pull_object),
    "/v1/fleet/push-messages": (PushMessagesRequest, fleet_handlers.push_messages),
    PUSH_OBJECT: (PushObjectRequest, push_object),
    "/v1/fleet/confirm-message-received": (
        ConfirmMessageReceivedRequest,
        _with_store(fleet_handlers.confirm_message_received),
    ),
}
"""Path -> the request's type and its handler. No call registers or unregisters a node, because
members come from the registry, and none fetches code, because there is none to fetch."""


class _SparedState:
    """The SuperLink's state without two things that Flower's handlers do at each call.

    The run's status is looked up only every _FRESH_SECONDS, and a count of bytes that nobody reads
    is not kept. Together they would take a third of a call's time.
    """

    def __init__(self, state: LinkState) -> None:
        self._state = state
        self._last: tuple[set[int], float, dict[int, RunStatus]] = set(), -math.inf, {}
        """The runs whose status was looked up last, when that was, and the statuses."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)

    def store_traffic(self, run_id: int, *, bytes_sent: int, bytes_recv: int) -> None: ...

    def get_run_status(self, run_ids: set[int]) -> dict[int, RunStatus]:
        asked, at, statuses = self._last
        if asked != run_ids or time.monotonic() - at > _FRESH_SECONDS:
            statuses = self._state.get_run_status(run_ids)
            self._last = run_ids, time.monotonic(), statuses
        return statuses


class Fleet:
    """Answers the sites' calls from the SuperLink's state."""

    def __init__(self, state: LinkState, database: Path, log: AuditLog) -> None:
        """Serve `state`, whose file is `database`; lost questions are noted in the audit `log`."""
        self._state = cast(LinkState, _SparedState(state))
        self._audit = log
        self._questions = Questions(database)

    def serves(self, path: str) -> bool:
        """Return whether the fleet API has a call of this path."""
        return path in _CALLS

    def answer(self, path: str, key: bytes, body: Buffer) -> tuple[HTTPStatus, tuple[Buffer, ...]]:
        """Return the status of the answer to a call, and its content as spans in order.

        The text of an error is logged here and not sent.

        Args:
            path: of a call for which `serves` is true.
            key: the public key (PEM) that signed the request.
            body: the request's.

        Raises:
            RefusedError: the message is not one that the rounds may take.
        """
        _, handler = _CALLS[path]
        try:
            if (request := _read(path, body)) is None:
                return HTTPStatus.BAD_REQUEST, ()
            if not self._speaks_for_itself(key, request):
                return HTTPStatus.UNAUTHORIZED, ()
            self._check(request)
            answer = handler(request, self._state)
            return HTTPStatus.OK, (
                (answer.SerializeToString(),) if isinstance(answer, Message) else answer
            )
        except RefusedError:
            raise
        except LostError as lost:
            self._note_lost(lost)
            return HTTPStatus.OK, (PullMessagesResponse().SerializeToString(),)
        except DecodeError:
            return HTTPStatus.BAD_REQUEST, ()
        except FlowerError as error:
            # Only the error's name is logged, since its text holds keys. A site that checks its own
            # connection provokes such an error.
            _log.warning("%s: %s", path, ApiErrorCode(error.code).name)
            return HTTPStatus(API_ERROR_MAP[error.code].http_status_code), ()
        except Exception:  # whatever a hostile site sends, it learns nothing about this machine
            _log.exception("%s", path)
            return HTTPStatus.INTERNAL_SERVER_ERROR, ()

    def _speaks_for_itself(self, key: bytes, request: Any) -> bool:
        """Return whether the request names the key's own node."""
        if isinstance(request, ActivateNodeRequest):
            return request.public_key == key
        node = request if isinstance(request, DeactivateNodeRequest) else request.node
        return self._state.get_node_id_by_public_key(key) == node.node_id

    def _check(self, request: Message | PushedObject) -> None:
        """Raise RefusedError for a message or an object that must not be stored."""
        if isinstance(request, PushedObject):
            check_object(request)
        if isinstance(request, PushMessagesRequest):
            self._check_reply(request)

    def _check_reply(self, request: PushMessagesRequest) -> None:
        """Raise RefusedError unless the request is a reply that may be stored.

        A reply out of bounds counts as the site's only reply: an error is stored in its place, so
        that the rounds leave it out at once.
        """
        question = None
        if is_one_reply(request, node := request.node.node_id):
            question = self._questions.find(request.messages_list[0].metadata.reply_to_message_id)
        check_answers(request, question, node, time.time())
        if question is not None and not is_within_bounds(request, question):
            error = Error(UNREADABLE, "a reply out of bounds")
            self._state.store_message_res(error_in_place(question, error))
            raise RefusedError(HTTPStatus.BAD_REQUEST, "a reply out of bounds")

    def _note_lost(self, lost: LostError) -> None:
        """Report a lost question in the server's log, and in the audit log if it can be written."""
        question = lost.question
        site = next((one.name for one in self._state.get_node_info(node_ids=[question.node])), "")
        _log.error(
            "%s for site %s (%s): %s; it counts as failed and is not asked again. Other questions "
            "may be lost too: stop the service, move %s aside and start it again",
            *(lost, site, question.kind, lost.__cause__, "state/"),
        )
        try:
            self._audit.append("question_lost", site=site, kind=question.kind, round=question.group)
        except FederationError as error:  # a full disk
            _log.error("%s", error)


def _read(path: str, body: Buffer) -> Any:
    """Return the call's request, or None if the body has other or repeated fields.

    Raises:
        DecodeError: the body is not a protobuf message.
    """
    if path == PUSH_OBJECT:
        return PushedObject.read(body)
    kind, _ = _CALLS[path]
    request = kind.FromString(body)
    return request if is_plain(request, body) else None
