"""Rounds in mode distributed: one sum of all sites, begun again at a loss, and what becomes of it.

The server cannot tell a masked vector from any other, so these sites send their integers bare.
"""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict

from common.config.study import Participant, RoundPolicy, ServerOptimizer, Study, TrainingSpec
from common.errors import FederationError
from common.metrics import Tally
from common.models import build, trainable
from common.models.parameter_vector import Layout
from common.privacy.masking.study_sum import study_sum
from common.wire.agreement import Agreement, MaskingKey
from common.wire.messages import KEYS, MaskedUpdate, Task, refusal_content, tally_content
from common.wire.packed_integers import pack
from common.wire.reasons import Reason
from server.rounds.masked_step import MaskedStep
from server.rounds.observer import Observer
from server.rounds.quorum import NoQuorumError
from server.rounds.rounds import Rounds
from tests.server.fake_grid import FakeGrid

NAMES = ("ant", "bee", "cow", "dog")
PRIVACY = {
    "mode": "distributed",
    "epsilon": 8.0,
    "sample_rate": 0.5,
    "local_steps": 1,
    "dropouts": 1,
    "spare_rounds": 4,
}


def study(**changes: object) -> Study:
    fields: dict[str, object] = {
        "name": "masked",
        "cell_types": ("myeloblast", "lymphocyte"),
        "image_side": 16,
        "rounds": 3,
        "model": {"name": "cnn", "width": 1},
        "training": TrainingSpec(learning_rate=0.5),
        "privacy": PRIVACY,
        "cohort": {name: Participant(units=10 * at) for at, name in enumerate(NAMES, 1)},
        "round": RoundPolicy(deadline_seconds=0.2, suspend_after=2),
        "server": ServerOptimizer(),
        "evaluation": {"every": 100},
    }
    return Study.model_validate(fields | changes)


def model_of(of: Study) -> Any:
    return build(of.model, len(of.cell_types), of.image_side, of.seed)


def tally(of: Study) -> RecordDict:
    found = Tally.empty(len(of.cell_types))
    found.counts[0, 0, 0] = 1
    return tally_content(found)


@dataclass
class Site:
    """Answers with the integers of its seed; `instead` may answer a message in its place."""

    of: Study
    seed: int
    instead: Callable[[str, Task], RecordDict | bool | None] = lambda *_: True
    asked: list[tuple[str, int, int]] = field(default_factory=list)
    agreements: list[Agreement] = field(default_factory=list)

    def __call__(self, message: Message) -> RecordDict | None:
        kind, task = message.metadata.message_type, Task.read(message)
        self.asked.append((kind, task.round, task.attempt))
        if task.agreement and task.agreement.keys:
            self.agreements.append(task.agreement)
        other = self.instead(kind, task)
        if not isinstance(other, bool):
            return other
        if kind == KEYS and task.agreement and task.agreement.purpose != "train":
            return refusal_content(Reason.METRICS, "0123abcd")
        if kind == KEYS:
            return MaskingKey(bytes([self.seed, len(self.asked)]) * 16).content()
        return tally(self.of) if kind == "evaluate" else self.update(task)

    def update(self, task: Task) -> RecordDict:
        model = model_of(self.of)
        size = MaskedStep(self.of, model).size(task.round)
        plan = study_sum(self.of, size)
        words = plan.wrap(integers(self.seed, task, size))
        update = MaskedUpdate(pack(words, plan.bits), Layout.of(model).digest, epsilon=1.5)
        return update.content(size, plan.form)


def integers(seed: int, task: Task, size: int) -> Any:
    draws = np.random.default_rng((seed, task.round, task.attempt))
    return draws.integers(-1000, 1000, size)


def play(of: Study, out: Path, **instead: Callable[[str, Task], Any]) -> dict[str, Site]:
    sites = {
        name: Site(of, number, instead.get(name, lambda *_: True))
        for number, name in enumerate(NAMES)
    }
    Rounds(of, FakeGrid(sites), out, Observer()).run()
    return sites


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]


