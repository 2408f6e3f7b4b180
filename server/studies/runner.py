"""Runs the studies that are wanted, one after the other, with the installed ServerApp.

A part that the service supervises. When it dies in the middle of a round, its successor finds the
study still wanted and goes on from the last checkpoint, as a new Flower run. While the disk has no
room for a round none is begun: one that is cut off costs the sites privacy for nothing.
"""

import argparse
import logging
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Event

from flwr.app import Context, RecordDict

from common.audit.entry import loggable
from common.audit.log import AuditLog
from common.config.study import Study
from common.disk_space import LEAST, NoRoomError, check_room, lack_of_room
from common.errors import HemofedError
from common.files import file_digest
from common.identity import load_signing_key
from common.models.released import MODEL
from common.process_hardening import keep_secrets, told_to_stop
from common.untrusted_text import log_plainly
from common.wire.flower_internals import SUPERLINK_NODE_ID
from common.wire.reply_status import ASKED, ReplyStatus
from server.app import server_app
from server.flower.grid import StateGrid, StoppedError
from server.flower.internals import LinkState
from server.flower.link_state import open_state
from server.flower.message_audit import Envelopes
from server.flower.run import FlowerRun, end_unfinished
from server.rounds.observer import Notes
from server.rounds.readiness import wait_until_ready
from server.rounds.record import RoundRecord
from server.studies.disk_space import round_bytes
from server.studies.store import Stored, next_wanted, stored_studies
from server.studies.withdrawals import Withdrawals

_IDLE_SECONDS, _ROOM_SECONDS = 0.5, 2.0
_WAITING = "waiting for sites"
_log = logging.getLogger("hemofed.rounds")


def _reasons(statuses: Mapping[str, ReplyStatus]) -> dict[str, str]:
    """Site -> its own word for why it refuses or sits out, of those that said one."""
    return {site: status.reason.value for site, status in statuses.items() if status.reason}


