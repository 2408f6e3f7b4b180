"""An audit from its study to its verdict."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from client.ledger.cost import StudyCost
from client.randomness import Entropy
from common.config.study import Study
from common.errors import PrivacyError
from common.privacy.accounting import ACCOUNTANT, ADJACENCY, Event, epsilon, study_event
from simulations.privacy_audit import guesses as choose
from simulations.privacy_audit.attack import Sight, attack
from simulations.privacy_audit.canaries import make_canaries
from simulations.privacy_audit.one_run import lower_bound
from simulations.privacy_audit.one_run import p_value as one_run_p
from simulations.privacy_audit.tradeoff import claimed, refuted
from simulations.privacy_audit.tradeoff import p_value as tradeoff_p

CANARIES = 4096
QUICK_CANARIES = 1024
CONFIDENCE = 0.95
TESTS = 3
"""They share the significance, so that all of them hold together at the confidence."""
_STEPS_A_DOUBLING = 64
_SMALLEST, _LARGEST = -3, 8
"""Doublings of the claimed noise between which the noise that explains the attack is sought."""


@dataclass(frozen=True, kw_only=True)
class Test:
    """One lower bound, from some number of guesses."""

    name: str
    assumes: str
    guesses: int
    correct: int
    p_value: float
    """Of the guesses, were the accountant's claim true."""
    epsilon_lower: float


@dataclass(frozen=True, kw_only=True)
class Achievement:
    """What another adversary achieves: told, not tested, so it spends no confidence."""

    name: str
    accuracy: float
    """Right guesses of all canaries; half is chance."""
    epsilon_lower: float
    """By one_run's bound at the full confidence, taken alone."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The bounds beside the claim; epsilon at `delta`."""

    study: str
    digest: str
    unit: str
    adjacency: str
    delta: float
    noise_multiplier: float
    sample_rate: float
    steps: int
    epsilon_upper: float
    accountant: str
    canaries: int
    confidence: float
    tests: tuple[Test, ...]
    views: tuple[Achievement, ...]

    @property
    def epsilon_lower(self) -> float:
        return max(test.epsilon_lower for test in self.tests)

    @property
    def passed(self) -> bool:
        """No test refutes the claim."""
        return self.epsilon_lower <= self.epsilon_upper

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"epsilon_lower": self.epsilon_lower, "passed": self.passed}


def audit(
    study: Study,
    entropy: Entropy,
    rng: np.random.Generator,
    canaries: int = CANARIES,
    confidence: float = CONFIDENCE,
) -> Audit:
    """Attack the study's training and bound its epsilon from below.

    `entropy` is what training draws from; `rng` makes the canaries and their coins, which training
    must not know. Raises PrivacyError for a study of mode "none".
    """
    if study.privacy.mode == "none":
        raise PrivacyError(
            f"study {study.name}: privacy.mode is none, so nothing is claimed and there is nothing "
            "to audit; set privacy.mode: local"
        )
    event, delta = study_event(study.privacy, study.rounds), study.privacy.delta
    chosen = make_canaries(canaries, study, rng)
    sight = attack(study, chosen, StudyCost(study).noise_multiplier, entropy)
    return Audit(
        study=study.name,
        digest=study.digest,
        unit=study.privacy.unit,
        adjacency=ADJACENCY[study.privacy.unit],
        delta=delta,
        noise_multiplier=event.noise_multiplier,
        sample_rate=event.sample_rate,
        steps=event.steps,
        epsilon_upper=epsilon([event], delta),
        accountant=ACCOUNTANT["pld"],
        canaries=canaries,
        confidence=confidence,
        tests=judge(sight.step, chosen.included, event, delta, confidence),
        views=_views(sight, chosen.included, event, delta, confidence),
    )


