"""The rounds' process: runs the wanted studies, one after the other, with the ServerApp.

The service supervises this process. If it dies in the middle of a round, its successor finds the
study still wanted and continues from the last checkpoint, as a new Flower run. While the disk has
no room for a round, none is started, because a round that is cut off costs the sites privacy for
nothing. Modules that need torch are imported only once a study is wanted, since most of the time
none is.
"""

import argparse
import gc
import logging
import sys
from contextlib import suppress
from pathlib import Path
from threading import Event

from flwr.app import Context, RecordDict

from common.audit.log import AuditLog
from common.config.study import Study
from common.disk_space import LEAST, NoRoomError, check_room, lack_of_room
from common.errors import HemofedError
from common.files import file_digest
from common.process_hardening import keep_secrets, told_to_stop
from common.untrusted_text import log_plainly
from common.wire.flower_internals import SUPERLINK_NODE_ID
from common.wire.reply_status import ReplyStatus
from server.flower.grid import StateGrid, StoppedError
from server.flower.internals import LinkState
from server.flower.link_state import open_state
from server.flower.message_audit import Envelopes
from server.flower.run import FlowerRun, end_unfinished
from server.home import ServerHome
from server.rounds.readiness import wait_until_ready
from server.studies.progress import StudyProgress
from server.studies.store import Stored, next_wanted, stored_studies
from server.studies.withdrawals import Withdrawals

_IDLE_SECONDS, _ROOM_SECONDS = 0.5, 2.0
_log = logging.getLogger("hemofed.rounds")


class RoundsProcess:
    """Runs the wanted studies of the server home until `halt` is set.

    A round under way notices `halt` the next time it looks for replies.
    """

    def __init__(self, home: Path, state: LinkState, log: AuditLog, halt: Event) -> None:
        self._home = home
        self._state = state
        self._audit = log
        self._halt = halt
        self._withdrawals = Withdrawals(home, state, log, halt)

    def serve(self) -> None:
        """Run wanted studies until `halt` is set."""
        end_unfinished(self._state)
        while not self._halt.is_set():
            with suppress(StoppedError):
                self._withdrawals.look()
            wanted = next_wanted(stored_studies(self._home))
            if wanted:
                self._run(wanted)
            else:
                self._halt.wait(_IDLE_SECONDS)

    def _run(self, stored: Stored) -> None:
        """Run one study until it ends, is stopped or fails; after a crash it is still wanted."""
        needed, finish = LEAST, stored.wanted == "finish"
        try:
            study = stored.study()
            needed = self._check_room(study)
            self._rounds(stored, study, finish)
            stored.want("stop")
            self._end(stored, "finished" if finish else "completed")
        except StoppedError:
            if not self._halt.is_set() and stored.wanted != "withdraw":
                self._end(stored, "stopped")
        except NoRoomError as error:
            self._wait_for_room(stored, str(error))
        except Exception as error:
            # A full disk shows in many ways: as errors of SQLite, or as missing replies.
            lack = lack_of_room(self._home, needed)
            if lack:
                self._wait_for_room(stored, lack)
            elif isinstance(error, HemofedError):
                self._fail(stored, str(error))
            else:
                raise

    def _rounds(self, stored: Stored, study: Study, finish: bool) -> None:
        """Run the study's rounds, or with `finish` only test and write the model it has."""
        from common.models.released import MODEL
        from server.app import server_app

        # What torch brings along stays; to look through it for garbage takes a tenth of a round.
        gc.collect()
        gc.freeze()
        with FlowerRun(self._state) as flower:
            envelopes = Envelopes(self._home, self._audit)
            grid = StateGrid(self._state, flower.run, self._halt, envelopes)
            progress = StudyProgress(
                stored, study, self._audit, lambda: self._may_go_on(stored, study)
            )
            if not finish:
                self._wait_for_sites(stored, progress, grid)
                self._audit.append("study_started", study=study.name, digest=study.digest)
                _log.info("%s: starts", stored.folder.name)
            config: dict[str, bool | float | int | str] = {
                "study": str(stored.file),
                "out": str(stored.out),
                "finish": finish,
            }
            context = Context(flower.run.run_id, SUPERLINK_NODE_ID, {}, RecordDict(), config)
            server_app(progress)(grid, context)
        model = file_digest(stored.out / MODEL)
        self._audit.append("exported", study=study.name, digest=study.digest, model=model)

    def _check_room(self, study: Study) -> int:
        """Return the bytes that a round needs. Raises NoRoomError if the disk has fewer."""
        from server.studies.disk_space import round_bytes

        needed = round_bytes(study)
        check_room(self._home, needed)
        return needed

    def _wait_for_room(self, stored: Stored, lack: str) -> None:
        """Report the lack of room if that can be written, and pause; the study stays wanted."""
        if stored.said()["state"] != (waiting := "waiting for room"):
            _log.error("%s: waits and goes on by itself: %s", stored.folder.name, lack)
        with suppress(OSError):
            stored.say(waiting, reason=lack)
        self._halt.wait(_ROOM_SECONDS)

    def _fail(self, stored: Stored, reason: str) -> None:
        _log.error("%s: %s", stored.folder.name, reason)
        stored.want("stop")
        self._end(stored, "failed", reason=reason)

    def _wait_for_sites(self, stored: Stored, progress: StudyProgress, grid: StateGrid) -> None:
        def tell(sites: dict[str, ReplyStatus]) -> None:
            progress.not_ready(sites)
            self._give_up_if_unwanted(stored)

        wait_until_ready(stored.proposal(), grid, tell, self._halt)
        self._give_up_if_unwanted(stored)

    def _may_go_on(self, stored: Stored, study: Study) -> None:
        """Raise StoppedError if the study is no longer wanted, and NoRoomError if a round has no
        room on the disk."""
        self._give_up_if_unwanted(stored)
        self._check_room(study)

    def _give_up_if_unwanted(self, stored: Stored) -> None:
        if stored.wanted != "run" or self._halt.is_set():
            raise StoppedError

    def _end(self, stored: Stored, state: str, **details: str) -> None:
        _log.info("%s: %s", stored.folder.name, state)
        stored.say(state, **details)
        self._audit.append("study_ended", study=stored.folder.name, state=state)


def main() -> None:
    """Run `python -m server.studies.runner HOME`, which the service starts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("home", type=Path)
    home = parser.parse_args().home
    keep_secrets()
    log_plainly()
    halt = told_to_stop()
    try:
        check_room(home)
        with ServerHome(home).open_audit() as log:
            RoundsProcess(home, open_state(home), log, halt).serve()
    except HemofedError as error:
        _log.error("%s", error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
