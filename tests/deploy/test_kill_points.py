"""Kill -9 at every step of a masked sum: of a lab's runner, of its node, and of the rounds.

A sum is a training round's, an evaluation's or the statistics'. Each play of one is an attempt to
kill somebody before one more step than the last, until the sum is over without. Whoever is killed
is started again, and the study goes on.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from client.ledger.hash_chain import STATISTICS as STATISTICS_ROUND
from client.ledger.ledger import Ledger
from client.site import open_site
from common.config.loading import dump
from common.config.study import Study
from common.models import build, federated
from common.models.parameter_vector import flatten
from common.privacy.masking.integer_sum import IntegerSum
from common.privacy.masking.study_sum import study_sum
from common.wire.agreement import MaskingKey, Purpose
from common.wire.messages import KEYS, STATISTICS, read_absence, read_refusal
from common.wire.packed_integers import Words, pack
from server.aggregation.server_optimizer import Optimizer
from server.rounds import checkpoints
from server.rounds.cell_statistics import CellStatistics
from server.rounds.masked_step import MaskedStep
from simulations.experiments import OPEN_POLICY
from tests.deploy.federation import Federation
from tests.deploy.forked_federation import anew, masked, message_stretch, order, summed
from tests.deploy.spool import Answered, Spool
from tests.kill_points import deaths, order_kill
from tests.nursery import Nursery, nursery
from tests.simulations.small import simulation

Left = dict[tuple[str, "Sum"], list[bytes]]
"""(site, sum) -> the masked words that left for it."""
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
    "statistics_epsilon": 2.0,
}
_PROCESSES = """
import sys
from pathlib import Path
from client.home import SiteHome
from common.config.loading import load
from common.config.study import Study
from tests.deploy.forked_federation import keep_lab, keep_rounds, make_ready

out, *of = map(Path, sys.argv[1:])
for study in of[:2]:
    make_ready(load(Study, study), [SiteHome(home) for home in of[2:]], out / study.stem)

def child(what, *words):
    if what == "lab":
        keep_lab(*map(Path, words))
    else:
        keep_rounds(what, *map(Path, words))
"""


class Sum(NamedTuple):
    """What a lab masks a vector for."""

    study: str
    purpose: Purpose
    round: int
    attempt: int

    @property
    def row(self) -> tuple[str, int, int]:
        """The study, the round and the attempt of its row in the ledger."""
        number = {
            "train": self.round,
            "statistics": STATISTICS_ROUND,
            "validation": -2 * self.round - 1,
            "test": -2 * self.round - 2,
        }[self.purpose]
        return self.study, number, self.attempt


class MortalFederation:
    """Four labs that run, and studies whose sums are played one by one."""

    def __init__(self, federation: Federation, folder: Path, processes: Nursery) -> None:
        self.federation, self._processes, self._folder = federation, processes, folder
        self.names = sorted(federation.sites)
        self.spool = folder / "spool"
        self.spool.mkdir()
        self._messages = Spool(self.spool)
        self._played: dict[str, Study] = {}
        self._plain = self._approved(federation.study)
        self._scored = self._approved(scored(federation.study, "scored"))
        for home in federation.sites.values():
            processes.starts("lab", home.folder, self.spool)
        self.play("validation")  # what is tested has a round, and its statistics are over

    def play(self, purpose: Purpose, mortal: Iterable[str] = ()) -> Study:
        """Play a study's next round, test or statistics, whoever dies in it; return the study.

        The labs that may die are started for it, since the first message of a process takes more
        steps than others.
        """
        study = self._plain if purpose == "train" else self._scored
        if purpose == "statistics":
            study = self._approved(named(study, f"counted-{len(self._played)}"))
        self._played[study.name] = study
        for name in mortal:
            anew(self.spool, name).touch()
        file, out = self._folder / f"{study.name}.yaml", self.out(study)
        self._processes.starts(purpose, self.federation.server, self.spool, file, out)
        assert self._processes.ended() == 0
        return study

    @property
    def studies(self) -> list[Study]:
        """Those that were played."""
        return list(self._played.values())

    def out(self, study: Study) -> Path:
        return self._folder / f"{study.name}-out"

    def records(self, study: Study) -> list[dict[str, Any]]:
        log = self.out(study) / "rounds.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        return [json.loads(line) for line in lines]

    def answers(self) -> list[Answered]:
        """Every answer that left a lab, without those that say why there is none."""
        sound = self._messages.all_answers()
        return [one for one in sound if not (read_refusal(one.reply) or read_absence(one.reply))]

    def asked(self, kind: str) -> Counter[tuple[str, str]]:
        """(lab, study) -> how many questions of that type the lab took, in whatever run."""
        taken = self._messages.all_questions()
        return Counter((site, task.study.digest) for site, of, task in taken if of == kind)

    def masked(self, name: str) -> list[dict[str, Any]]:
        """What the lab ever masked: the keys of the masks, its words bare and masked."""
        path = masked(self.spool, name)
        return [json.loads(line) for line in path.read_text().splitlines()]

    def bare(self, name: str) -> dict[bytes, bytes]:
        """Words of a lab as they were masked -> as they were before."""
        return {
            bytes.fromhex(line["sent"]): bytes.fromhex(line["bare"]) for line in self.masked(name)
        }

    def summed(self) -> dict[Sum, tuple[list[str], list[int]]]:
        """The sums of counts that the rounds ever read: of which labs, and what they came to."""
        path = summed(self.spool)
        lines = (
            [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        )
        read = {
            Sum(*(line[name] for name in Sum._fields)): (line["sites"], line["total"])
            for line in lines
        }
        assert len(read) == len(lines), "a sum was read twice"
        return read

    def _approved(self, study: Study) -> Study:
        """The study, which every lab approves of."""
        (self._folder / f"{study.name}.yaml").write_text(dump(study))
        for home in self.federation.sites.values():
            self.federation.approve(home, study)
        return study


def named(study: Study, name: str) -> Study:
    return study.model_copy(update={"name": name})


def scored(study: Study, name: str) -> Study:
    """The study with an evaluation after each round."""
    evaluation = study.evaluation.model_copy(update={"every": 1})
    return named(study, name).model_copy(update={"evaluation": evaluation})


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
    for home in federation.sites.values():
        policy = OPEN_POLICY.model_copy(update={"metrics": "noised"})
        (home.folder / "policy.yaml").write_text(dump(policy))
    homes = [home.folder for home in federation.sites.values()]
    ready = folder / "ready"
    ready.mkdir()
    alike = [named(federation.study, "as-plain"), scored(federation.study, "as-scored")]
    files = [ready / f"{study.name}.yaml" for study in alike]
    for file, study in zip(files, alike, strict=True):
        file.write_text(dump(study))
    with nursery(_PROCESSES, ready, *files, *homes) as processes:
        yield MortalFederation(federation, folder, processes)


class Victim(NamedTuple):
    """Who is killed, in which of its work, and some of the steps that there are in it."""

    part: str
    """`runner` or `node` of a lab, or `rounds`."""
    kind: str
    """The type of a lab's message."""
    steps: set[str]


