import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from safetensors.numpy import load_file

from common.config.study import (
    EvaluationSpec,
    ModelSpec,
    Participant,
    RoundPolicy,
    ServerOptimizer,
    Study,
)
from common.errors import FederationError
from common.metrics import NAMES, Tally
from common.models import build
from common.models.parameter_vector import Layout
from common.noised_tally import NoisedTally
from common.privacy.metrics_noise import metrics_sigma
from common.wire.messages import (
    Task,
    Update,
    content_bytes,
    read_head,
    read_tally,
    refusal_content,
    tally_content,
)
from common.wire.reasons import Reason
from common.wire.reply_status import ReplyStatus
from common.wire.vector_codec import decode, encode, encoded_bytes
from server.rounds.observer import Observer
from server.rounds.record import RoundRecord
from server.rounds.rounds import Rounds
from tests.server.fake_grid import AfterRound, Answer, FakeGrid

TYPES = ("myeloblast", "lymphocyte")
MODEL = ModelSpec(name="cnn", width=1)


def study(**changes: object) -> Study:
    fields: dict[str, object] = {
        "name": "test",
        "cell_types": TYPES,
        "image_side": 16,
        "rounds": 4,
        "model": MODEL,
        "cohort": {name: Participant(units=10, weight=w) for name, w in (("a", 1), ("b", 3))},
        "round": RoundPolicy(deadline_seconds=0.2),
        "server": ServerOptimizer(name="fedadam", learning_rate=0.1),
    }
    return Study.model_validate(fields | changes)


def layout(of: Study) -> Layout:
    return Layout.of(build(of.model, len(of.cell_types), of.image_side, of.seed))


def tally(right: int = 3) -> Tally:
    found = Tally.empty(len(TYPES))
    found.counts[0, 0, 9], found.counts[0, 1, 9], found.counts[1, 0, 9] = right, 5, 1
    found.confidence[:] = found.counts * 0.6
    return found


def honest(of: Study, seed: int) -> Answer:
    """A site whose update follows from its seed, the round and the model it was sent."""
    shape = layout(of)

    def answer(message: Message) -> RecordDict:
        task = Task.read(message)
        if message.metadata.message_type == "evaluate":
            return tally_content(tally(3 + task.round))
        model = decode(
            message.content.array_records["model"]["values"], shape.size, of.transport.down
        )
        draws = np.random.default_rng((seed, task.round))
        change = draws.standard_normal(shape.size).astype(np.float32) * 0.01 - 0.1 * model
        return Update(change, shape.digest, loss=1.0).content(of.transport.up)

    return answer


def instead(of: Study, content: Callable[[], RecordDict | None]) -> Answer:
    """A site that evaluates well and answers training with `content`."""

    def answer(message: Message) -> RecordDict | None:
        if message.metadata.message_type == "evaluate":
            return tally_content(tally())
        return content()

    return answer


def run(
    of: Study, out: Path, sites: dict[str, Answer], observe: Callable[[RoundRecord], object] = id
) -> list[dict[str, Any]]:
    Rounds(of, FakeGrid(sites), out, AfterRound(observe)).run()
    return [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]


def sites_of(of: Study) -> dict[str, Answer]:
    return {name: honest(of, number) for number, name in enumerate(of.cohort)}


def test_a_run_leaves_its_rounds_its_model_and_its_test(tmp_path: Path) -> None:
    one = study()
    records = run(one, tmp_path, sites_of(one))
    assert [record["round"] for record in records] == [1, 2, 3, 4]
    assert all(entry["status"] == "ok" for r in records for entry in r["sites"].values())
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert outcome["best_round"] == 4
    assert set(outcome["test"]) == {"a", "b"}
    assert load_file(tmp_path / "model.safetensors")


def test_all_that_passes_between_server_and_sites_is_counted(tmp_path: Path) -> None:
    one, passed = study(evaluation=EvaluationSpec(every=2)), {"down": 0, "up": 0}

    def counting(answer: Answer) -> Answer:
        def counted(message: Message) -> RecordDict | None:
            reply = answer(message)
            if message.metadata.message_type != "query":
                passed["down"] += content_bytes(message.content)
                passed["up"] += content_bytes(reply or RecordDict())
            return reply

        return counted

    sites = {name: counting(answer) for name, answer in sites_of(one).items()}
    parts = run(one, tmp_path, sites)
    vectors = 2 * 4 * layout(one).size
    assert 2 * vectors > parts[0]["bytes_down"] > vectors < parts[0]["bytes_up"] < 2 * vectors
    assert parts[1]["bytes_down"] > 2 * vectors
    parts.append(json.loads((tmp_path / "outcome.json").read_text()))
    for way, total in passed.items():
        assert sum(part[f"bytes_{way}"] for part in parts) == total