def expected(of: Study, rounds: list[tuple[int, int, tuple[str, ...]]]) -> Any:
    """The head of the model after steps along the sums of (round, attempt, sites)."""
    values = np.concatenate([v.detach().numpy().ravel() for v in trainable(model_of(of)).values()])
    for number, attempt, sites in rounds:
        task = Task(of, number, attempt)
        plan = study_sum(of, len(values))
        total = sum(integers(NAMES.index(site), task, len(values)) for site in sites)
        units = of.privacy.sample_rate * sum(of.cohort[site].units for site in sites)
        rate = of.training.rate_in(number, of.rounds)
        values = (values - rate * (total / plan.grid).astype(np.float32) / units).astype(np.float32)
    return values


def trained(out: Path) -> Any:
    from safetensors.numpy import load_file

    of, found = model_of(study()), load_file(out / "model.safetensors")
    return np.concatenate([found[name].ravel() for name in trainable(of)])


def test_the_model_takes_the_mean_of_all_units_in_every_round(tmp_path: Path) -> None:
    of = study(training=TrainingSpec(learning_rate=0.5, schedule="cosine"))
    sites = play(of, tmp_path)
    wanted = expected(of, [(number, 0, NAMES) for number in (1, 2, 3)])
    np.testing.assert_allclose(trained(tmp_path), wanted, rtol=0, atol=1e-6)
    for site in sites.values():
        assert [kind for kind, *_ in site.asked][:6] == [KEYS, "train"] * 3
        keys = [key.public for one in site.agreements for key in one.keys.values()]
        assert len(site.agreements) == 3 and len(set(keys)) == 3 * len(NAMES)
    for record in records(tmp_path):
        assert record["attempt"] == 0
        assert {name: one["status"] for name, one in record["sites"].items()} == dict.fromkeys(
            NAMES, "ok"
        )
        assert all("update_norm" not in one for one in record["sites"].values())
        assert record["sites"]["ant"]["epsilon"] == 1.5


def silent_in(number: int) -> Callable[[str, Task], Any]:
    return lambda kind, task: None if (kind, task.round) == ("train", number) else True


def test_a_site_that_fails_costs_an_attempt_and_is_left_out_of_the_next(tmp_path: Path) -> None:
    of = study()
    sites = play(of, tmp_path, bee=silent_in(2))
    others = tuple(name for name in NAMES if name != "bee")
    wanted = expected(of, [(1, 0, NAMES), (2, 1, others), (3, 0, NAMES)])
    np.testing.assert_allclose(trained(tmp_path), wanted, rtol=0, atol=1e-6)
    second = records(tmp_path)[1]
    assert second["attempt"] == 1
    assert second["sites"]["bee"]["status"] == "no reply"
    assert [second["sites"][name]["status"] for name in others] == ["ok"] * 3
    seen = sites["ant"].agreements
    assert [one.sites for one in seen] == [NAMES, NAMES, others, NAMES]
    assert [(one.round, one.attempt) for one in seen] == [(1, 0), (2, 0), (2, 1), (3, 0)]
    keys = [key.public for one in seen for key in one.keys.values()]
    assert len(set(keys)) == len(keys)
    assert sites["ant"].asked.count(("train", 2, 0)) == sites["ant"].asked.count(("train", 2, 1))


def test_a_site_that_loses_sums_again_and_again_rests_longer_each_time(tmp_path: Path) -> None:
    of = study(rounds=12, privacy=PRIVACY | {"spare_rounds": 12})

    def never(kind: str, _: Task) -> Any:
        return refusal_content(Reason.DEVICE, "0123abcd") if kind == "train" else True

    play(of, tmp_path, bee=never)
    lost = [record["round"] for record in records(tmp_path) if record["attempt"]]
    assert lost == [1, 2, 4, 8]
    third = records(tmp_path)[2]["sites"]["bee"]
    assert third["status"] == "not asked" and third["words"] == "lost sums; again in round 4"
    # Where too few are left without it, it is asked all the same.
    of = study(
        rounds=3,
        cohort={name: Participant(units=9) for name in NAMES[:3]},
        privacy=PRIVACY | {"dropouts": 0},
    )
    sites = {name: Site(of, number, never) for number, name in enumerate(NAMES[:3])}
    with pytest.raises(NoQuorumError):
        Rounds(of, FakeGrid(sites), tmp_path / "b", Observer()).run()


