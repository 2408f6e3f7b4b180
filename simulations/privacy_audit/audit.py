"""Audits a study's training: attacks it, and compares the lower bounds with the claim."""

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
"""The number of tests. They share the significance, so that all hold together at the confidence."""
_STEPS_A_DOUBLING = 64
"""The number of noise multipliers per doubling on the grid of `_noise_bound`."""
_SMALLEST, _LARGEST = -3, 8
"""The ends of that grid, in doublings of the claimed noise multiplier."""


@dataclass(frozen=True, kw_only=True)
class Test:
    """One lower bound on epsilon, from some number of guesses."""

    name: str
    assumes: str
    """What the bound assumes, in words."""
    guesses: int
    """The number of guesses."""
    correct: int
    """The number of right guesses."""
    p_value: float
    """The largest probability of as many right guesses if the accountant's claim is true."""
    epsilon_lower: float
    """The lower bound."""


@dataclass(frozen=True, kw_only=True)
class Achievement:
    """What another adversary achieves. It is reported but not tested, so it costs no confidence."""

    name: str
    accuracy: float
    """The share of right guesses over all canaries; chance is one half."""
    epsilon_lower: float
    """The bound of `one_run`, at the full confidence for this adversary alone."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """An audit's lower bounds beside the claim. Every epsilon is at `delta`."""

    study: str
    """The study's name."""
    digest: str
    unit: str
    """What is protected: "image" or "patient"."""
    adjacency: str
    delta: float
    noise_multiplier: float
    sample_rate: float
    steps: int
    epsilon_upper: float
    """The epsilon that the accountant claims."""
    accountant: str
    canaries: int
    """The number of canaries."""
    confidence: float
    """The probability with which all tests together are right."""
    tests: tuple[Test, ...]
    views: tuple[Achievement, ...]

    @property
    def epsilon_lower(self) -> float:
        """The largest lower bound of the tests."""
        return max(test.epsilon_lower for test in self.tests)

    @property
    def passed(self) -> bool:
        """Whether no test refutes the claim."""
        return self.epsilon_lower <= self.epsilon_upper

    def as_dict(self) -> dict[str, Any]:
        """Return the audit as values for JSON."""
        return asdict(self) | {"epsilon_lower": self.epsilon_lower, "passed": self.passed}


def audit(
    study: Study,
    entropy: Entropy,
    rng: np.random.Generator,
    canaries: int = CANARIES,
    confidence: float = CONFIDENCE,
) -> Audit:
    """Attack the study's training and bound its epsilon from below.

    Args:
        study: the study to audit.
        entropy: what training draws from.
        rng: makes the canaries and their coins, which training must not know.
        canaries: how many canaries are made.
        confidence: with which all tests hold together.

    Raises:
        PrivacyError: the study's privacy mode is "none".
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
    """Return the three tests of an adversary's scores against a claim.

    Args:
        scores: (m,) the canaries' scores; larger means more likely included.
        included: (m,) the canaries' coins.
        event: the mechanism as it is claimed to be.
        delta: at which epsilon is bounded.
        confidence: with which all three tests hold together.
    """
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
    """Return P[Binomial(m, a) >= v], with a the best accuracy that the mechanism permits.

    The best guess of a fair coin is right with probability (1 + TV) / 2, where TV is the total
    variation distance between included and not included, which is delta at epsilon 0. For
    orthogonal canaries and independent noise, the coins stay independent given all that is
    released, so that no adversary's number of right guesses exceeds the binomial's.

    Args:
        count: m, the number of canaries, all of them guessed.
        right: v, the number of right guesses.
        noise: the claimed noise multiplier.
        rate: the claimed sample rate.
        steps: the claimed number of steps.
    """
    best = (1 + float(claimed(noise, rate, steps).deltas[0])) / 2
    return float(binom.sf(right - 1, count, min(best, 1.0)))


def _noise_bound(event: Event, delta: float, refutes: Callable[[float], bool]) -> float:
    """Return epsilon at the smallest noise multiplier on a grid that the guesses refute; 0 if none.

    More noise is refuted more easily. The claimed multiplier is on the grid, so the bound exceeds
    the claim exactly if a smaller multiplier is refuted, and equals it if the claimed one is the
    smallest refuted; that, too, refutes the claim, so the bound is then raised by the least amount
    (`nextafter`).
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
