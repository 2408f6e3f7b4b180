"""Which of a study's averaged models is kept: the best one, where that can be told.

Exact scores choose the round of the best. Scores that carry noise choose it only where it is better
than the last round by more than the noise of both, in 95 of 100 studies whose rounds are all alike
(Bonferroni's bound over the rounds that were looked at); otherwise the last averaged model is kept,
which has learnt longest.
"""

import math
from dataclasses import dataclass

from scipy.special import ndtri

from common.metrics import Tally
from common.noised_tally import NoisedTally
from common.wire.vector_codec import Vector
from server.rounds.checkpoints import State

SCORE = "balanced_accuracy"
_CHANCE = 0.05


@dataclass(frozen=True)
class SelectedModel:
    """The model that is tested and written, of which round, and why it is that one."""

    model: Vector
    round: int
    reason: str


def note_score(state: State, pooled: Tally | NoisedTally) -> None:
    """Remember how the averaged model does, and the model itself where it is the best so far.

    A score that carries noise never counts against a study's patience.
    """
    score = pooled.metrics()[SCORE]
    state.last_score, state.last_noise = score, 0.0
    if score is None:  # no cell to judge by, or nothing but noise: neither better nor worse
        return
    if isinstance(pooled, NoisedTally):
        state.last_noise = pooled.noise(SCORE)
    state.judged += 1
    if score > state.best_score:
        state.best, state.best_score = state.average.copy(), score
        state.best_noise, state.best_round, state.stale = state.last_noise, state.round, 0
    elif not state.last_noise:
        state.stale += 1


def kept(state: State) -> SelectedModel:
    """The model to keep of a run that ends here."""
    if state.best is None:
        return SelectedModel(state.average, state.round, "the last: no round has a score")
    if _better(state):
        return SelectedModel(state.best, state.best_round, "the best score")
    return SelectedModel(
        state.average, state.round, "the last: noise hides whether another is better"
    )


def _better(state: State) -> bool:
    """Whether the best score is better than the last one, beyond what noise explains."""
    if state.last_score is None:
        return state.best_noise == 0
    most = -ndtri(_CHANCE / 2 / max(state.judged, 1)) * math.hypot(
        state.best_noise, state.last_noise
    )
    return bool(state.best_score - state.last_score >= most)