def test_a_site_that_rests_is_asked_again_before_the_study_fails(tmp_path: Path) -> None:
    def bee(kind: str, task: Task) -> Any:
        lost = kind == "train" and task.round < 3
        return refusal_content(Reason.DEVICE, "0123abcd") if lost else True

    of = study(rounds=4, privacy=PRIVACY | {"spare_rounds": 8})
    play(of, tmp_path, bee=bee, cow=silent_in(3))
    third = records(tmp_path)[2]
    assert third["sites"]["bee"]["status"] == "ok"
    assert third["sites"]["cow"]["status"] == "no reply"


def test_too_few_sites_are_no_round_whatever_min_sites_says(tmp_path: Path) -> None:
    with pytest.raises(NoQuorumError, match="2 sound updates, the least that a sum needs is 3"):
        play(study(), tmp_path, bee=silent_in(2), cow=silent_in(2))
    assert len(records(tmp_path)) == 1


@pytest.mark.parametrize("reason", [Reason.LOST_KEY, Reason.MASKING_KEY])
def test_fresh_keys_are_tried_where_they_may_help_and_once_a_round_alone(
    tmp_path: Path, reason: Reason
) -> None:
    lost = refusal_content(reason, "0123abcd")

    def once(kind: str, task: Task) -> Any:
        return lost if (kind, task.round, task.attempt) == ("train", 2, 0) else True

    play(study(), tmp_path / "once", bee=once)
    assert [r["attempt"] for r in records(tmp_path / "once")] == [0, 1, 0]
    assert records(tmp_path / "once")[1]["sites"]["bee"]["status"] == "ok"

    def ever(kind: str, task: Task) -> Any:
        return lost if (kind, task.round) == ("train", 2) else True

    play(study(), tmp_path / "ever", bee=ever)
    second = records(tmp_path / "ever")[1]
    assert second["attempt"] == 2 and second["sites"]["bee"]["reason"] == reason


@pytest.mark.parametrize("fault", ["length", "layout", "bits", "form", "no key"])
def test_a_reply_that_is_no_masked_sum_is_left_out_by_name(tmp_path: Path, fault: str) -> None:
    of = study()
    size, layout = len(expected(of, [])), Layout.of(model_of(of)).digest
    plan = study_sum(of, size)
    words, other = np.zeros(size, plan.dtype), dataclasses.replace(plan, bits=plan.bits + 1)
    wrong = {
        "length": MaskedUpdate(pack(words[1:], plan.bits), layout).content(size, plan.form),
        "layout": MaskedUpdate(pack(words, plan.bits), "f" * 64).content(size, plan.form),
        "bits": MaskedUpdate(pack(words, plan.bits + 1), layout).content(size, other.form),
        "form": RecordDict({}),
        "no key": RecordDict({}),
    }[fault]
    kind = KEYS if fault == "no key" else "train"

    def answer(asked: str, task: Task) -> Any:
        return wrong if asked == kind and task.round == 1 else True

    play(of, tmp_path, cow=answer)
    first, second, _ = records(tmp_path)
    assert first["sites"]["cow"]["status"] == "left out"
    assert second["sites"]["cow"]["status"] == "ok"
    assert first["attempt"] == (0 if fault == "no key" else 1)


