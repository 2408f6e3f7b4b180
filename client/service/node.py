"""The site's node: hands each message of the server to the runner, and the reply back.

Stock Flower unpacks and runs the code that the server ships. This node never fetches code. It
checks that the run carries none, and hands the message to the process of the installed ClientApp.
"""

import json
import logging
import os
import time
from pathlib import Path
from threading import Event

from flwr.app import Message
from google.protobuf.message import DecodeError

from client.fleet_api.fleet_client import FleetLink, NoMessageError, RunOverError
from client.home import SiteHome
from client.lab_log import LabLog
from client.service.journal import Journal
from client.service.message_audit import MessageAudit
from client.service.worker import Runner, RunnerDiedError
from client.site import open_site
from common.disk_space import check_room
from common.errors import FederationError, HemofedError, PrivacyError
from common.files import replacing, write_text
from common.log_file import keep_short
from common.wire.bundle import BUNDLE_HASH
from common.wire.flower_internals import PullMessagesResponse
from common.wire.messages import WITHDRAW, absence_content, name_content, refusal_content
from common.wire.reasons import Reason

_LOOK_SECONDS = 0.1
"""Seconds between two questions for messages; the server holds each question for some seconds."""
_log = logging.getLogger("hemofed.site")


class SuperNode:
    """One site's node. `link` must be connected; `serve` ends when `halt` is set."""

    def __init__(
        self, home: SiteHome, link: FleetLink, runner: Runner, record: MessageAudit, halt: Event
    ) -> None:
        self._home = home
        self._link = link
        self._runner = runner
        self._record = record
        self._halt = halt
        self._answered = 0
        self._told: dict[str, int | None] = {}
        self._journal = Journal(home)
        self._log = LabLog()
        self._sound_runs: set[int] = set()

    def serve(self) -> None:
        """Answer messages until `halt` is set.

        The node takes no message while the disk lacks room for the answer.

        Raises:
            ShutOutError: the server does not know this site any more.
            FederationError: the server and this site do not accept each other, the audit log
                cannot be written, or this site's disk is full.
            HaltedError: `halt` is set while the server does not answer.
        """
        self._again()
        while not self._halt.is_set():
            check_room(self._home.folder)
            keep_short(self._home.runner_log)
            self._tell()
            pulled = self._link.pull()
            if pulled is not None:
                _write(self._home.inflight, pulled.SerializeToString())
                self._handle(pulled)
            else:
                self._halt.wait(_LOOK_SECONDS)

    def _again(self) -> None:
        """Answer the message that a predecessor was answering when it was killed.

        The site does not pay twice: the ledger refuses a second debit for the same round, and the
        server learns at once that this site sits the round out.
        """
        if not self._home.inflight.exists():
            return
        try:
            pulled = PullMessagesResponse.FromString(self._home.inflight.read_bytes())
        except DecodeError:
            _log.error("%s: is damaged; what it asked is not answered", self._home.inflight)
            self._home.inflight.unlink()
        else:
            self._handle(pulled)

    def _handle(self, pulled: PullMessagesResponse) -> None:
        try:
            message = self._link.fetch(pulled)
            reply = self._reply(message)
            if self._halt.is_set():
                return
            self._record.leaves(message, reply)
            self._link.push(reply)
            self._journal.note(message, reply)
            self._answered += 1
        except RunOverError:
            _log.warning("the server waits for this answer no more, or the run is over; dropped")
        except NoMessageError as error:
            _log.error("%s; not answered", error)
            self._record.unreadable()
        self._home.inflight.unlink(missing_ok=True)

    def _reply(self, message: Message) -> Message:
        """The ClientApp's reply, or an absence while the site is paused.

        The node refuses a message that the server did not order, or whose run carries code, before
        the runner sees it. The text of the error stays in this site's log.

        When the pause comes during the computation, the node drops the answer, and its cost stays
        spent: a node that held the answer back would make the whole federation wait until the
        round's deadline.
        """
        try:
            self._record.came(message)
            self._link.keep()
            if message.metadata.message_type == WITHDRAW:
                return Message(name_content(self._record.site), reply_to=message)
            reply = None if self._home.paused.exists() else self._computed(message)
        except PrivacyError as error:
            return self._refusal(message, error)
        if reply is None or self._home.paused.exists():
            return Message(absence_content(Reason.PAUSED), reply_to=message)
        return reply

    def _computed(self, message: Message) -> Message:
        """The ClientApp's reply, or a refusal if its process died.

        Raises PrivacyError when the run carries code.
        """
        self._check_bundle(message.metadata.run_id)
        try:
            return self._run(message)
        except RunnerDiedError as death:
            return self._refusal(message, FederationError(str(death), Reason.ENDED))

    def _run(self, message: Message) -> Message:
        """The runner's reply; after a runner dies, a second one tries while the server still waits.

        Nothing had left the site when the first one died. Where it had already paid, the ledger
        refuses the second one.

        Raises RunnerDiedError when the second one dies too, no time is left, or `halt` is set.
        """
        end = message.metadata.created_at + message.metadata.ttl
        try:
            return self._runner.answer(message, max(end - time.time(), 1.0), self._halt)
        except RunnerDiedError as death:
            left = end - time.time()
            if self._halt.is_set() or left <= 0:
                raise
            _log.error("%s; once more", death)
            return self._runner.answer(message, left, self._halt)

    def _refusal(self, message: Message, error: HemofedError) -> Message:
        """A reply that refuses the message; the text of the error goes to this site's log."""
        path, kind = open_site(self._home.site_file).log, message.metadata.message_type
        reference = self._log.note(path, kind, error)
        return Message(refusal_content(error.reason, reference), reply_to=message)

    def _check_bundle(self, run: int) -> None:
        """Raise PrivacyError when the run carries code. The node never fetches that code."""
        if run in self._sound_runs:
            return
        carried = self._link.bundle_hash(run)
        if carried != BUNDLE_HASH:
            raise PrivacyError(
                f"run {run}: comes with the code bundle {carried:.12}; this site runs only what is "
                "installed here. A server of another hemofed version, or not a hemofed server",
                Reason.OTHER_VERSION,
            )
        self._sound_runs.add(run)

    def _tell(self) -> None:
        """Write the status file if its content has changed."""
        content = {
            "pid": os.getpid(),
            "runner": self._runner.pid,
            "answered": self._answered,
            "paused": self._home.paused.exists(),
        }
        if content != self._told:
            write_text(self._home.status, json.dumps(content))
            self._told = content


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)
