"""Kill -9 at any moment of a round: never a release without its row, never a lost row.

A child process is the lab's ClientApp: asked round after round it checks, samples, pays, clips,
draws its noise and answers, as at a real site. The parent kills it after a random time, starts it
again, and at the end compares the ledger with the answers that came out. The child forks from a
small server process that has the modules imported, so that 200 kills take seconds.
"""

import os
import random
import signal
import time
from pathlib import Path

from client.ledger.binding import data_fingerprint
from client.ledger.ledger import Ledger
from client.site import open_site
from tests.client.lab import OPEN, make_lab
from tests.nursery import nursery

KILLS = 200
ROUNDS = 4000

_LAB = f"""
import os, sys
from pathlib import Path
import torch
from client.app import client_app
from client.ledger.ledger import Ledger
from client.site import open_site
from common.wire.messages import Update, read_refusal
from tests.client.lab import PRIVACY, context, first_model, message, study

torch.set_num_threads(1)
site, releases = Path(sys.argv[1]), Path(sys.argv[2])
of = study(rounds={ROUNDS}, privacy=PRIVACY | {{"local_steps": 1}})
size = len(first_model(of))
# What a first round loads and calculates is had once, for all children.
client_app()(message(of), context(Path(sys.argv[3])))

def child():
    app = client_app()
    with Ledger.read(open_site(site).ledger) as ledger:
        number = max((row.round for row in ledger.rows("debit")), default=0) + 1
    while True:
        reply = app(message(of, number=number), context(site))
        refusal = read_refusal(reply)
        if refusal:
            raise RuntimeError(str(refusal))
        handle = os.open(releases, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(handle, f"{{number}} {{Update.read(reply, size).head}}\\n".encode())
        os.close(handle)
        number += 1
"""


def lines(file: Path) -> int:
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_no_release_without_its_row_over_many_kills(tmp_path: Path) -> None:
    policy = OPEN.model_copy(update={"study_epsilon": 1e4, "lifetime_epsilon": 1e4})
    site, releases = make_lab(tmp_path / "lab", policy), tmp_path / "releases"
    other = make_lab(tmp_path / "other", policy)
    chance = random.Random(7)
    with nursery(_LAB, site, releases, other) as labs:
        longest, before = 0.1, 0
        for _ in range(KILLS):
            child = labs.starts()
            time.sleep(chance.uniform(0.0, longest))
            os.kill(child, signal.SIGKILL)
            assert labs.ended() == -signal.SIGKILL, "it ended by itself"
            # However busy the machine is, about one child in two lives to release something.
            now = lines(releases)
            longest *= 1.1 if now == before else 0.9
            before = now
    released = [line.split() for line in releases.read_text().splitlines()]
    opened = open_site(site)
    with Ledger.open(opened.ledger, data_fingerprint(opened)) as ledger:
        assert ledger.verify() == len(ledger.rows())
        paid = {str(row.round): row.hash for row in ledger.rows("debit")}
        rounds = [row.round for row in ledger.rows("debit")]
    assert rounds == list(range(1, len(rounds) + 1)), "a row was lost or made twice"
    assert len(released) > KILLS / 4, "the kills came before anything happened"
    for number, digest in released:
        assert paid[number] == digest
    assert len(paid) - len(released) <= KILLS, "a kill wastes one debit at most"
