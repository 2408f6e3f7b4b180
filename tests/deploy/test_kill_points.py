"""Kill -9 at every step of a masked round: of a lab's runner, of its node, and of the rounds.

Each round of one study is an attempt to kill somebody before one more step than the round before,
until the round is over without. Whoever is killed is started again, and the round goes on.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.ledger.ledger import Ledger
from client.site import open_site
from common.config.loading import dump
from common.models import build, federated
from common.models.parameter_vector import flatten
from common.privacy.masking.integer_sum import IntegerSum
from common.privacy.masking.study_sum import study_sum
from common.wire.agreement import MaskingKey
from common.wire.messages import KEYS, read_absence, read_refusal
from common.wire.packed_integers import Words, pack
from server.aggregation.server_optimizer import Optimizer
from server.rounds import checkpoints
from server.rounds.masked_step import MaskedStep
from tests.deploy.federation import Federation
from tests.deploy.forked_federation import anew, masked, order
from tests.deploy.spool import Answered, Spool
from tests.kill_points import died_at, order_kill
from tests.nursery import Nursery, nursery
from tests.simulations.small import simulation

MOST = 300
"""More rounds than there are steps."""
PRIVACY = {
    "mode": "distributed",
    "epsilon": 8.0,
    "delta": 1e-4,
    "sample_rate": 1.0,
    "local_steps": 1,
    "dropouts": 1,
    "spare_rounds": MOST,
}
_PROCESSES = """
import sys
from pathlib import Path
from client.home import SiteHome
from common.config.loading import load
from common.config.study import Study
from tests.deploy.forked_federation import keep_lab, keep_round, make_ready

study, ready, *homes = map(Path, sys.argv[1:])
make_ready(load(Study, study), [SiteHome(home) for home in homes], ready)

def child(what, *words):
    {"lab": keep_lab, "round": keep_round}[what](*map(Path, words))