class Runner:
    """The rounds' process. `halt` ends it at the next look at the sites."""

    def __init__(self, home: Path, state: LinkState, log: AuditLog, halt: Event) -> None:
        self._home = home
        self._state = state
        self._audit = log
        self._halt = halt
        self._withdrawals = Withdrawals(home, state, log, halt)

    def serve(self) -> None:
        """Run wanted studies until halted."""
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
        """Run one study to its end, its stop or its failure; a crash leaves it wanted."""
        needed, finish = LEAST, stored.wanted == "finish"
        try:
            study = stored.study()
            needed = round_bytes(study)
            check_room(self._home, needed)
            self._rounds(stored, study, finish)
            stored.want("stop")
            self._end(stored, "finished" if finish else "completed")
        except StoppedError:
            if not self._halt.is_set() and stored.wanted != "withdraw":
                self._end(stored, "stopped")
        except NoRoomError as error:
            self._wait_for_room(stored, str(error))
        except Exception as error:
            # A full disk fails in many ways, by errors of SQLite and by replies that do not come.
            lack = lack_of_room(self._home, needed)
            if lack:
                self._wait_for_room(stored, lack)
            elif isinstance(error, HemofedError):
                self._fail(stored, str(error))
            else:
                raise

    def _rounds(self, stored: Stored, study: Study, finish: bool) -> None:
        """finish: only test and write the model of the last whole round."""
        with FlowerRun(self._state) as flower:
            envelopes = Envelopes(self._home, self._audit)
            grid = StateGrid(self._state, flower.run, self._halt, envelopes)
            if not finish:
                wait_until_ready(
                    stored.proposal(), grid, lambda sites: self._waiting(stored, sites), self._halt
                )
                self._give_up_if_unwanted(stored)
                self._audit.append("study_started", study=study.name, digest=study.digest)
                _log.info("%s: starts", stored.folder.name)
            config: dict[str, bool | float | int | str] = {
                "study": str(stored.file),
                "out": str(stored.out),
                "finish": finish,
            }
            context = Context(flower.run.run_id, SUPERLINK_NODE_ID, {}, RecordDict(), config)
            notes = Notes(stored, study, self._audit)
            server_app(lambda record: self._after_round(stored, study, record), notes)(
                grid, context
            )
        model = file_digest(stored.out / MODEL)
        self._audit.append("exported", study=study.name, digest=study.digest, model=model)

    def _waiting(self, stored: Stored, sites: dict[str, ReplyStatus]) -> None:
        words = {site: str(said) for site, said in sites.items()}
        before = stored.said()
        if before["state"] != _WAITING:
            _log.info("%s: waits for sites", stored.folder.name)
        news = words.items() - before.get("sites", {}).items()
        if told := {site: word for site, word in sorted(news) if word != str(ASKED)}:
            _log.info("%s: %s", stored.folder.name, _list(told))
        stored.say(_WAITING, sites=words, reasons=_reasons(sites))
        self._give_up_if_unwanted(stored)

    def _after_round(self, stored: Stored, study: Study, record: RoundRecord) -> None:
        statuses = {site: one.status for site, one in record.sites.items()}
        sites = {site: str(status) for site, status in statuses.items()}
        number = {"round": record.round, "rounds": study.rounds}
        stored.say("running", **number, sites=sites, reasons=_reasons(statuses))
        _log.info(
            "%s: round %d of %d: %s",
            stored.folder.name,
            record.round,
            study.rounds,
            _list(sites),
        )
        self._audit.append("round", digest=study.digest, round=record.round, sites=record.good)
        self._audit_suspensions(study, record)
        self._give_up_if_unwanted(stored)
        check_room(self._home, round_bytes(study))

    def _wait_for_room(self, stored: Stored, lack: str) -> None:
        """Say what is lacking, as far as that can be written; the study stays wanted."""
        if stored.said()["state"] != (waiting := "waiting for room"):
            _log.error("%s: waits and goes on by itself: %s", stored.folder.name, lack)
        with suppress(OSError):
            stored.say(waiting, reason=lack)
        self._halt.wait(_ROOM_SECONDS)

    def _fail(self, stored: Stored, reason: str) -> None:
        _log.error("%s: %s", stored.folder.name, reason)
        stored.want("stop")
        self._end(stored, "failed", reason=reason)

    def _audit_suspensions(self, study: Study, record: RoundRecord) -> None:
        facts: dict[str, str | int] = {"digest": study.digest, "round": record.round}
        for site in record.lifted:
            self._audit.append("suspension_lifted", **facts, site=site)
        for site, one in record.sites.items():
            if one.suspended:
                why = loggable(str(one.status))
                self._audit.append("site_suspended", **facts, site=site, reason=why)

    def _give_up_if_unwanted(self, stored: Stored) -> None:
        if stored.wanted != "run" or self._halt.is_set():
            raise StoppedError

    def _end(self, stored: Stored, state: str, **details: str) -> None:
        _log.info("%s: %s", stored.folder.name, state)
        stored.say(state, **details)
        self._audit.append("study_ended", study=stored.folder.name, state=state)


def _list(sites: dict[str, str]) -> str:
    """`2 ok; c: paused`: those of like words together."""
    named: dict[str, list[str]] = {}
    for site, words in sites.items():
        named.setdefault(words, []).append(site)
    return "; ".join(f"{', '.join(names)}: {words}" for words, names in sorted(named.items()))


def main() -> None:
    """`python -m server.studies.runner HOME`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("home", type=Path)
    home = parser.parse_args().home
    keep_secrets()
    log_plainly()
    halt = told_to_stop()
    try:
        check_room(home)
        with AuditLog.open(home / "audit.jsonl", load_signing_key(home / "signing.key")) as log:
            Runner(home, open_state(home), log, halt).serve()
    except HemofedError as error:
        _log.error("%s", error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
