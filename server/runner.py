"""Runs the studies that are wanted, one after the other, with the installed ServerApp.

A part that the service supervises. When it dies in the middle of a round, its successor finds the
study still wanted and goes on from the last checkpoint, as a new Flower run.
"""

import argparse
import logging
import signal
from pathlib import Path
from threading import Event

from flwr.app import Context, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.server.superlink.linkstate import LinkState

from common.audit_log import AuditLog
from common.config import Study
from common.errors import HemofedError
from common.files import file_digest
from common.identity import load_signing_key
from server.app import server_app
from server.envelopes import Envelopes
from server.flower_run import FlowerRun, end_unfinished
from server.grid import StateGrid, StoppedError
from server.readiness import wait_until_ready
from server.rounds import MODEL, Record
from server.state import open_state
from server.studies import Stored, stored_studies

_IDLE_SECONDS = 0.5
_KEPT = ("round", "rounds", "sites")
"""What is still said of a study that is over."""
_log = logging.getLogger("hemofed.rounds")


class Runner:
    """The rounds' process. `halt` ends it at the next look at the sites."""

    def __init__(self, home: Path, state: LinkState, log: AuditLog, halt: Event) -> None:
        self._home = home
        self._state = state
        self._audit = log
        self._halt = halt

    def serve(self) -> None:
        """Run wanted studies until halted."""
        end_unfinished(self._state)
        while not self._halt.is_set():
            wanted = [stored for stored in stored_studies(self._home) if stored.wanted == "run"]
            if wanted:
                self._run(wanted[0])
            else:
                self._halt.wait(_IDLE_SECONDS)

    def _run(self, stored: Stored) -> None:
        """Run one study to its end, its stop or its failure; a crash leaves it wanted."""
        try:
            self._rounds(stored, stored.study())
        except StoppedError:
            if not self._halt.is_set():
                self._end(stored, "stopped")
        except HemofedError as error:
            _log.error("%s: %s", stored.folder.name, error)
            stored.want("stop")
            self._end(stored, "failed", reason=str(error))
        else:
            stored.want("stop")
            self._end(stored, "completed")

    def _rounds(self, stored: Stored, study: Study) -> None:
        with FlowerRun(self._state) as flower:
            envelopes = Envelopes(self._home, self._audit)
            grid = StateGrid(self._state, flower.run, self._halt, envelopes)
            wait_until_ready(
                stored.proposal(), grid, lambda sites: self._waiting(stored, sites), self._halt
            )
            self._audit.append("study_started", study=study.name, digest=study.digest)
            config: dict[str, bool | float | int | str] = {
                "study": str(stored.file),
                "out": str(stored.out),
            }
            context = Context(flower.run.run_id, SUPERLINK_NODE_ID, {}, RecordDict(), config)
            server_app(lambda record: self._after_round(stored, study, record))(grid, context)
        model = file_digest(stored.out / MODEL)
        self._audit.append("exported", study=study.name, digest=study.digest, model=model)

    def _waiting(self, stored: Stored, sites: dict[str, str]) -> None:
        stored.say("waiting for sites", sites=sites)
        self._give_up_if_unwanted(stored)

    def _after_round(self, stored: Stored, study: Study, record: Record) -> None:
        sites = {site: entry["status"] for site, entry in record["sites"].items()}
        stored.say("running", round=record["round"], rounds=study.rounds, sites=sites)
        good = sum(status == "ok" for status in sites.values())
        self._audit.append("round", digest=study.digest, round=record["round"], sites=good)
        self._audit_suspensions(study, record)
        self._give_up_if_unwanted(stored)

    def _audit_suspensions(self, study: Study, record: Record) -> None:
        facts = {"digest": study.digest, "round": record["round"]}
        for site in record["lifted"]:
            self._audit.append("suspension_lifted", **facts, site=site)
        for site, entry in record["sites"].items():
            if entry.get("suspended"):
                self._audit.append("site_suspended", **facts, site=site, reason=entry["status"])

    def _give_up_if_unwanted(self, stored: Stored) -> None:
        if stored.wanted != "run" or self._halt.is_set():
            raise StoppedError

    def _end(self, stored: Stored, state: str, **details: str) -> None:
        kept = {key: value for key, value in stored.said().items() if key in _KEPT}
        stored.say(state, **kept, **details)
        self._audit.append("study_ended", study=stored.folder.name, state=state)


def main() -> None:
    """`python -m server.runner HOME`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("home", type=Path)
    home = parser.parse_args().home
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    halt = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: halt.set())
    with AuditLog.open(home / "audit.jsonl", load_signing_key(home / "signing.key")) as log:
        Runner(home, open_state(home), log, halt).serve()


if __name__ == "__main__":
    main()