ASKED = [
    Victim("runner", KEYS, {"sendall"}),
    Victim("node", KEYS, {"replace inflight.pb", "sendall", "unlink inflight.pb"}),
]


def paying(kind: str) -> list[Victim]:
    """Those who die while they pay for an answer, or while it leaves."""
    paid = {"INSERT", "COMMIT", "utime ledger.sqlite", "write", "sendall"}
    left = {"replace inflight.pb", "sendall", "write", "unlink inflight.pb"}
    return [Victim("runner", kind, paid), Victim("node", kind, left)]


@pytest.mark.parametrize(
    ("purpose", "victims"),
    [
        *[("train", [victim]) for victim in [*ASKED, *paying("train")]],
        ("validation", [Victim("rounds", "", {"replace started.json", "write"})]),
        ("test", [*ASKED, *paying("evaluate")]),
        ("test", [Victim("rounds", "", {"replace started.json", "replace outcome.json"})]),
        ("statistics", [*ASKED, *paying(STATISTICS)]),
        ("statistics", [Victim("rounds", "", {"replace statistics.json"})]),
    ],
    ids=lambda given: given if isinstance(given, str) else "-".join(f"{v.part}" for v in given),
)
def test_a_kill_at_any_step_loses_no_payment_and_repeats_no_mask_and_no_summand(
    mortals: MortalFederation, purpose: Purpose, victims: list[Victim]
) -> None:
    """Several victims, each in a lab of its own, are killed in the same play where no sum is begun
    again. The rounds are killed again as they begin anew, as long as one play lasts."""
    dead = [
        Hunted(mortals, name, purpose, one)
        for name, one in zip(mortals.names, victims, strict=False)
    ]
    while True:
        for one in dead:
            one.order_kill()
        study = mortals.play(purpose, [one.name for one in dead])
        if not any([one.died() for one in dead]):
            break
    for one in dead:
        one.assert_killed()
    left = sums(mortals.answers())
    assert_paid(mortals, left)
    assert_masked_once(mortals, left)
    assert_keys_are_used_once(mortals)
    assert_counts_are_summed_once(mortals, left)
    if purpose == "statistics":
        assert_statistics_are_once(mortals)
    else:
        assert_summed_once(mortals, study, left)


class Hunted:
    """A victim that is killed before one more step each time."""

    def __init__(
        self, mortals: MortalFederation, name: str, purpose: Purpose, victim: Victim
    ) -> None:
        self._victim, self._rounds = victim, victim.part == "rounds"
        self.name = name
        who = victim.part if self._rounds else f"{name}-{victim.part}"
        self._order = order(mortals.spool, who)
        self._stretch = purpose if self._rounds else message_stretch(victim.kind, purpose)
        self._died: list[str] = []

    def order_kill(self) -> None:
        order_kill(self._order, self._stretch, 1 + len(self._died), again=self._rounds)

    def died(self) -> bool:
        """Whether it died since it was ordered."""
        more = deaths(self._order)
        self._died += more
        return bool(more)

    def assert_killed(self) -> None:
        """It did the work the last time, and was killed at its steps before."""
        assert not self._order.exists()
        assert self._victim.steps <= set(self._died), self._died


