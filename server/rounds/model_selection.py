"""Selects which of a study's averaged models is kept: the best, or the last if noise hides it.

With exact scores, the model with the best score is kept. With noisy scores, it is kept only if it
beats the last one by more than the noise of both scores explains; otherwise the last averaged model
is kept, which has trained the longest. The margin makes the last model be kept in at least 95 of
100 studies whose rounds are all equally good (Bonferroni's bound over the evaluated rounds).
"""

import math
from dataclasses import dataclass

from scipy.special import ndtri

from common.metrics import Tally
from common.noised_tally import NoisedTally
from common.wire.vector_codec import Vector
from server.rounds.checkpoints import State

SCORE = "balanced_accuracy"
"""The metric that selects the model."""
_CHANCE = 0.05
"""The chance that noise alone makes a model other than the last be kept."""


@dataclass(frozen=True)
class SelectedModel:
    """The model that is tested and written."""

    model: Vector
    """The averaged parameters, (P,) float32."""
    round: int
    """The round after which it was averaged."""
    reason: str
    """Why this model is kept, in words."""


def note_score(state: State, pooled: Tally | NoisedTally) -> None:
    """Note the averaged model's score in `state`, and keep a copy of the model if it is the best.

    A noisy score never counts against the study's patience (`state.stale`). An evaluation without
    a score is neither better nor worse than others.

    Args:
        state: changed in place.
        pooled: the counts of the averaged model on the training sites' validation cells.
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
    """Return the model to keep of a run that ends in `state`.

    >>> import numpy as np
    >>> first, last = np.zeros(2, np.float32), np.ones(2, np.float32)
    >>> state = State(round=9, model=last, average=last, best=first, best_round=4, judged=9)
    >>> state.best_score, state.last_score = 0.8, 0.7
    >>> kept(state).round, kept(state).reason
    (4, 'the best score')
    >>> state.best_noise = state.last_noise = 0.1
    >>> kept(state).round, kept(state).reason
    (9, 'the last: noise hides whether another is better')
    """
    if state.best is None:
        return SelectedModel(state.average, state.round, "the last: no round has a score")
    if _better(state):
        return SelectedModel(state.best, state.best_round, "the best score")
    return SelectedModel(
        state.average, state.round, "the last: noise hides whether another is better"
    )


def _better(state: State) -> bool:
    """Return whether the best score exceeds the last one by more than noise explains."""
    if state.last_score is None:
        return state.best_noise == 0
    most = -ndtri(_CHANCE / 2 / max(state.judged, 1)) * math.hypot(
        state.best_noise, state.last_noise
    )
    return bool(state.best_score - state.last_score >= most)
