"""Scores from counts that sites sum under masks; those that let exact ones leave stand beside."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict

from common.privacy.masking.pairwise_keys import EphemeralKey
from common.privacy.metrics_noise import metrics_sigma, shared_metrics_sigma
from common.wire.agreement import MaskingKey
from common.wire.messages import KEYS, Task, masked_counts_content, refusal_content
from common.wire.reasons import Reason
from server.rounds.observer import Observer
from server.rounds.rounds import Rounds
from tests.server.fake_grid import FakeGrid
from tests.server.rounds.test_masked_training import NAMES, Site, play, records, study

COUNTS = np.array([900, 100, 500, 50, 50, 400])
"""Right, wrong, and the matrix."""


def masks() -> dict[str, Any]:
    """Words that sum to nothing."""
    drawn = {
        name: np.random.default_rng(at).integers(0, 2**64, 6, np.uint64)
        for at, name in enumerate(NAMES[1:])
    }
    return drawn | {NAMES[0]: -np.sum(list(drawn.values()), 0)}


def masking(name: str, only: tuple[str, ...] = NAMES) -> Any:
    """A site whose policy lets noised counts leave."""
    words = masks() if only == NAMES else dict.fromkeys(NAMES, np.zeros(6, np.uint64))

    def answer(kind: str, task: Task) -> Any:
        if kind == KEYS:
            return MaskingKey(EphemeralKey(os.urandom(32)).public).content()
        if kind == "evaluate" and not task.agreement:
            return refusal_content(Reason.METRICS, "0123abcd")
        if kind == "evaluate":
            counts = COUNTS.astype("<i8").view(np.uint64) + words[name]
            return masked_counts_content(counts.tobytes(), "")
        return True

    return answer


def test_the_score_is_that_of_all_sites_together(tmp_path: Path) -> None:
    of = study()
    play(of, tmp_path, **{name: masking(name) for name in NAMES})
    found = records(tmp_path)[-1]["evaluation"]
    assert found["global"]["accuracy"] == pytest.approx(0.9, abs=1e-3)
    assert found["sites"] == {}
    low, high = found["global"]["intervals"]["accuracy"]
    assert low < 0.9 < high < low + 0.1


def test_one_noise_is_sharper_than_four(tmp_path: Path) -> None:
    of = study()
    one, four = len(NAMES) * shared_metrics_sigma(of) ** 2, len(NAMES) * metrics_sigma(of) ** 2
    assert one < 0.6 * four  # 4 / 2 shares, of variance, for one colluder and one that drops out


def test_sites_that_let_exact_counts_leave_stand_beside_the_sum(tmp_path: Path) -> None:
    of = study()
    masked = ("ant", "bee", "cow")
    answers = {name: masking(name, masked) for name in masked}
    sites = play(of, tmp_path, **answers)
    found = records(tmp_path)[-1]["evaluation"]
    assert list(found["sites"]) == ["dog"]
    assert found["global"]["accuracy"] == pytest.approx(2701 / 3001, abs=1e-3)
    purposes = [one.purpose for one in sites["ant"].agreements]
    assert purposes.count("validation") == 1 and purposes.count("test") == 1


def test_a_sum_that_lacks_a_site_is_no_score_and_is_not_asked_for_again(tmp_path: Path) -> None:
    def silent(kind: str, task: Task) -> Any:
        return None if kind == "evaluate" else masking("bee")(kind, task)

    answers = {name: masking(name) for name in NAMES} | {"bee": silent}
    sites = play(study(), tmp_path, **answers)
    found = records(tmp_path)[-1]["evaluation"]
    assert found["global"]["accuracy"] is None and found["sites"] == {}
    asked = [one for one in sites["ant"].asked if one[0] == "evaluate"]
    assert len(asked) == 2  # the last round's, and the test's


@pytest.mark.parametrize("wrong", [b"", b"x" * 7, bytes(8 * 5)])
def test_a_reply_that_is_no_masked_counts_is_left_out_by_name(tmp_path: Path, wrong: bytes) -> None:
    told: list[tuple[int, str, str]] = []

    class Told(Observer):
        def left_out(self, number: int, site: str, reason: str) -> None:
            told.append((number, site, reason))

    def bad(kind: str, task: Task) -> Any:
        if kind == "evaluate":
            return masked_counts_content(wrong, "")
        return masking("cow")(kind, task)

    of = study()
    answers = {name: masking(name) for name in NAMES} | {"cow": bad}
    sites = {name: Site(of, at, answers[name]) for at, name in enumerate(NAMES)}
    Rounds(of, FakeGrid(sites), tmp_path, Told()).run()
    assert {site for _, site, _ in told} == {"cow"}


def test_counts_that_no_sites_have_are_no_score(tmp_path: Path) -> None:
    """One that masks with others than it was told makes the sum uniform."""

    def lost(kind: str, task: Task) -> RecordDict | bool | None:
        if kind == "evaluate" and task.agreement:
            return masked_counts_content(np.full(6, 2**61, "<u8").tobytes(), "")
        return masking("dog")(kind, task)

    play(study(), tmp_path, **({name: masking(name) for name in NAMES} | {"dog": lost}))
    assert records(tmp_path)[-1]["evaluation"]["global"]["accuracy"] is None


def test_what_is_left_of_a_lost_sum_is_no_score(tmp_path: Path) -> None:
    """One site's exact cell would be the score of all, and choose the model."""
    masked = ("ant", "bee", "cow")

    def silent(kind: str, task: Task) -> Any:
        return None if kind == "evaluate" else masking("bee", masked)(kind, task)

    answers = {name: masking(name, masked) for name in masked} | {"bee": silent}
    play(study(), tmp_path, **answers)
    found = records(tmp_path)[-1]["evaluation"]
    assert list(found["sites"]) == ["dog"]
    assert found["global"]["accuracy"] is None


def test_nobody_is_waited_for_to_score_a_round_that_is_paid(tmp_path: Path) -> None:
    """Two of four labs go after their last sum: the round counts, without a score."""
    of = study(rounds=1)
    grid = FakeGrid({name: Site(of, at, masking(name)) for at, name in enumerate(NAMES)})
    answers = dict(grid._sites)

    def last(message: Message) -> RecordDict | None:
        reply = answers["ant"](message)  # which is asked last, for it has the fewest units
        if message.metadata.message_type == "train":
            gone = ("bee", "cow")
            grid._names = {node: name for node, name in grid._names.items() if name not in gone}
        return reply

    grid._sites["ant"] = last
    Rounds(of, grid, tmp_path, Observer()).run()
    (only,) = records(tmp_path)
    assert only["evaluation"]["global"]["accuracy"] is None
