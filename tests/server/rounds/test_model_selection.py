"""Which averaged model is kept: chosen by a score only as far as its noise allows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.metrics import Tally
from common.noised_tally import NoisedTally
from server.rounds.checkpoints import State
from server.rounds.model_selection import kept, note_score


def exact(recall: float) -> Tally:
    """Two classes of 100 cells each, with that recall."""
    tally, right = Tally.empty(2), round(100 * recall)
    tally.counts[:, :, 0] = [[right, 100 - right], [100 - right, right]]
    return tally


def noised(recall: float, sigma: float, cells: int = 1000) -> NoisedTally:
    right = round(cells * recall)
    wrong = cells - right
    counts = np.array([2 * right, 2 * wrong, right, wrong, wrong, right])
    return NoisedTally.of_counts(counts, sigma**2)


def after(*scores: Tally | NoisedTally) -> State:
    """A run that evaluated a model a round; each model is the number of its round."""
    state = State(round=0, model=np.zeros(1, np.float32), average=np.zeros(1, np.float32))
    for score in scores:
        state.round += 1
        state.average = np.full(1, state.round, np.float32)
        note_score(state, score)
    return state


@given(st.lists(st.integers(1, 99), min_size=1, max_size=8))
def test_exact_scores_choose_the_first_of_the_best(recalls: list[int]) -> None:
    chosen = kept(after(*(exact(recall / 100) for recall in recalls)))
    assert chosen.round == 1 + recalls.index(max(recalls)) == chosen.model[0]
    assert chosen.reason == "the best score"


def test_a_difference_that_noise_explains_chooses_nothing() -> None:
    chosen = kept(after(noised(0.84, 10), noised(0.85, 10), noised(0.83, 10)))
    assert (chosen.round, chosen.model[0]) == (3, 3)
    assert chosen.reason == "the last: noise hides whether another is better"


def test_a_difference_beyond_the_noise_chooses_the_better() -> None:
    chosen = kept(after(noised(0.60, 10), noised(0.90, 10), noised(0.50, 10)))
    assert (chosen.round, chosen.model[0], chosen.reason) == (2, 2, "the best score")


def test_counts_that_say_nothing_choose_nothing() -> None:
    said_nothing = noised(0.9, 400)
    assert said_nothing.metrics()["balanced_accuracy"] is None
    state = after(said_nothing, said_nothing)
    assert (kept(state).round, kept(state).reason) == (2, "the last: no round has a score")
    assert kept(after(noised(0.9, 5), said_nothing)).round == 2, "nor does one against another"


def test_a_last_round_without_cells_leaves_the_exact_choice() -> None:
    assert kept(after(exact(0.8), exact(0.7), Tally.empty(2))).round == 1


def test_among_rounds_that_are_all_alike_the_last_is_kept() -> None:
    """In at least 95 of 100 studies of twenty rounds; the best of noisy scores would be any."""
    rng, sigma, others = np.random.default_rng(8), 12.0, 0
    for _ in range(200):
        counts = noised(0.8, sigma).counts
        draws = [counts + np.rint(rng.normal(0, sigma, 6)).astype(np.int64) for _ in range(20)]
        scores = (NoisedTally.of_counts(draw, sigma**2) for draw in draws)
        others += kept(after(*scores)).round != 20
    assert others <= 0.05 * 200


@pytest.mark.parametrize(("sigma", "stale"), [(0.0, 3), (10.0, 0)])
def test_patience_goes_by_exact_scores_alone(sigma: float, stale: int) -> None:
    scores = [0.9, 0.8, 0.8, 0.7]
    state = after(*(noised(s, sigma) if sigma else exact(s) for s in scores))
    assert state.stale == stale


def test_a_checkpoint_that_does_not_say_how_many_rounds_were_judged_keeps_its_best() -> None:
    state = after(exact(0.8), exact(0.7))
    state.judged = 0
    assert kept(state).round == 1
