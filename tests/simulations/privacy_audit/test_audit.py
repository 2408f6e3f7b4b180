"""The audit of the real training code: honest training passes, broken training is caught."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from common.config.loading import dump
from common.config.study import PrivacySpec, Study
from common.errors import PrivacyError
from simulations.bench.fault_injection import (
    cells_as_units,
    clipping_times,
    masks_repeated,
    no_noise_after,
    noise_times,
    rate_times,
    repeated_noise,
    shares_missing,
    shares_too_small,
)
from simulations.engine.seeded import SeededEntropy
from simulations.privacy_audit import membership_inference
from simulations.privacy_audit.attack import attack
from simulations.privacy_audit.audit import Audit, audit, matched_p
from simulations.privacy_audit.canaries import LENGTH, make_canaries
from simulations.privacy_audit.cli import REFUTED, audit_command
from simulations.privacy_audit.guesses import correct, simulated
from simulations.privacy_audit.tradeoff import claimed

CANARIES = 1024


def study(**privacy: Any) -> Study:
    content = {"mode": "local", "epsilon": 3.0, "sample_rate": 0.5, "local_steps": 3} | privacy
    return Study(name="audited", rounds=4, privacy=PrivacySpec(**content))


def run(asked: Study, confidence: float = 0.95) -> Audit:
    return audit(asked, SeededEntropy(1), np.random.default_rng(1), CANARIES, confidence)


@pytest.mark.parametrize(
    "privacy",
    [
        {},
        {"clipping": "automatic", "max_grad_norm": 0.1},
        {"unit": "patient", "max_cells_per_patient": 2},
        {"engine": "vmap", "sample_rate": 1.0},
    ],
    ids=["flat", "automatic", "patient", "no sampling"],
)
def test_honest_training_passes_and_the_bound_is_near_the_claim(privacy: dict[str, Any]) -> None:
    # At 0.999 an honest training fails once in 1,000 times: other bits, drawn for another digest,
    # must not break a test.
    found = run(study(epsilon=8.0, **privacy), 0.999)
    assert found.passed
    assert found.epsilon_lower > 0.4 * found.epsilon_upper
    assert all(0 <= test.epsilon_lower <= found.epsilon_upper for test in found.tests)


MASKED = {"mode": "distributed", "local_steps": 1, "sample_rate": 1.0}


def test_honest_shares_under_masks_pass_and_the_bound_is_near_the_claim() -> None:
    found = run(study(epsilon=8.0, **MASKED), 0.999)
    assert found.passed
    assert found.epsilon_lower > 0.4 * found.epsilon_upper


@pytest.mark.parametrize(
    "fault",
    [partial(shares_missing, 3), partial(shares_too_small, 3), masks_repeated],
    ids=["shares missing", "shares too small", "masks repeated"],
)
def test_a_fault_of_the_shares_or_masks_is_caught(
    fault: Callable[[], AbstractContextManager[None]],
) -> None:
    with fault():
        found = run(study(**MASKED))
    assert not found.passed
    assert run(study(**MASKED)).passed


def test_a_cohort_without_an_honest_share_is_not_audited() -> None:
    with pytest.raises(PrivacyError, match="leave no honest share of the noise to audit"):
        run(study(**MASKED, colluders=5))


def test_noise_off_behind_the_accountants_back_is_caught_by_every_bound() -> None:
    with noise_times(0):
        found = run(study())
    assert not found.passed
    assert all(test.epsilon_lower > found.epsilon_upper for test in found.tests)


def test_clipping_off_is_caught_by_every_bound() -> None:
    with clipping_times(1e6):
        found = run(study())
    assert not found.passed
    assert all(test.epsilon_lower > found.epsilon_upper for test in found.tests)


@pytest.mark.parametrize(
    ("fault", "privacy"),
    [
        (lambda: noise_times(0.5), {}),
        (lambda: clipping_times(2.0), {"clipping": "automatic"}),
        (lambda: rate_times(1e6), {"sample_rate": 0.25}),
        (cells_as_units, {"unit": "patient", "max_cells_per_patient": 3}),
        (repeated_noise, {}),
        (lambda: no_noise_after(10), {}),
    ],
    ids=[
        "half the noise",
        "twice the norm",
        "all units join",
        "cells as units",
        "repeated noise",
        "no noise in 2 of 12 steps",
    ],
)
def test_a_fault_behind_the_accountants_back_is_caught(
    fault: Callable[[], AbstractContextManager[None]], privacy: dict[str, Any]
) -> None:
    with fault():
        assert not run(study(**privacy)).passed


@pytest.mark.parametrize(
    "privacy",
    [
        {"max_grad_norm": 1e-3},
        {"max_grad_norm": 1e4, "clipping": "automatic"},
        {"epsilon": 1000.0, "sample_rate": 1.0},
    ],
    ids=["tiny norm", "huge norm", "hardly any noise"],
)
def test_odd_settings_are_audited_as_well(privacy: dict[str, Any]) -> None:
    found = audit(study(**privacy), SeededEntropy(0), np.random.default_rng(0), 256, 0.999)
    assert found.passed
    assert found.views[0].accuracy > 0.55


def test_no_study_can_ask_for_a_fault() -> None:
    assert not {"noise_multiplier", "noise", "noise_factor"} & set(PrivacySpec.model_fields)


def test_the_matched_test_keeps_its_significance() -> None:
    """200 honest mechanisms: hardly one is called leaky at 5 %, and guesses come near the best."""
    rng, setting, refuted, right = np.random.default_rng(3), (2.0, 0.5, 6), 0, 0
    for _ in range(200):
        coins = rng.integers(0, 2, 500).astype(bool)
        found = correct(simulated(coins, 2.0, *setting, rng), coins, 500)
        refuted += matched_p(500, found, *setting) <= 0.05
        right += found
    assert refuted <= 18
    assert right / 200 / 500 > 0.98 * (1 + claimed(*setting).deltas[0]) / 2


def test_canaries_are_orthogonal_and_long() -> None:
    asked = study()
    canaries = make_canaries(300, asked, np.random.default_rng(0))
    errors = torch.nn.functional.one_hot(canaries.labels, len(asked.cell_types)) - 1 / len(
        asked.cell_types
    )
    gradients = torch.einsum("mk,md->mkd", errors, canaries.features).flatten(1)
    directions = gradients / gradients.norm(dim=1, keepdim=True)
    overlap = (directions @ directions.T).fill_diagonal_(0).abs()
    assert float(overlap.max()) < 1.01 / (len(asked.cell_types) - 1)
    assert float((overlap > 1e-5).float().sum(1).max()) <= 3
    assert float(gradients.norm(dim=1).min()) > 0.9 * LENGTH * asked.privacy.max_grad_norm
    assert 100 < canaries.included.sum() < 200


def test_the_views_agree_on_who_was_there_and_repeat() -> None:
    asked, seen = study(epsilon=50.0), []
    for _ in range(2):
        canaries = make_canaries(256, asked, np.random.default_rng(2))
        sight = attack(asked, canaries, 0.5, SeededEntropy(2))
        for scores in (sight.step, sight.round, sight.final):
            assert correct(scores, canaries.included, 256) > 0.8 * 256
        seen.append(sight.step)
    assert (seen[0] == seen[1]).all()


def test_a_study_without_privacy_claims_nothing_to_audit() -> None:
    with pytest.raises(PrivacyError, match="nothing"):
        run(study(mode="none"))


def command(*words: str) -> Any:
    app = typer.Typer()
    app.command()(audit_command)
    return CliRunner().invoke(app, list(words))


def test_the_command_takes_a_shipped_studys_name() -> None:
    passed = command("quickstart", "--quick", "--no-membership", "--seed", "4")
    assert passed.exit_code == 0, passed.output
    assert "passed" in passed.output


def test_the_command_prints_writes_json_and_gates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        membership_inference, "QUICK", membership_inference.Size(cells=40, models=4)
    )
    file, out = tmp_path / "study.yaml", tmp_path / "audit.json"
    file.write_text(dump(study()))
    options = ["--quick", "--confidence", "0.999", "--seed", "4", "--json", str(out)]
    passed = command(str(file), *options)
    assert passed.exit_code == 0, passed.output
    assert "passed" in passed.output
    content = json.loads(out.read_text())
    assert content["passed"] and content["epsilon_lower"] <= content["epsilon_upper"]
    assert {
        "canaries",
        "confidence",
        "delta",
        "digest",
        "tests",
        "views",
        "membership",
    } <= content.keys()
    with noise_times(0):
        failed = command(str(file), "--no-membership", *options)
    assert failed.exit_code == REFUTED
    assert "FAILED" in failed.output
    assert not json.loads(out.read_text())["passed"]
