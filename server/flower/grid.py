"""The Grid of a deployment, which works directly on the SuperLink's state."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from threading import Event
from typing import cast

from flwr.app import Error, Message
from sqlalchemy.exc import SQLAlchemyError

from common.errors import FederationError
from common.wire.flower_internals import NodeStatus, Run, make_message
from common.wire.flower_objects import Buffer, identifiers, put_together, take_apart
from common.wire.messages import task_facts
from common.wire.reply_status import UNREADABLE
from server.flower.arrivals import Arrivals
from server.flower.base_grid import RunGrid
from server.flower.body_store import BodyStore, store_object
from server.flower.internals import LinkState
from server.flower.message_audit import Envelopes


class StoppedError(Exception):
    """The service was asked to stop; the round under way is given up."""


@dataclass(frozen=True)
class _Sent:
    """A message that was sent and has no reply yet."""

    head: Message
    """The message without its content."""
    site: str
    """The site that it went to."""
    about: dict[str, str | int] | None
    """What the audit log says about it; None if it is no task."""


class StateGrid(RunGrid):
    """The Grid of one run.

    It puts messages into envelopes and takes the envelopes off the replies. A reply is handed out
    once all of it has come, so that a site which stops in the middle of an upload holds nobody up.
    A reply that cannot be read becomes an error of its site alone. Objects that nobody will read
    are deleted.
    """

    def __init__(self, state: LinkState, run: Run, halt: Event, envelopes: Envelopes) -> None:
        """halt: once set, every method that reads or sends raises StoppedError."""
        super().__init__(run)
        self._state = state
        self._halt = halt
        self._envelopes = envelopes
        self._sent: dict[str, _Sent] = {}
        self._arriving: list[Message] = []
        self._parts: dict[str, list[str]] = {}
        self._arrivals = Arrivals(cast(BodyStore, state.object_store), run.run_id)

    def get_node_ids(self) -> Iterable[int]:
        return list(self.site_names())

    def site_names(self) -> dict[int, str]:
        """Return node id -> site for the connected nodes.

        The name is the one that the registry has for the node's key.
        """
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
        thorough = self._arrivals.is_time()
        replies = self._heads(asked) if asked and (thorough or self._arrivals.any_new()) else []
        self._drop({reply.metadata.reply_to_message_id for reply in replies})
        ready = [reply for reply in replies if reply.has_error()]
        for reply in ready:
            self._state.object_store.delete(reply.metadata.message_id)
            self._sent.pop(reply.metadata.reply_to_message_id, None)
        self._arriving.extend(reply for reply in replies if not reply.has_error())
        arriving = {reply.metadata.message_id for reply in self._arriving}
        return ready + self._complete(arriving if thorough else self._arrivals.whole(arriving))

    def withdraw(self, message_ids: Collection[str]) -> None:
        """Drop these messages, and the replies to them that have come or will come."""
        asked = set(message_ids)
        began = [one for one in self._arriving if one.metadata.reply_to_message_id in asked]
        self._arriving = [one for one in self._arriving if one not in began]
        unseen = asked - {reply.metadata.reply_to_message_id for reply in began}
        for reply in began + (self._heads(unseen) if unseen else []):
            self._state.object_store.delete(reply.metadata.message_id)
            self._parts.pop(reply.metadata.message_id, None)
        self._drop(asked)
        for identifier in asked:
            self._sent.pop(identifier, None)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        raise FederationError(
            "the rounds send and collect by themselves; see server/rounds/messaging.py"
        )

    def _push(self, message: Message) -> str | None:
        """Send the message and return its id, or None if its node was removed in the meantime."""
        site, about = self._site(message.metadata.dst_node_id), task_facts(message)
        self._envelopes.seal(message, site)
        parts, run = take_apart(message), self._run.run_id
        session = self._state.start_session(run)
        stored, missing = self._state.store_message_and_object_tree(parts.head, parts.tree, session)
        if not stored:
            return None
        for identifier in missing:
            content = parts.content(identifier)
            store_object(self._state, run, session, identifier, content)
        self._sent[message.metadata.message_id] = _Sent(parts.head, site, about)
        return message.metadata.message_id

    def _site(self, node: int) -> str:
        """Return the registry's name for the node; "" if the node was removed."""
        return next((info.name for info in self._state.get_node_info(node_ids=[node])), "")

    def _heads(self, asked: set[str]) -> list[Message]:
        """Return the replies that came, without their contents; an error for an unreadable one.

        One query reads all of them. If it fails, each is read by itself, because one that cannot be
        read would hide the others.
        """
        try:
            return self._state.get_message_res(set(asked), self._run.run_id)
        except SQLAlchemyError:  # a fault of the database, not of its content
            raise
        except Exception:
            return [reply for identifier in sorted(asked) for reply in self._head(identifier)]

    def _head(self, identifier: str) -> list[Message]:
        try:
            return self._state.get_message_res({identifier}, self._run.run_id)
        except SQLAlchemyError:
            raise
        except Exception as error:
            return [Message(_unreadable(error), reply_to=self._sent[identifier].head)]

    def _drop(self, message_ids: set[str]) -> None:
        """Delete messages, the heads of their replies, and the objects that no site fetched."""
        self._state.delete_messages(message_ids)
        for identifier in message_ids:
            self._state.object_store.delete(identifier)

    def _complete(self, looked_at: Collection[str]) -> list[Message]:
        """Return those replies of `looked_at` whose objects have all come; the others keep
        arriving."""
        done, waiting = [], []
        for reply in self._arriving:
            known = reply.metadata.message_id in looked_at
            message = self._assemble(reply) if known else None
            if message is None:
                waiting.append(reply)
            else:
                self._parts.pop(reply.metadata.message_id, None)
                self._open(message)
                done.append(message)
        self._arriving = waiting
        return done

    def _open(self, reply: Message) -> None:
        """Take the envelope off a reply, as one from the site that the message went to."""
        sent = self._sent.pop(reply.metadata.reply_to_message_id)
        if reply.has_content():
            self._envelopes.open(reply, sent.site, sent.about)

    def _assemble(self, reply: Message) -> Message | None:
        """Return the reply with its content, or an error if it cannot be read; None if it is still
        coming.

        Its metadata are those that the SuperLink checked, not those inside the content.
        """
        identifier = reply.metadata.message_id
        try:
            contents = self._contents(identifier)
            if contents is None:
                return None
            message = make_message(reply.metadata, put_together(identifier, contents).content)
        except SQLAlchemyError:
            raise
        except Exception as error:  # whatever a hostile site sends, the round continues
            message = make_message(reply.metadata, error=_unreadable(error))
        self._state.object_store.delete(identifier)
        return message

    def _contents(self, identifier: str) -> dict[str, Buffer] | None:
        """Return object id -> content of the reply, or None while some of its objects are to come.

        Raises:
            LookupError: one of them is lost.
        """
        if identifier not in self._parts:  # costs a query per part and gives the same every time
            tree = self._state.object_store.get_object_tree(identifier)
            # The last parts are looked up first: a site sends them last, and they are small.
            self._parts[identifier] = identifiers(tree)[::-1]
        contents: dict[str, Buffer] = {}
        for part in self._parts[identifier]:
            content = self._state.get_object(self._run.run_id, part)
            if content is None:
                raise LookupError(f"object {part:.12} is lost")  # it will not come any more
            if not content:
                return None
            contents[part] = content
        return contents

    def _check(self) -> None:
        if self._halt.is_set():
            raise StoppedError


def _unreadable(error: Exception) -> Error:
    return Error(UNREADABLE, f"the reply cannot be read ({type(error).__name__})")
