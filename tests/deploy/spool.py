"""Messages between a server's rounds and its labs' nodes as files, which outlive both ends.

It stands for the listener and its database. A question is handed out once; the message of a run
that is over is dropped; what a node was killed with before it had noted it is never answered.
"""

import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from flwr.app import Error, Message

from client.fleet_api.fleet_client import FleetLink, RunOverError
from common.wire.bundle import BUNDLE_HASH
from common.wire.envelope import take_off
from common.wire.flower_internals import (
    SUPERLINK_NODE_ID,
    ErrorCode,
    ProtoMessage,
    PullMessagesResponse,
    Run,
    TaskIdentity,
    message_from_proto,
    message_to_proto,
)
from common.wire.messages import Task, task_facts
from server.flower.base_grid import RunGrid
from server.flower.message_audit import Envelopes

_HOLD_SECONDS, _LOOK_SECONDS = 0.5, 0.02


@dataclass(frozen=True)
class Answered:
    """An answer that left a lab."""

    site: str
    kind: str
    task: Task
    reply: Message


class Spool:
    """The folder of the messages of all sites."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, Answered | None] = {}

    def begin_run(self) -> int:
        """Begin another run and return its number; what was not taken of the one before is gone."""
        for question in self._folder.glob("*/new/*"):
            question.unlink(missing_ok=True)
        number = self.run + 1
        _write(self._folder / "run", str(number).encode())
        return number

    @property
    def run(self) -> int:
        """The run that is under way; 0 before the first."""
        path = self._folder / "run"
        return int(path.read_text()) if path.exists() else 0

    def ask(self, site: str, question: Message) -> None:
        new = self._new(site)
        new.mkdir(parents=True, exist_ok=True)
        identifier = question.metadata.message_id
        draft = self._of(site, identifier, "draft")
        draft.write_bytes(_bytes(question))
        draft.replace(new / identifier)

    def take(self, site: str) -> bytes | None:
        """The next question for the site, as it was sent; None: there is none yet."""
        for path in sorted(self._new(site).glob("*")):
            try:
                return path.replace(self._of(site, path.name, "taken")).read_bytes()
            except FileNotFoundError:  # another run began
                continue
        return None

    def answer(self, site: str, reply: Message) -> None:
        identifier = reply.metadata.reply_to_message_id
        before = len(list((self._folder / site).glob(f"{identifier}.answer*")))
        _write(self._of(site, identifier, f"answer{before}"), _bytes(reply))

    def answered(self, site: str, identifier: str) -> Message | None:
        """The first answer to a question."""
        path = self._of(site, identifier, "answer0")
        return _message(path.read_bytes()) if path.exists() else None

    def give_up(self, site: str) -> None:
        """Time passes: what the site has taken and does not answer any more is late."""
        for taken in (self._folder / site).glob("*.taken"):
            if self.answered(site, taken.stem) is None:
                late = Error(ErrorCode.REPLY_MESSAGE_UNAVAILABLE, "late")
                self.answer(site, Message(late, reply_to=_message(taken.read_bytes())))

    def all_questions(self) -> Iterator[tuple[str, str, Task]]:
        """(site, type, task) of every question that a lab took, in whatever run."""
        for path in self._folder.glob("*/*.taken"):
            asked = _message(path.read_bytes())
            yield path.parent.name, asked.metadata.message_type, Task.read(asked)

    def all_answers(self) -> list[Answered]:
        """Every answer that left a lab, to whomever; one that was read is not read again."""
        paths = sorted(self._folder.glob("*/*.answer*"))
        for path in paths:
            if path not in self._read:
                self._read[path] = _answered(path)
        return [one for path in paths if (one := self._read[path])]

    def _new(self, site: str) -> Path:
        """The folder of its questions alone, for whoever looks all the time."""
        return self._folder / site / "new"

    def _of(self, site: str, identifier: str, what: str) -> Path:
        return self._folder / site / f"{identifier}.{what}"


class SpoolGrid(RunGrid):
    """The rounds' end; all sites are always connected."""

    def __init__(self, spool: Spool, sites: Collection[str], envelopes: Envelopes) -> None:
        super().__init__(Run.create_empty(spool.begin_run()))
        self._spool, self._envelopes = spool, envelopes
        self._sites = dict(enumerate(sites, start=SUPERLINK_NODE_ID + 1))
        self._sent: dict[str, tuple[str, dict[str, str | int] | None]] = {}
        TaskIdentity.run_id, TaskIdentity.task_id = self.run.run_id, 1
        TaskIdentity.node_id = SUPERLINK_NODE_ID

    def get_node_ids(self) -> Iterable[int]:
        return list(self._sites)

    def site_names(self) -> dict[int, str]:
        return self._sites

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        for message in messages:
            site, about = self._sites[message.metadata.dst_node_id], task_facts(message)
            self._envelopes.seal(message, site)
            identifier = f"{self.run.run_id:04d}-{len(self._sent):04d}"
            message.metadata.__dict__["_message_id"] = identifier
            self._sent[identifier] = site, about
            self._spool.ask(site, message)
            yield identifier

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        for identifier in message_ids:
            site, about = self._sent[identifier]
            reply = self._spool.answered(site, identifier)
            if reply is not None:
                if reply.has_content():
                    self._envelopes.open(reply, site, about)
                yield reply

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        raise AssertionError("not used")


class SpoolLink(FleetLink):
    """A node's end."""

    def __init__(self, spool: Spool, site: str, halt: Event) -> None:
        self._spool, self._site, self._halt = spool, site, halt
        self._held, self._fetched = {}, {}

    def connect(self, memory: Path) -> bool:
        return True

    def leave(self) -> None: ...

    def pull(self) -> PullMessagesResponse | None:
        end = time.monotonic() + _HOLD_SECONDS
        while time.monotonic() < end and not self._halt.is_set():
            taken = self._taken()
            if taken is not None:
                return PullMessagesResponse(messages_list=[ProtoMessage.FromString(taken)])
            self._halt.wait(_LOOK_SECONDS)
        return None

    def _taken(self) -> bytes | None:
        return self._spool.take(self._site)

    def fetch(self, pulled: PullMessagesResponse) -> Message:
        message = message_from_proto(pulled.messages_list[0])
        self._check(message)
        return message

    def bundle_hash(self, run: int) -> str:
        return BUNDLE_HASH

    def push(self, reply: Message) -> None:
        self._check(reply)
        self._spool.answer(self._site, reply)

    def _check(self, message: Message) -> None:
        if message.metadata.run_id != self._spool.run:
            raise RunOverError


def _answered(path: Path) -> Answered | None:
    """The answer in a file; None for the note that it is late."""
    reply, asked = (_message(one.read_bytes()) for one in (path, path.with_suffix(".taken")))
    if not reply.has_content():
        return None
    take_off(reply)
    take_off(asked)
    return Answered(path.parent.name, asked.metadata.message_type, Task.read(asked), reply)


def _write(path: Path, content: bytes) -> None:
    """Whole or not there; one step."""
    draft = path.with_suffix(".draft")
    draft.write_bytes(content)
    draft.replace(path)


def _bytes(message: Message) -> bytes:
    if message.has_content():
        for record in message.content.array_records.values():
            for array in record.values():
                array.data = bytes(array.data)  # a view of what a runner sent
    return message_to_proto(message).SerializeToString()


def _message(content: bytes) -> Message:
    return message_from_proto(ProtoMessage.FromString(content))