def assert_paid(mortals: MortalFederation, left: Left) -> None:
    """The ledgers have all that left, or was masked, and have it once."""
    digests = {study.digest for study in mortals.studies}
    for name, home in mortals.federation.sites.items():
        with Ledger.read(open_site(home.site_file).ledger) as ledger:
            ledger.verify()
            rows = [row for row in ledger.rows("debit") if row.study in digests]
        debits = Counter((row.study, row.round, row.attempt) for row in rows)
        assert max(debits.values()) == 1
        assert {of.row for site, of in left if site == name} <= set(debits)
        assert len(mortals.masked(name)) <= len(rows)


def assert_masked_once(mortals: MortalFederation, left: Left) -> None:
    """No lab used a mask for two vectors, and none answered for one sum with two."""
    uses = Counter[str]()
    for name in mortals.names:
        mine = Counter(key for line in mortals.masked(name) for key in line["keys"])
        assert max(mine.values()) == 1
        uses += mine
    assert max(uses.values()) == 2
    for of, data in left.items():
        assert len(set(data)) == 1, of


def assert_keys_are_used_once(mortals: MortalFederation) -> None:
    """No two sums have a key in common, and no lab gave one for two."""
    uses = defaultdict(set)
    for one in mortals.answers():
        given = {one.site: MaskingKey.read(one.reply)} if one.kind == KEYS else {}
        agreed = one.task.agreement.keys if one.task.agreement else {}
        for site, key in [*given.items(), *agreed.items()]:
            assert key is not None
            uses[site, key.public].add(_sum(one))
    assert max(map(len, uses.values())) == 1


def assert_summed_once(mortals: MortalFederation, study: Study, left: Left) -> None:
    """The model is, to the last bit, that of steps along the sums of what each lab had masked."""
    network = build(study.model, len(study.cell_types), study.image_side, study.seed)
    model, step = flatten(federated(network)), MaskedStep(study, network)
    optimizer = Optimizer(study.server, {})
    plan = study_sum(study, step.size(1))
    bare = {
        (name, pack(_words(sent, plan), plan.bits)): _words(words, plan)
        for name in mortals.names
        for sent, words in mortals.bare(name).items()
        if len(sent) == plan.size * np.dtype(plan.dtype).itemsize
    }
    for number, record in enumerate(mortals.records(study), start=1):
        assert record["round"] == number
        sites = [name for name, one in record["sites"].items() if one["status"] == "ok"]
        assert len(sites) >= 3
        total = np.zeros(plan.size, plan.dtype)
        for name in sites:
            of = Sum(study.digest, "train", number, record["attempt"])
            total += bare[name, left[name, of][0]]
        total &= plan.dtype(2**plan.bits - 1)
        model = optimizer.step(model, step.change(number, sites, plan.decode(total)))
    state = checkpoints.load(mortals.out(study) / "checkpoints", study.digest)
    assert state is not None and state.model.tobytes() == model.tobytes()


def assert_counts_are_summed_once(mortals: MortalFederation, left: Left) -> None:
    """Every sum of counts that was read is that of what each of its labs had masked, once."""
    bare = {name: mortals.bare(name) for name in mortals.names}
    for of, (sites, total) in mortals.summed().items():
        assert len(set(sites)) == len(sites) >= 3
        counts = [np.frombuffer(bare[name][left[name, of][0]], "<i8") for name in sites]
        assert np.sum(counts, axis=0).tolist() == total, of


def assert_statistics_are_once(mortals: MortalFederation) -> None:
    """No lab is asked twice for a study's statistics, also by rounds that began anew, and a study
    keeps the sum that was read, or none where the rounds were killed before."""
    assert max(mortals.asked(STATISTICS).values()) == 1
    read = mortals.summed()
    for study in mortals.studies:
        possible = [CellStatistics.none(study)]
        if one := read.get(Sum(study.digest, "statistics", 0, 0)):
            sites, total = one
            possible.append(CellStatistics.of_sum(study, tuple(sites), np.array(total)))
        assert CellStatistics.read(mortals.out(study)) in possible


def sums(answers: list[Answered]) -> Left:
    """The masked words in the answers."""
    found = defaultdict(list)
    for one in answers:
        content = one.reply.content
        if one.kind == "train":
            found[one.site, _sum(one)].append(bytes(content.array_records["update"]["values"].data))
        elif one.kind != KEYS:
            words = content.config_records["tally"]["masked"]
            assert isinstance(words, bytes)
            found[one.site, _sum(one)].append(words)
    return found


def _sum(one: Answered) -> Sum:
    """What the answer is for."""
    task = one.task
    assert task.agreement is not None
    return Sum(task.study.digest, task.agreement.purpose, task.round, task.attempt)


def _words(words: bytes, plan: IntegerSum) -> Words:
    return np.frombuffer(words, plan.dtype)