@pytest.mark.parametrize("way", ["down", "up"])
def test_half_the_bytes_travel_and_the_model_is_nearly_the_same(tmp_path: Path, way: str) -> None:
    """Rounded by 2^-11 of a model of norm below 10, four times."""
    whole, half = (
        study(server=ServerOptimizer()),
        study(server=ServerOptimizer(), transport={way: "float16"}),
    )
    exact = run(whole, tmp_path / "whole", sites_of(whole))
    rounded = run(half, tmp_path / "half", sites_of(half))
    size = layout(whole).size
    saved = encoded_bytes(size, "float32") - encoded_bytes(size, "float16")
    vectors = {"down": 4, "up": 2}  # two sites train and evaluate, and send an update
    for key, number in vectors.items():
        less = exact[0][f"bytes_{key}"] - rounded[0][f"bytes_{key}"]
        assert less == (number * saved if key == way else 0)
    apart = distance(tmp_path / "whole", tmp_path / "half")
    assert 0 < apart < 4 * 10 * 2.0**-11


def test_a_site_that_sends_another_form_than_the_study_says_is_left_out(tmp_path: Path) -> None:
    one = study(rounds=1, transport={"up": "float16"})
    other = study(rounds=1)
    (record,) = run(one, tmp_path, sites_of(one) | {"b": honest(other, 1)})
    assert "as hemofed.float16" in record["sites"]["b"]["words"]
    assert record["sites"]["a"]["status"] == "ok"


class Broken(Exception):
    """Stands for a server that dies."""


