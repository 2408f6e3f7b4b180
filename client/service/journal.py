"""What became of each study at this site.

The node's log gets one line for each change. A file holds the last state of each study, for
`site status` and `site studies`. The server learns nothing from either.
"""

import json
import logging
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from flwr.app import Message

from client.home import SiteHome
from client.lab_log import text_of
from client.site import open_site
from common.config.study import Study
from common.errors import HemofedError
from common.files import write_text
from common.wire.messages import KEYS, STATISTICS, WITHDRAW, Task, read_absence, read_refusal
from common.wire.reasons import Reason
from common.wire.reply_status import ReplyStatus

_MOST = 200
"""How many studies the file holds: those whose state changed last."""
_log = logging.getLogger("hemofed.site")


@dataclass(frozen=True)
class StudyNote:
    """The last state of a study at this site."""

    study: str
    """The study's name."""
    state: str
    """came, ready, trains, completed, withdrawn, refused: REASON, or sits out: REASON."""
    round: int
    """The last round that this site answered; 0 before the first."""
    rounds: int
    """The number of rounds that the study plans."""
    since: str
    """When the study came into this state: UTC, ISO 8601."""


class Journal:
    """The journal of the node that serves `home`; it continues the file that it finds there."""

    def __init__(self, home: SiteHome) -> None:
        self._home = home
        self._notes = read_notes(home.studies)
        self._warned = ""

    def note(self, message: Message, reply: Message) -> None:
        """Log and store what `reply` changes for the study that `message` asks about.

        A message without a readable task changes nothing, and neither does one that the server did
        not order; the log gets the error of the latter, once while it repeats.
        """
        said = None if reply.has_error() else read_refusal(reply) or read_absence(reply)
        if said and said.reason is Reason.NOT_ORDERED:  # whoever sent it, it is none of our studies
            self._warn(said)
            return
        try:
            task = Task.read(message)
        except HemofedError:  # no task, or not a task of hemofed; the lab's log has the error
            return
        study, kind = task.study, message.metadata.message_type
        if study.digest not in self._notes and kind != WITHDRAW:
            self._keep(study, "came", 0, "came from the server")
        self._answered(task, kind, said, failed=reply.has_error())

    def _warn(self, said: ReplyStatus) -> None:
        if said.reference != self._warned:
            self._warned = said.reference
            _log.error("[%s] %s", said.reference, self._text(said))

    def _answered(self, task: Task, kind: str, said: ReplyStatus | None, failed: bool) -> None:
        study, before = task.study, self._notes.get(task.study.digest)
        round = before.round if before else 0
        if kind == WITHDRAW:
            self._keep(study, "withdrawn", round, "was withdrawn by the operator")
        elif failed:
            self._keep(study, "refused: internal", round, "an answer failed; see its log")
        elif kind == "evaluate" and task.split == "test":
            tested = f"this site did not test its model ({said.reason})" if said else "and tested"
            self._keep(study, "completed", round, f"completed, {tested}")
        elif kind in ("evaluate", KEYS, STATISTICS) and (
            said is None or said.reason is Reason.METRICS
        ):
            return  # part of a round, or before the first
        elif said is not None:
            self._keep(study, said.said(""), round, self._why(study, said))
        elif kind == "train":
            number = f"round {task.round} of {study.rounds}"
            self._keep(study, "trains", task.round, f"{number} is answered")
        else:
            self._keep(study, "ready", round, "this site is ready, and waits for the others")

    def _why(self, study: Study, said: ReplyStatus) -> str:
        """Why the site does not train, and what a person can do about it."""
        if not said.reference:
            return str(said)
        command = f"`hemofed site approve {self._home.folder} {study.name}`"
        if said.reason is Reason.NOT_APPROVED:
            return f"waits for an approval; read it and decide with {command}"
        if said.reason is Reason.DECLINED:
            return f"was declined here, and the server is told so; {command} decides anew"
        return f"refused [{said.reference}]: {self._text(said)}"

    def _text(self, said: ReplyStatus) -> str:
        """The text under the reference in the lab's log, or the reason where there is none."""
        return text_of(open_site(self._home.site_file).log, said.reference) or str(said.reason)

    def _keep(self, study: Study, state: str, round: int, words: str) -> None:
        """Log and store the state, if the state or the round differs from what is stored."""
        before = self._notes.get(study.digest)
        if before and (before.state, before.round) == (state, round):
            return
        _log.info("study %s (%.12s): %s", study.name, study.digest, words)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._notes.pop(study.digest, None)
        self._notes[study.digest] = StudyNote(study.name, state, round, study.rounds, now)
        self._notes = dict(list(self._notes.items())[-_MOST:])
        content = {digest: asdict(note) for digest, note in self._notes.items()}
        with suppress(OSError):  # the node reports a full disk; the journal must not stop answers
            write_text(self._home.studies, json.dumps(content))


def read_notes(path: Path) -> dict[str, StudyNote]:
    """Map each study's digest to its last state; {} when the file is missing or unreadable."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {digest: StudyNote(**note) for digest, note in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
