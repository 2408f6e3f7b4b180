"""A lab's process killed at the very bit: the row is on disk before a cell is drawn or noise made.

A source of randomness kills the process when it is asked for its first word. What a ledger then
holds is what was written before that word: a random kill would hardly ever fall between the two.
"""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.ledger.binding import data_fingerprint
from client.ledger.ledger import Ledger
from client.site import open_site
from tests.client.lab import OPEN, make_lab
from tests.nursery import Nursery, nursery

_LAB = """
import os, signal
from pathlib import Path
import torch
from client.app import client_app
from common.privacy.noise_source import NoiseSource
from tests.client.lab import context, message, study

torch.set_num_threads(1)

class Deadly:
    def words(self, count):
        os.kill(os.getpid(), signal.SIGKILL)

class Entropy:
    repeats = False
    def __init__(self, deadly):
        self.deadly = deadly
    def source(self, *purpose):
        return Deadly() if purpose[-1] == self.deadly else NoiseSource.secure()

def child(site, kind, deadly):
    reply = client_app(Entropy(deadly))(message(study(), kind), context(Path(site)))
    raise AssertionError(f"an answer came out: {reply.content}")
"""


@pytest.fixture(scope="module")
def labs() -> Iterator[Nursery]:
    with nursery(_LAB) as one:
        yield one


@pytest.mark.parametrize(
    ("kind", "word"),
    [("train", "sampling"), ("train", "noise"), ("evaluate", "metrics")],
)
def test_the_row_is_on_disk_before_the_first_word_is_drawn(
    labs: Nursery, tmp_path: Path, kind: str, word: str
) -> None:
    site = make_lab(tmp_path, OPEN.model_copy(update={"metrics": "noised"}))
    labs.starts(site, kind, word)
    assert labs.ended() == -signal.SIGKILL
    opened = open_site(site)
    with Ledger.open(opened.ledger, data_fingerprint(opened)) as ledger:
        assert ledger.verify() == 2
        (row,) = ledger.rows("debit")
    assert (row.round < 0) == (kind == "evaluate")
