"""Membership inference: its arithmetic, and that it tells members where nothing is private."""

import math

import numpy as np
import pytest

from common.config.study import PrivacySpec, Study
from simulations.engine.seeded import SeededEntropy
from simulations.privacy_audit.membership_inference import (
    Size,
    area_under,
    infer,
    likelihood_ratios,
    rate_at,
    roc,
)


def coins(models: int, cells: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, (models, cells)).astype(bool)


def test_areas_and_rates_of_known_scores() -> None:
    member = np.array([[True, True, False, False]])
    assert area_under(np.array([[3.0, 2.0, 1.0, 0.0]]), member) == 1
    assert area_under(np.array([[1.0, 1.0, 1.0, 1.0]]), member) == 0.5
    assert area_under(np.array([[0.0, 3.0, 2.0, 1.0]]), member) == 0.5
    scores = np.concatenate([np.arange(100.0), np.arange(100.0) + 50])[None]
    ins = np.repeat([False, True], 100)[None]
    # One false alarm of 100 is allowed: above 98, where 51 members are.
    assert rate_at(scores, ins, 0.01) == pytest.approx(0.51)


def test_no_leak_gives_chance_and_its_interval_holds_it() -> None:
    rng, member = np.random.default_rng(1), coins(8, 300, 2)
    found = roc(likelihood_ratios(rng.standard_normal(member.shape), member), member, rng)
    assert found.area_interval[0] < 0.5 < found.area_interval[1]
    assert found.true_positives < 0.05


def test_each_cell_is_judged_by_its_own_shadows() -> None:
    """Cells differ far more than membership moves them: no single threshold would do."""
    rng, member = np.random.default_rng(3), coins(16, 200, 4)
    level = 10 * rng.standard_normal(200)
    confidences = level + 2.0 * member + 0.3 * rng.standard_normal(member.shape)
    assert area_under(likelihood_ratios(confidences, member), member) > 0.98
    assert area_under(confidences, member) < 0.65


def test_pictures_are_found_without_privacy_and_hardly_with_it() -> None:
    privacy = PrivacySpec(mode="local", epsilon=1.0, sample_rate=0.25, local_steps=4)
    study = Study(name="few", rounds=3, privacy=privacy)
    size = Size(cells=60, models=6)
    found = infer(study, SeededEntropy, np.random.default_rng(0), size)
    assert found.plain.area > 0.75
    # Who tells members of one epsilon by is right with e / (1 + e) at most, of every pair.
    assert found.private.area_interval[0] < math.e / (1 + math.e)
    assert found.private.area < found.plain.area - 0.15
