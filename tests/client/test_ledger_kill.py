"""Kill -9 at any moment of a round: never a release without its row, never a lost row.

A child process pays and then releases, round after round, as a site does; the parent kills it after
a random time, restarts it, and at the end compares the ledger with the releases. The child forks
from a small server process that has the modules imported, so that 200 kills take seconds.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from client.ledger import Ledger

KILLS = 200
CELLS = "cells"

_NURSERY = f"""
import os, sys, time
from pathlib import Path
from client.ledger import Ledger
from common.errors import PrivacyError
from common.privacy.events import Event

path, releases = Path(sys.argv[1]), Path(sys.argv[2])
event = Event(mechanism="poisson_discrete_gaussian", sample_rate=0.1, noise_multiplier=1.0,
              steps=1, unit="image")

def site():
    with Ledger.open(path, {CELLS!r}) as ledger:
        done = [row.round for row in ledger.rows("debit")]
        number = max(done, default=-1) + 1
        while True:
            row = ledger.debit("study", number, 0, event)
            handle = os.open(releases, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(handle, f"{{number}} {{row.hash}}\\n".encode())
            os.close(handle)
            number += 1

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        try:
            site()
        except BaseException as error:
            (path.parent / "failure").write_text(repr(error))
        os._exit(1)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("dead", flush=True)
"""


def test_no_release_without_its_row_over_many_kills(tmp_path: Path) -> None:
    path, releases = tmp_path / "ledger.sqlite", tmp_path / "releases"
    Ledger.create(path, CELLS).close()
    chance = random.Random(7)
    nursery = subprocess.Popen(
        [sys.executable, "-c", _NURSERY, str(path), str(releases)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    assert nursery.stdin and nursery.stdout
    with nursery:
        for _ in range(KILLS):
            nursery.stdin.write("\n")
            child = int(nursery.stdout.readline())
            time.sleep(chance.uniform(0.0, 0.06))
            os.kill(child, signal.SIGKILL)
            assert nursery.stdout.readline() == "dead\n"
        nursery.stdin.close()
    failure = tmp_path / "failure"
    assert not failure.exists(), failure.read_text()
    released = [line.split() for line in releases.read_text().splitlines()]
    with Ledger.open(path, CELLS) as ledger:
        assert ledger.verify() == len(ledger.rows())
        paid = {str(row.round): row.hash for row in ledger.rows("debit")}
        rounds = [row.round for row in ledger.rows("debit")]
    assert rounds == list(range(len(rounds))), "a row was lost or made twice"
    assert len(released) > KILLS / 4, "the kills came before anything happened"
    for number, digest in released:
        assert paid[number] == digest
    assert len(paid) - len(released) <= KILLS, "a kill wastes one debit at most"
