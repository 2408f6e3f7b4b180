"""Runs the studies that are wanted, one after the other, with the installed ServerApp.

A part that the service supervises. When it dies in the middle of a round, its successor finds the
study still wanted and goes on from the last checkpoint, as a new Flower run.
"""

import argparse
import logging
import signal
import time
from pathlib import Path
from threading import Event

from flwr.app import Context, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.server.superlink.linkstate import LinkState

from common.errors import HemofedError
from server.app import server_app
from server.flower_run import FlowerRun, end_unfinished
from server.grid import StateGrid, StoppedError
from server.rounds import Record
from server.state import open_state
from server.studies import Stored, stored_studies

_IDLE_SECONDS = 0.5
_log = logging.getLogger("hemofed.rounds")


class Runner:
    """The rounds' process. `halt` ends it at the next look at the sites."""

    def __init__(self, home: Path, state: LinkState, halt: Event) -> None:
        self._home = home
        self._state = state
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
            study = stored.study()
            stored.say("running", rounds=study.rounds)
            with FlowerRun(self._state) as flower:
                grid = StateGrid(self._state, flower.run, self._halt)
                config: dict[str, bool | float | int | str] = {
                    "study": str(stored.file),
                    "out": str(stored.out),
                }
                context = Context(flower.run.run_id, SUPERLINK_NODE_ID, {}, RecordDict(), config)
                server_app(lambda record: self._after_round(stored, record))(grid, context)
        except StoppedError:
            if not self._halt.is_set():
                stored.say("stopped", since=time.time())
            return
        except HemofedError as error:
            _log.error("%s: %s", stored.folder.name, error)
            stored.say("failed", reason=str(error), since=time.time())
        else:
            stored.say("completed", since=time.time())
        stored.want("stop")

    def _after_round(self, stored: Stored, record: Record) -> None:
        stored.say("running", round=record["round"], rounds=stored.study().rounds)
        if stored.wanted != "run" or self._halt.is_set():
            raise StoppedError


def main() -> None:
    """`python -m server.runner HOME`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("home", type=Path)
    home = parser.parse_args().home
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    halt = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: halt.set())
    Runner(home, open_state(home), halt).serve()


if __name__ == "__main__":
    main()
