"""Flower's fleet API, call by call: its handlers on its state, without its web framework.

That framework serves all that Flower can do, and takes two thirds of a request's processor time.
What it asks of a caller is asked by the gate, before the body is read, and here; what it does not
ask of what a site sends is asked in `server.rounds.reply_checks`.
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
from common.wire.reply_status import UNREADABLE
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
Handler = Callable[[Any, LinkState], Message]


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
    PULL_OBJECT: (PullObjectRequest, fleet_handlers.pull_object),
    "/v1/fleet/push-messages": (PushMessagesRequest, fleet_handlers.push_messages),
    PUSH_OBJECT: (PushObjectRequest, fleet_handlers.push_object),
    "/v1/fleet/confirm-message-received": (
        ConfirmMessageReceivedRequest,
        _with_store(fleet_handlers.confirm_message_received),
    ),
}
"""What a site asks. Members come by the registry, so nothing registers or unregisters a node, and
there is no code to fetch."""


class _SparedState:
    """The SuperLink's state, spared two things that Flower's handlers want of it at each call.

    A third of a call's time went into them: whether the run goes on, which is asked again after
    _FRESH_SECONDS, and a count of bytes that nobody reads.
    """

    def __init__(self, state: LinkState) -> None:
        self._state = state
        self._last: tuple[set[int], float, dict[int, RunStatus]] = set(), -math.inf, {}
        """Of which runs the status was asked, when, and what it was."""

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
    """Answers the sites' calls from the SuperLink's state, which `database` holds.

    log: the server's, where a question stands that was lost.
    """

    def __init__(self, state: LinkState, database: Path, log: AuditLog) -> None:
        self._state = cast(LinkState, _SparedState(state))
        self._audit = log
        self._questions = Questions(database)

    def serves(self, path: str) -> bool:
        """Whether there is such a call."""
        return path in _CALLS

    def answer(self, path: str, key: bytes, body: bytes) -> tuple[HTTPStatus, bytes]:
        """The answer to a call that `key` (PEM) signed. An error's text stays here.

        Raises RefusedError for what no site sends that does as it is asked.
        """
        kind, handler = _CALLS[path]
        try:
            request = kind.FromString(body)
            if not _is_plain(request, body):
                return HTTPStatus.BAD_REQUEST, b""
            if not self._speaks_for_itself(key, request):
                return HTTPStatus.UNAUTHORIZED, b""
            self._check(request)
            return HTTPStatus.OK, handler(request, self._state).SerializeToString()
        except RefusedError:
            raise
        except LostError as lost:
            self._note_lost(lost)
            return HTTPStatus.OK, PullMessagesResponse().SerializeToString()
        except DecodeError:
            return HTTPStatus.BAD_REQUEST, b""
        except FlowerError as error:
            # By its name: the text holds keys, and a site that checks itself asks for one of these.
            _log.warning("%s: %s", path, ApiErrorCode(error.code).name)
            return HTTPStatus(API_ERROR_MAP[error.code].http_status_code), b""
        except Exception:  # whatever a hostile site sends; it learns nothing of this machine
            _log.exception("%s", path)
            return HTTPStatus.INTERNAL_SERVER_ERROR, b""

    def _speaks_for_itself(self, key: bytes, request: Any) -> bool:
        """Whether the request is in the name of the key's own node."""
        if isinstance(request, ActivateNodeRequest):
            return request.public_key == key
        node = request if isinstance(request, DeactivateNodeRequest) else request.node
        return self._state.get_node_id_by_public_key(key) == node.node_id

    def _check(self, request: Message) -> None:
        """Raise RefusedError for a message or an object that is not to be taken."""
        if isinstance(request, PushObjectRequest):
            check_object(request)
        if isinstance(request, PushMessagesRequest):
            self._check_reply(request)

    def _check_reply(self, request: PushMessagesRequest) -> None:
        """A reply out of bounds is the site's only one: the rounds leave it out at once."""
        question = None
        if is_one_reply(request, node := request.node.node_id):
            question = self._questions.find(request.messages_list[0].metadata.reply_to_message_id)
        check_answers(request, question, node, time.time())
        if question is not None and not is_within_bounds(request, question):
            error = Error(UNREADABLE, "a reply out of bounds")
            self._state.store_message_res(error_in_place(question, error))
            raise RefusedError(HTTPStatus.BAD_REQUEST, "a reply out of bounds")

    def _note_lost(self, lost: LostError) -> None:
        """Say it in the server's log and in the audit log, if that can be written."""
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


def _is_plain(request: Message, body: bytes) -> bool:
    """Whether the body holds the fields of its kind, each once, and nothing else."""
    request.DiscardUnknownFields()
    return int(request.ByteSize()) == len(body)
