"""Flower's Grid on the SuperLink's state itself, for the rounds of a deployment."""

from collections.abc import Iterable
from dataclasses import dataclass
from threading import Event

from flwr.app import Error, Message
from flwr.app.message import make_message
from flwr.server.superlink.linkstate import LinkState
from flwr.supercore.constant import NodeStatus
from flwr.supercore.run import Run

from common.errors import FederationError
from common.objects import identifiers, put_together, take_apart
from common.protocol import task_facts
from server.envelopes import Envelopes
from server.exchange import UNREADABLE
from server.run_grid import RunGrid


class StoppedError(Exception):
    """The service is asked to stop; the round under way is given up."""


@dataclass(frozen=True)
class _Sent:
    """A message under way: to whom, and what an audit line says of it."""

    site: str
    about: dict[str, str | int] | None


class StateGrid(RunGrid):
    """The Grid of one run. `halt` breaks off whatever waits on it.

    Messages leave in envelopes, and the sites' are taken off here. A reply is handed out once all
    of it has come; a site that breaks off in the middle of an upload holds nobody up.
    """

    def __init__(self, state: LinkState, run: Run, halt: Event, envelopes: Envelopes) -> None:
        super().__init__(run)
        self._state = state
        self._halt = halt
        self._envelopes = envelopes
        self._sent: dict[str, _Sent] = {}
        self._arriving: list[Message] = []
        self._parts: dict[str, list[str]] = {}

    def get_node_ids(self) -> Iterable[int]:
        return list(self.site_names())

    def site_names(self) -> dict[int, str]:
        """Node -> site, of those connected; the name is the registry's, for the node's key."""
        self._check()
        nodes = self._state.get_node_info(statuses=[NodeStatus.ONLINE])
        return {node.node_id: node.name for node in nodes if node.name}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        self._check()
        pushed = [self._push(message) for message in messages]
        return [identifier for identifier in pushed if identifier]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self._check()
        under_way = {reply.metadata.reply_to_message_id for reply in self._arriving}
        asked = set(message_ids) - under_way
        replies = self._state.get_message_res(asked, self._run.run_id) if asked else []
        self._state.delete_messages({reply.metadata.reply_to_message_id for reply in replies})
        ready = [reply for reply in replies if reply.has_error()]
        self._arriving.extend(reply for reply in replies if not reply.has_error())
        return ready + self._complete()

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        raise FederationError("the rounds send and collect by themselves; see server/exchange.py")

    def _push(self, message: Message) -> str | None:
        """The message's id; None when its node was removed in the meantime."""
        sent = _Sent(self._site(message.metadata.dst_node_id), task_facts(message))
        self._envelopes.seal(message, sent.site)
        parts, run = take_apart(message), self._run.run_id
        session = self._state.start_session(run)
        stored, missing = self._state.store_message_and_object_tree(parts.head, parts.tree, session)
        if not stored:
            return None
        for identifier in missing:
            self._state.store_object(run, session, identifier, parts.content(identifier))
        self._sent[message.metadata.message_id] = sent
        return message.metadata.message_id

    def _site(self, node: int) -> str:
        """The registry's name for the node; "" when it was removed."""
        return next((info.name for info in self._state.get_node_info(node_ids=[node])), "")

    def _complete(self) -> list[Message]:
        """The replies all of whose objects are there; the others go on arriving."""
        done, waiting = [], []
        for reply in self._arriving:
            message = self._assemble(reply)
            if message is None:
                waiting.append(reply)
            else:
                self._parts.pop(reply.metadata.message_id, None)
                self._open(message)
                done.append(message)
        self._arriving = waiting
        return done

    def _open(self, reply: Message) -> None:
        """Take the envelope off a reply, in the name of the node that the message went to."""
        sent = self._sent.pop(reply.metadata.reply_to_message_id)
        if reply.has_content():
            self._envelopes.open(reply, sent.site, sent.about)

    def _assemble(self, reply: Message) -> Message | None:
        """The reply with its content, an error in its place, or None while it is coming.

        Its metadata are those that the SuperLink checked, not those inside the content.
        """
        identifier = reply.metadata.message_id
        try:
            contents = self._contents(identifier)
            if contents is None:
                return None
            message = put_together(identifier, contents)
            content = message.content if message.has_content() else None
        except Exception as error:  # whatever a hostile site sends, the round goes on
            return make_message(metadata=reply.metadata, error=_unreadable(error))
        self._state.object_store.delete(identifier)
        if content is None:
            return make_message(metadata=reply.metadata, error=_unreadable(None))
        return make_message(metadata=reply.metadata, content=content)

    def _contents(self, identifier: str) -> dict[str, bytes] | None:
        """The reply's objects by their id; None unless all are there."""
        if identifier not in self._parts:  # a query for each part, and the same at every look
            tree = self._state.object_store.get_object_tree(identifier)
            # The last ones first: a site sends them last, and they are small.
            self._parts[identifier] = identifiers(tree)[::-1]
        contents = {}
        for part in self._parts[identifier]:
            content = self._state.get_object(self._run.run_id, part)
            if not content:
                return None
            contents[part] = content
        return contents

    def _check(self) -> None:
        if self._halt.is_set():
            raise StoppedError


def _unreadable(error: Exception | None) -> Error:
    said = "no message" if error is None else type(error).__name__
    return Error(UNREADABLE, f"the reply cannot be read ({said})")