@pytest.mark.parametrize("fault", ["another's", "low order", "not canonical"])
def test_a_key_that_would_stop_honest_sites_is_left_out_by_its_senders_name(
    tmp_path: Path, fault: str
) -> None:
    public = {
        "another's": bytes([0, 1]) * 16,  # that of ant in its first answer
        "low order": bytes(32),
        "not canonical": b"\xff" * 31 + b"\x7f",
    }[fault]

    def answer(kind: str, task: Task) -> Any:
        return MaskingKey(public).content() if kind == KEYS and task.round == 1 else True

    if fault == "another's":  # who had it first cannot be told: neither is masked with
        with pytest.raises(NoQuorumError, match="its masking key is another site's, too"):
            play(study(), tmp_path, cow=answer)
        return
    sites = play(study(), tmp_path, cow=answer)
    first = records(tmp_path)[0]
    assert first["sites"]["cow"]["status"] == "left out" and first["attempt"] == 0
    assert sites["ant"].agreements[0].sites == ("ant", "bee", "dog")


def test_a_sum_longer_than_all_units_can_make_it_is_not_used(tmp_path: Path) -> None:
    of = study()
    size, layout = len(expected(of, [])), Layout.of(model_of(of)).digest
    plan = study_sum(of, size)
    noise = np.random.default_rng(1).integers(0, 2**plan.bits, size, dtype=np.uint64)
    garbage = MaskedUpdate(pack(noise.astype(plan.dtype), plan.bits), layout).content(
        size, plan.form
    )
    with pytest.raises(FederationError, match="a site sent what is no sum of its own"):
        play(of, tmp_path, dog=lambda kind, _: garbage if kind == "train" else True)
    assert not (tmp_path / "rounds.jsonl").exists()


def test_no_site_pays_for_a_sum_that_another_cannot_be_asked_for(tmp_path: Path) -> None:
    """A site that gives its key and is gone is found before anybody is asked to train."""
    of = study()
    grid = FakeGrid({name: Site(of, number) for number, name in enumerate(NAMES)})
    given = grid._sites["bee"]

    def leaving(message: Message) -> RecordDict | None:
        task, kind = Task.read(message), message.metadata.message_type
        if kind == KEYS and (task.round, task.attempt) == (2, 0):
            grid._names = {node: name for node, name in grid._names.items() if name != "bee"}
        return given(message)

    grid._sites["bee"] = leaving
    Rounds(of, grid, tmp_path, Observer()).run()
    asked = grid._sites["ant"].asked  # type: ignore[attr-defined]
    assert ("train", 2, 0) not in asked and ("train", 2, 1) in asked
    assert records(tmp_path)[1]["sites"]["bee"]["status"] == "not connected"


def test_a_site_whose_sums_are_left_out_again_and_again_is_suspended(tmp_path: Path) -> None:
    wrong = MaskedUpdate(b"x", "f" * 64).content(1, "none")
    play(study(), tmp_path, dog=lambda kind, _: wrong if kind == "train" else True)
    statuses = [record["sites"]["dog"]["status"] for record in records(tmp_path)]
    assert statuses == ["left out", "left out", "suspended"]
    assert [record["attempt"] for record in records(tmp_path)] == [1, 1, 0]


def test_the_first_round_of_a_centred_study_moves_the_centre_alone(tmp_path: Path) -> None:
    of = study(
        model={"name": "cnn", "width": 1, "encoder": "frozen", "centre": True},
        training=TrainingSpec(learning_rate=0.5, augment=False),
        rounds=2,
    )
    step = MaskedStep(of, model_of(of))
    assert step.size(1) != step.size(2)
    total = np.arange(step.size(1), dtype=np.float32)
    moved = step.change(1, NAMES, total)
    expected_units = 0.5 * (10 + 20 + 30 + 40)
    scale = of.privacy.max_grad_norm / np.sqrt(len(total))
    np.testing.assert_allclose(moved[moved != 0], -total[1:] / expected_units / scale)
    assert len(moved) == step.size(1) + step.size(2)
    play(of, tmp_path)
    assert [record["attempt"] for record in records(tmp_path)] == [0, 0]