"""


class MortalFederation:
    """Four labs that run, and the study whose rounds are played one by one."""

    def __init__(self, federation: Federation, folder: Path, processes: Nursery) -> None:
        self.federation, self._processes = federation, processes
        self.study, self.names = federation.study, sorted(federation.sites)
        self.mortal = self.names[1]
        self.out, self.spool = folder / "out", folder / "spool"
        self._file = folder / "study.yaml"
        self._file.write_text(dump(self.study))
        self.spool.mkdir()
        for home in federation.sites.values():
            processes.starts("lab", home.folder, self.spool)

    def play(self) -> None:
        """The study's next round, whoever dies in it. The lab that may die is started for it, since
        the first message of a process takes more steps than others."""
        anew(self.spool, self.mortal).touch()
        self._processes.starts("round", self.federation.server, self.spool, self._file, self.out)
        assert self._processes.ended() == 0

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.out / "rounds.jsonl").read_text().splitlines()]

    def answers(self) -> list[Answered]:
        """Every answer that left a lab, without those that say why there is none."""
        sound = Spool(self.spool).all_answers()
        return [one for one in sound if not (read_refusal(one.reply) or read_absence(one.reply))]

    def masked(self, name: str) -> list[dict[str, Any]]:
        """What the lab ever masked: the keys of the masks, its words bare and masked."""
        path = masked(self.spool, name)
        return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def mortals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MortalFederation]:
    folder = tmp_path_factory.mktemp("mortals")
    config = simulation(
        study={
            "rounds": MOST,
            "privacy": PRIVACY,
            "model": {"name": "cnn", "width": 1, "encoder": "frozen"},
            "round": {"deadline_seconds": 600, "min_sites": 3},
            "evaluation": {"every": 2 * MOST},
        },
        data={"source": "rendered", "rendered": {"sites": 4, "cells": 40, "side": 32}},
    )
    federation = Federation(folder, config)
    homes = [home.folder for home in federation.sites.values()]
    study = folder / "ready.yaml"
    study.write_text(dump(federation.study.model_copy(update={"name": "ready"})))
    with nursery(_PROCESSES, study, folder / "ready", *homes) as processes:
        yield MortalFederation(federation, folder, processes)


@pytest.mark.parametrize(
    ("who", "stretch", "steps"),
    [
        ("runner", KEYS, {"sendall"}),
        ("runner", "train", {"INSERT", "COMMIT", "utime ledger.sqlite", "write", "sendall"}),
        ("node", KEYS, {"replace inflight.pb", "sendall", "unlink inflight.pb"}),
        ("node", "train", {"replace inflight.pb", "sendall", "write", "unlink inflight.pb"}),
        ("rounds", "round", {"replace started.json", "write"}),
    ],
)
def test_a_kill_at_any_step_loses_no_payment_and_repeats_no_mask_and_no_summand(
    mortals: MortalFederation, who: str, stretch: str, steps: set[str]
) -> None:
    told = order(mortals.spool, who if who == "rounds" else f"{mortals.mortal}-{who}")
    died = []
    for step in count(1):
        order_kill(told, stretch, step)
        mortals.play()
        if not died_at(told).exists():
            break
        died.append(died_at(told).read_text())
    assert steps <= set(died), died
    assert_paid(mortals)
    assert_masked_once(mortals)
    assert_keys_are_used_once(mortals)
    assert_summed_once(mortals)


def assert_paid(mortals: MortalFederation) -> None:
    """The ledgers have all that left, or was masked, and have it once."""
    left = sums(mortals.answers())
    for name, home in mortals.federation.sites.items():
        with Ledger.read(open_site(home.site_file).ledger) as ledger:
            ledger.verify()
            rows = [row for row in ledger.rows("debit") if row.study == mortals.study.digest]
        debits = Counter((row.round, row.attempt) for row in rows)
        assert max(debits.values()) == 1
        assert {tuple(of) for site, *of in left if site == name} <= set(debits)
        assert len(mortals.masked(name)) <= len(rows)


def assert_masked_once(mortals: MortalFederation) -> None:
    """No lab used a mask for two vectors, and none answered for one sum with two."""
    uses = Counter[str]()
    for name in mortals.names:
        mine = Counter(key for line in mortals.masked(name) for key in line["keys"])
        assert max(mine.values()) == 1
        uses += mine
    assert max(uses.values()) == 2
    for of, data in sums(mortals.answers()).items():
        assert len(set(data)) == 1, of


def assert_keys_are_used_once(mortals: MortalFederation) -> None:
    """No two sums have a key in common, and no lab gave one for two."""
    uses = defaultdict(set)
    for one in mortals.answers():
        given = {one.site: MaskingKey.read(one.reply)} if one.kind == KEYS else {}
        agreed = one.task.agreement.keys if one.task.agreement else {}
        for site, key in [*given.items(), *agreed.items()]:
            assert key is not None
            uses[site, key.public].add((one.task.round, one.task.attempt))
    assert max(map(len, uses.values())) == 1


def assert_summed_once(mortals: MortalFederation) -> None:
    """The model is, to the last bit, that of steps along the sums of what each lab had masked."""
    study, left = mortals.study, sums(mortals.answers())
    network = build(study.model, len(study.cell_types), study.image_side, study.seed)
    model, step = flatten(federated(network)), MaskedStep(study, network)
    optimizer = Optimizer(study.server, {})
    plan = study_sum(study, step.size(1))
    bare = {
        (name, pack(_words(line["sent"], plan), plan.bits)): _words(line["bare"], plan)
        for name in mortals.names
        for line in mortals.masked(name)
    }
    for number, record in enumerate(mortals.records(), start=1):
        assert record["round"] == number
        sites = [name for name, one in record["sites"].items() if one["status"] == "ok"]
        assert len(sites) >= 3
        total = np.zeros(plan.size, plan.dtype)
        for name in sites:
            total += bare[name, left[name, number, record["attempt"]][0]]
        total &= plan.dtype(2**plan.bits - 1)
        model = optimizer.step(model, step.change(number, sites, plan.decode(total)))
    state = checkpoints.load(mortals.out / "checkpoints", study.digest)
    assert state is not None and state.model.tobytes() == model.tobytes()


def sums(answers: list[Answered]) -> dict[tuple[str, int, int], list[bytes]]:
    """(site, round, attempt) -> the masked sums that left for it."""
    found = defaultdict(list)
    for one in answers:
        if one.kind == "train":
            data = bytes(one.reply.content.array_records["update"]["values"].data)
            found[one.site, one.task.round, one.task.attempt].append(data)
    return found


def _words(text: str, plan: IntegerSum) -> Words:
    return np.frombuffer(bytes.fromhex(text), plan.dtype)