def judge(
    scores: NDArray[np.float64],
    included: NDArray[np.bool_],
    event: Event,
    delta: float,
    confidence: float,
) -> tuple[Test, ...]:
    """The three tests of the scores (m,) against what `event` claims."""
    count, significance = len(scores), (1 - confidence) / TESTS
    setting = (event.noise_multiplier, event.sample_rate, event.steps)
    few = choose.for_epsilon(count, *setting, delta, 1 - significance)
    some = choose.for_claim(count, *setting)
    claim = claimed(*setting)
    right = {n: choose.correct(scores, included, n) for n in (few, some, count)}

    def explained(test: Callable[[float], bool]) -> float:
        return _noise_bound(event, delta, test)

    return (
        Test(
            name="one run, (epsilon, delta)",
            assumes="assumes nothing (arXiv 2305.08846, theorem 5.2)",
            guesses=few,
            correct=right[few],
            p_value=one_run_p(count, few, right[few], epsilon([event], delta), delta),
            epsilon_lower=lower_bound(count, few, right[few], delta, 1 - significance),
        ),
        Test(
            name="one run, trade-off",
            assumes="tests the accountant's whole curve (arXiv 2410.22235, theorem 9)",
            guesses=some,
            correct=right[some],
            p_value=tradeoff_p(claim, count, some, right[some]),
            epsilon_lower=explained(
                lambda noise: refuted(
                    claimed(noise, *setting[1:]), count, some, right[some], significance
                )
            ),
        ),
        Test(
            name="matched",
            assumes="assumes noise of its own for each canary, as the mechanism draws it",
            guesses=count,
            correct=right[count],
            p_value=matched_p(count, right[count], *setting),
            epsilon_lower=explained(
                lambda noise: matched_p(count, right[count], noise, *setting[1:]) <= significance
            ),
        ),
    )


def matched_p(count: int, right: int, noise: float, rate: float, steps: int) -> float:
    """P[Binomial(m, a) >= v], a the best accuracy that the mechanism leaves to anybody.

    The best guess of a fair coin is right with probability (1 + TV) / 2, TV being the total
    variation distance of in and out, which is delta at epsilon 0. For orthogonal canaries and
    independent noise the coins stay independent given all that is released, so no adversary's
    right guesses exceed the binomial's.
    """
    best = (1 + float(claimed(noise, rate, steps).deltas[0])) / 2
    return float(binom.sf(right - 1, count, min(best, 1.0)))


def _noise_bound(event: Event, delta: float, refutes: Callable[[float], bool]) -> float:
    """Epsilon with the smallest noise multiplier, on a grid, that the guesses refute; 0 if none.

    More noise is refuted more easily. The grid has the claimed multiplier on it, so the bound
    exceeds the claim exactly when a smaller multiplier is refuted, and equals it when only the
    claimed one is; that too counts as above (`nextafter`), since it refutes the claim.
    """

    def noise(k: int) -> float:
        return float(event.noise_multiplier * 2.0 ** (k / _STEPS_A_DOUBLING))

    low, high = _SMALLEST * _STEPS_A_DOUBLING, _LARGEST * _STEPS_A_DOUBLING
    if not refutes(noise(high)):
        return 0.0
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if refutes(noise(middle)) else (middle + 1, high)
    explained = Event(
        mechanism=event.mechanism,
        sample_rate=event.sample_rate,
        noise_multiplier=noise(low),
        steps=event.steps,
        unit=event.unit,
    )
    bound = epsilon([explained], delta)
    return float(np.nextafter(bound, np.inf)) if low == 0 else bound


def _views(
    sight: Sight,
    included: NDArray[np.bool_],
    event: Event,
    delta: float,
    confidence: float,
) -> tuple[Achievement, ...]:
    count = len(included)
    few = choose.for_epsilon(
        count, event.noise_multiplier, event.sample_rate, event.steps, delta, confidence
    )
    return tuple(
        Achievement(
            name=name,
            accuracy=choose.correct(scores, included, count) / count,
            epsilon_lower=lower_bound(
                count, few, choose.correct(scores, included, few), delta, confidence
            ),
        )
        for name, scores in (
            ("each step's noisy gradient", sight.step),
            ("each round's update", sight.round),
            ("the final model's loss", sight.final),
        )
    )