def test_a_run_that_was_cut_off_ends_with_the_bits_of_an_unbroken_one(tmp_path: Path) -> None:
    one = study()
    run(one, tmp_path / "whole", sites_of(one))
    seen = 0

    def dies(record: RoundRecord) -> None:
        nonlocal seen
        seen += 1
        if seen in (1, 3):
            raise Broken

    for _ in range(2):
        with pytest.raises(Broken):
            run(one, tmp_path / "cut", sites_of(one), dies)
    with (tmp_path / "cut" / "rounds.jsonl").open("a") as log:
        log.write('{"round": 4, "sit')  # a disk was full
    run(one, tmp_path / "cut", sites_of(one), dies)
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    cut = load_file(tmp_path / "cut" / "model.safetensors")
    assert all((whole[name] == cut[name]).all() for name in whole)
    rounds = (tmp_path / "cut" / "rounds.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in rounds] == [1, 2, 3, 4]


def test_a_round_that_died_at_a_site_is_a_new_attempt_and_counts_once(tmp_path: Path) -> None:
    one, asked = study(), []

    def dies_once(message: Message) -> RecordDict | None:
        if message.metadata.message_type == "train":
            task = Task.read(message)
            asked.append((task.round, task.attempt))
            if asked == [(1, 0), (2, 0)]:
                raise Broken
        return honest(one, 0)(message)

    sites = sites_of(one) | {"a": dies_once}
    with pytest.raises(Broken):
        run(one, tmp_path / "cut", sites)
    records = run(one, tmp_path / "cut", sites)
    assert asked == [(1, 0), (2, 0), (2, 1), (3, 0), (4, 0)]
    assert [record["attempt"] for record in records] == [0, 1, 0, 0]


def test_an_evaluation_that_was_cut_off_is_a_new_attempt(tmp_path: Path) -> None:
    """A site that pays for noised metrics refuses to answer one attempt twice."""
    one, asked = study(rounds=2), []

    def dies_once(message: Message) -> RecordDict | None:
        task = Task.read(message)
        if message.metadata.message_type == "evaluate":
            asked.append((task.split, task.round, task.attempt))
            if asked.count(asked[-1]) > 1:
                return refusal_content(Reason.ANSWERED, "ab12")
            if asked[-1] in [("validation", 2, 0), ("test", 2, 0)]:
                raise Broken
        return honest(one, 0)(message)

    sites = sites_of(one) | {"a": dies_once}
    for _ in range(2):
        with pytest.raises(Broken):
            run(one, tmp_path, sites)
    records = run(one, tmp_path, sites)
    assert asked == [
        ("validation", 1, 0),
        ("validation", 2, 0),
        ("validation", 2, 1),
        ("test", 2, 0),
        ("test", 2, 1),
    ]
    assert all(set(record["evaluation"]["sites"]) == {"a", "b"} for record in records)
    assert set(json.loads((tmp_path / "outcome.json").read_text())["test"]) == {"a", "b"}


BAD = {
    "nan": "not finite",
    "huge": "exceeds max_update_norm",
    "short": "expected",
    "layout": "is not the study's",
    "extra": "no single update",
    "empty": "no single update",
    "refusal": "refused: budget (see ab12 in its log)",
    "silent": "no reply within",
}


def bad_content(kind: str, shape: Layout) -> RecordDict | None:
    values = np.zeros(shape.size, np.float32)
    if kind == "nan":
        values[3] = np.nan
    if kind == "huge":
        values[3] = 1e9
    if kind == "short":
        return Update(values[1:], shape.digest).content()
    if kind == "layout":
        return Update(values, "f" * 64).content()
    if kind == "extra":
        content = Update(values, shape.digest).content()
        content["update"] = ArrayRecord({"values": encode(values), "more": encode(values)})
        return content
    if kind == "empty":
        return RecordDict({"report": ConfigRecord({"num-examples": 10**12})})
    if kind == "refusal":
        return refusal_content(Reason.BUDGET, "ab12")
    if kind == "silent":
        return None
    return Update(values, shape.digest).content()


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_reply_is_named_and_left_out_and_the_others_count(tmp_path: Path, kind: str) -> None:
    one = study(rounds=1, server=ServerOptimizer())
    shape = layout(one)
    sites = {"a": honest(one, 0), "b": instead(one, lambda: bad_content(kind, shape))}
    (record,) = run(one, tmp_path / "mixed", sites)
    assert record["sites"]["a"]["status"] == "ok"
    assert BAD[kind] in str(ReplyStatus.from_json(record["sites"]["b"]))
    assert "secret" not in json.dumps(record)
    alone = study(rounds=1, server=ServerOptimizer(), cohort={"a": one.cohort["a"]})
    run(alone, tmp_path / "alone", {"a": honest(one, 0)})
    mixed = load_file(tmp_path / "mixed" / "model.safetensors")
    expected = load_file(tmp_path / "alone" / "model.safetensors")
    for name in mixed:
        np.testing.assert_allclose(mixed[name], expected[name], atol=1e-7)


class Told(Observer):
    """What the audit log would hear."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, str, str]] = []

    def left_out(self, number: int, site: str, reason: str) -> None:
        self.lines.append((number, site, reason))


READERS: dict[str, Callable[..., object]] = {
    "collection.Update.read": Update.read,
    "evaluation.read_tally": read_tally,
    "dispatch.read_head": read_head,
}


@pytest.mark.parametrize("which", READERS)
def test_whatever_is_raised_at_reading_a_reply_costs_that_site_its_reply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    one, told = study(rounds=1), Told()

    def raises(reply: Message, *rest: object) -> object:
        if reply.metadata.src_node_id == 3:  # site b's node
            raise OverflowError("Python int too large")
        return READERS[which](reply, *rest)

    monkeypatch.setattr(f"server.rounds.{which}", raises)
    rounds = Rounds(one, FakeGrid(sites_of(one)), tmp_path, told)
    rounds.run()
    record = json.loads((tmp_path / "rounds.jsonl").read_text())
    trained = which == "evaluation.read_tally"
    words = {} if trained else {"words": "it cannot be read (OverflowError)"}
    entry = record["sites"]["b"]
    assert entry["status"] == ("ok" if trained else "left out") and words.items() <= entry.items()
    assert record["sites"]["a"]["status"] == "ok"
    assert ("b" in record["evaluation"]["sites"]) == (which == "collection.Update.read")
    assert set(told.lines) == {(1, "b", "it cannot be read (OverflowError)")}


ROBUST = ("trimmed_mean", "median", "krum", "multi_krum")


def five(rule: str, bad: int = 1, rounds: int = 2) -> Study:
    """Five sites; the last one has declared a weight that lets it decide a mean."""
    return study(
        rounds=rounds,
        cohort={name: Participant(units=10, weight=99 if name == "e" else 1) for name in "abcde"},
        round=RoundPolicy(min_sites=5, deadline_seconds=0.2, max_update_norm=50),
        server=ServerOptimizer(aggregation=rule, byzantine_sites=bad),  # type: ignore[arg-type]
    )


def distance(one: Path, other: Path) -> float:
    left, right = (load_file(folder / "model.safetensors") for folder in (one, other))
    return float(np.sqrt(sum(((left[name] - right[name]) ** 2).sum() for name in left)))


@pytest.mark.parametrize("rule", ["mean", *ROBUST])
def test_one_hostile_site_at_the_norm_bound(tmp_path: Path, rule: str) -> None:
    """It takes a mean over, and moves a robust rule no further than honest sites differ."""
    one = five(rule, bad=rule != "mean")
    shape = layout(one)
    push = np.full(shape.size, 49.9 / shape.size**0.5, np.float32)
    hostile = instead(one, lambda: Update(push, shape.digest).content())
    records = run(one, tmp_path / "attacked", sites_of(one) | {"e": hostile})
    assert all(entry["status"] == "ok" for entry in records[-1]["sites"].values())
    run(one, tmp_path / "honest", sites_of(one))
    moved = distance(tmp_path / "attacked", tmp_path / "honest")
    if rule == "mean":
        assert moved > 40
    else:
        assert moved < 2 * one.rounds * 0.01 * shape.size**0.5


@pytest.mark.parametrize("rule", ROBUST)
def test_a_robust_run_that_was_cut_off_ends_with_the_bits_of_an_unbroken_one(
    tmp_path: Path, rule: str
) -> None:
    one = five(rule, rounds=3)

    def dies(record: RoundRecord) -> None:
        if record.round == 2:
            raise Broken

    run(one, tmp_path / "whole", sites_of(one))
    with pytest.raises(Broken):
        run(one, tmp_path / "cut", sites_of(one), dies)
    run(one, tmp_path / "cut", sites_of(one))
    assert distance(tmp_path / "whole", tmp_path / "cut") == 0


def test_too_few_sound_replies_stop_the_run_with_each_reason(tmp_path: Path) -> None:
    one = study(round=RoundPolicy(min_sites=2, deadline_seconds=0.2))
    shape = layout(one)
    sites = sites_of(one) | {"b": instead(one, lambda: bad_content("nan", shape))}
    with pytest.raises(FederationError, match=r"round 1: 1 sound .* b: left out: .* not finite"):
        run(one, tmp_path, sites)


def test_sites_that_never_come_are_named(tmp_path: Path) -> None:
    one = study(round=RoundPolicy(min_sites=2, deadline_seconds=0.2))
    with pytest.raises(FederationError, match=r"1 of at least 2 sites .* missing: b"):
        run(one, tmp_path, {"a": honest(one, 0)})


def test_a_stranger_is_not_asked_to_train(tmp_path: Path) -> None:
    one = study()
    grid = FakeGrid(sites_of(one) | {"stranger": honest(one, 9)})
    Rounds(one, grid, tmp_path, Observer()).run()
    assert {kind for name, kind in grid.sent if name == "stranger"} == {"query"}


def test_no_better_evaluation_for_long_stops_early_with_the_best_model(tmp_path: Path) -> None:
    one = study(rounds=50, evaluation=EvaluationSpec(patience=2))

    def never_better(site: Answer) -> Answer:
        def answer(message: Message) -> RecordDict | None:
            evaluates = message.metadata.message_type == "evaluate"
            return tally_content(tally()) if evaluates else site(message)

        return answer

    sites = {name: never_better(site) for name, site in sites_of(one).items()}
    assert len(run(one, tmp_path, sites)) == 3
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert (outcome["stopped"], outcome["best_round"]) == ("early stop", 1)


def test_an_evaluation_with_nothing_to_judge_by_stops_nothing(tmp_path: Path) -> None:
    one = study(evaluation=EvaluationSpec(patience=2))

    def blind(site: Answer) -> Answer:
        def answer(message: Message) -> RecordDict | None:
            evaluates = message.metadata.message_type == "evaluate"
            return tally_content(Tally.empty(len(TYPES))) if evaluates else site(message)

        return answer

    run(one, tmp_path, {name: blind(site) for name, site in sites_of(one).items()})
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert (outcome["stopped"], outcome["rounds"], outcome["best_round"]) == ("completed", 4, 4)


def noised_site(of: Study, right: int, cells: int = 900) -> Answer:
    """A site whose policy lets counts leave noised."""

    def answer(message: Message) -> RecordDict:
        if message.metadata.message_type != "evaluate":
            return honest(of, 1)(message)
        wrong = cells - right
        counts = np.array([2 * right, 2 * wrong, right, wrong, wrong, right])
        return tally_content(NoisedTally.of_counts(counts, 1.0))

    return answer


def test_scores_of_noised_counts_carry_the_noise_of_every_site(tmp_path: Path) -> None:
    """Pooled as they are, with one exact site among them; the model of the last round is kept."""
    one = study(rounds=3, evaluation=EvaluationSpec(epsilon=50.0))
    variance = metrics_sigma(one) ** 2
    sites = {"a": noised_site(one, 700), "b": noised_site(one, 800)}
    record = run(one, tmp_path, sites)[-1]["evaluation"]
    pooled = NoisedTally.of_counts(np.array([3000, 600, 1500, 300, 300, 1500]), 2 * variance)
    assert record["global"]["accuracy"] == pytest.approx(3000 / 3600, abs=1e-4)
    assert record["global"]["intervals"] == pooled.intervals()
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert outcome["best_round"] == 3
    assert outcome["kept"] == "the last: noise hides whether another is better"
    assert outcome["scores"]["global"]["intervals"] == pooled.intervals()
    assert outcome["test"]["a"]["noise_variance"] == pytest.approx(variance)
    sites["b"] = honest(one, 2)
    (tmp_path / "mixed").mkdir()
    mixed = run(one, tmp_path / "mixed", sites)[0]["evaluation"]["global"]
    assert mixed["accuracy"] == pytest.approx((1400 + 4) / (1800 + 10), abs=1e-3)
    assert mixed["ece"] is None and mixed["intervals"]["accuracy"]


def test_noise_alone_gives_no_figure_and_chooses_no_round(tmp_path: Path) -> None:
    one = study(evaluation=EvaluationSpec(epsilon=0.1))
    records = run(one, tmp_path, {name: noised_site(one, 30, 40) for name in ("a", "b")})
    for record in records:
        shown = record["evaluation"]
        for figures in (shown["global"], *shown["sites"].values()):
            assert [figures[name] for name in NAMES] == [None] * 4
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert (outcome["best_round"], outcome["stopped"]) == (4, "completed")
    assert outcome["kept"] == "the last: no round has a score"


def test_evaluation_counts_training_sites_together_and_every_site_alone(tmp_path: Path) -> None:
    cohort = {
        "a": Participant(units=9),
        "b": Participant(units=9),
        "far": Participant(role="held_out"),
    }
    one = study(cohort=cohort, rounds=2, evaluation=EvaluationSpec(every=2))
    records = run(one, tmp_path, sites_of(one))
    assert records[0]["evaluation"] is None
    seen = records[1]["evaluation"]
    low, high = seen["global"]["intervals"]["accuracy"]
    assert low <= seen["global"]["accuracy"] <= high
    classes = len(one.cell_types)
    assert all(len(part["recall"]) == classes for part in (seen["global"], *seen["sites"].values()))
    assert set(records[1]["evaluation"]["sites"]) == {"a", "b", "far"}
    assert set(records[1]["sites"]) == {"a", "b"}


def broken_after(of: Study, out: Path, rounds: int, sites: dict[str, Answer]) -> None:
    """Run so many rounds, and no more."""

    def observe(record: RoundRecord) -> None:
        if record.round == rounds:
            raise Broken

    with pytest.raises(Broken):
        run(of, out, sites, observe)


@pytest.mark.parametrize("connected", [("a", "b"), ("b",), ()])
def test_a_study_that_stopped_is_finished_with_the_rounds_that_it_has(
    tmp_path: Path, connected: tuple[str, ...]
) -> None:
    """No round more; whoever is there tests the model of the last whole round."""
    one = study()
    broken_after(one, tmp_path / "stopped", 2, sites_of(one))
    shorter = study(rounds=2)
    run(shorter, tmp_path / "short", sites_of(shorter))
    grid = FakeGrid({name: honest(one, number) for number, name in enumerate(connected)})
    outcome = Rounds(one, grid, tmp_path / "stopped", Observer()).finish()
    assert (outcome.rounds, outcome.stopped, set(outcome.test)) == (2, "finished", set(connected))
    assert [kind for _, kind in grid.sent if kind != "query"] == ["evaluate"] * len(connected)
    assert len((tmp_path / "stopped" / "rounds.jsonl").read_text().splitlines()) == 2
    written, expected = (
        load_file(tmp_path / name / "model.safetensors") for name in ("stopped", "short")
    )
    assert all(np.array_equal(written[key], expected[key]) for key in expected)


def test_without_a_whole_round_there_is_nothing_to_finish(tmp_path: Path) -> None:
    one = study()
    with pytest.raises(FederationError, match="no round is whole"):
        Rounds(one, FakeGrid(sites_of(one)), tmp_path, Observer()).finish()
    assert not (tmp_path / "model.safetensors").exists()


def test_why_a_site_refuses_stands_typed_in_the_record(tmp_path: Path) -> None:
    one = study(rounds=1, round=RoundPolicy(min_sites=1))
    sites = sites_of(one) | {"b": instead(one, lambda: refusal_content(Reason.BUDGET, "ab12"))}
    (record,) = run(one, tmp_path, sites)
    assert record["sites"]["b"]["reason"] == "budget" and "reason" not in record["sites"]["a"]
