"""A lab's process killed at the very bit: the row is on disk before a cell is drawn or noise made.

A source of randomness kills the process when it is asked for its first word. What a ledger then
holds is what was written before that word: a random kill would hardly ever fall between the two.
"""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from client.ledger.binding import data_fingerprint
from client.ledger.ledger import Ledger
from client.site import open_site
from tests.client.lab import OPEN, make_lab

ROOT = Path(__file__).parents[3]

_LAB = """
import os, signal, sys
from pathlib import Path
import torch
from client.app import client_app
from tests.client.lab import context, message, study

torch.set_num_threads(1)
site, kind, deadly = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

class Deadly:
    def words(self, count):
        os.kill(os.getpid(), signal.SIGKILL)

class Entropy:
    repeats = False
    def source(self, *purpose):
        from common.privacy.noise_source import NoiseSource
        return Deadly() if purpose[-1] == deadly else NoiseSource.secure()

reply = client_app(Entropy())(message(study(), kind), context(site))
print("an answer came out:", reply.content)
"""


@pytest.mark.parametrize(
    ("kind", "word"),
    [("train", "sampling"), ("train", "noise"), ("evaluate", "metrics")],
)
def test_the_row_is_on_disk_before_the_first_word_is_drawn(
    tmp_path: Path, kind: str, word: str
) -> None:
    site = make_lab(tmp_path, OPEN.model_copy(update={"metrics": "noised"}))
    command = [sys.executable, "-c", _LAB, str(site), kind, word]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    opened = open_site(site)
    with Ledger.open(opened.ledger, data_fingerprint(opened)) as ledger:
        assert ledger.verify() == 2
        (row,) = ledger.rows("debit")
    assert (row.round < 0) == (kind == "evaluate")
