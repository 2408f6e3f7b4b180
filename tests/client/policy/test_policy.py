"""The policy's word: each bound holds to its last digit, and nothing but the policy moves it."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.ledger.cost import StudyCost
from client.ledger.spending import check_affordable
from client.policy.policy import Policy, cohort_refusal, permit, read_policy, refusals
from client.site import open_site
from common.config.loading import CONFIGS, dump, read_study
from common.config.study import Participant, Study
from common.errors import ConfigError, PrivacyError
from common.wire.reasons import Fault, Reason
from tests.client.lab import OPEN, PRIVACY, make_lab, study

NOISE = 0.8
PATIENTS = PRIVACY | {"unit": "patient"}
ONE = study(privacy=PATIENTS)
"""Of the largest noise, epsilon, delta, rounds and clipping norm that `JUST` lets pass."""
JUST = Policy(
    lifetime_epsilon=4.0,
    study_epsilon=4.0,
    delta=1e-4,
    unit="patient",
    min_noise_multiplier=NOISE,
    max_grad_norm=1.0,
    min_cohort=1,
    max_rounds=3,
)


def with_policy(**changes: Any) -> Policy:
    return JUST.model_copy(update=changes)


def refusal(policy: Policy, of: Study, noise: float) -> Fault | None:
    """What the policy has against the study: at most one thing."""
    found = list(refusals(policy, of, noise))
    assert len(found) <= 1
    return found[0] if found else None


def test_all_that_the_policy_refuses_is_said_at_once() -> None:
    strict = with_policy(max_rounds=2, study_epsilon=3.0, delta=1e-6, min_cohort=2)
    with pytest.raises(PrivacyError) as refused:
        permit(strict, ONE, NOISE)
    for name in ("max_rounds is 2", "study_epsilon is 3", "delta 0.0001", "min_cohort is 2"):
        assert name in str(refused.value)
    assert refused.value.reason is Reason.MIN_COHORT, "the first, as they are listed"


@pytest.mark.parametrize("name", ["first", "distributed"])
def test_the_shipped_studies_fit_the_shipped_policy(tmp_path: Path, name: str) -> None:
    """Where a lab knows its patients; its budget lasts, evaluations and spare rounds counted."""
    policy = read_policy(CONFIGS / "sites" / "policy.yaml")
    shipped = read_study(CONFIGS / "studies" / f"{name}.yaml", [])
    if name == "distributed":
        with pytest.raises(PrivacyError, match="the policy's shared_noise is false"):
            permit(policy, shipped, StudyCost(shipped).noise_multiplier)
        policy = policy.model_copy(update={"shared_noise": True})
    permit(policy, shipped, StudyCost(shipped).noise_multiplier)
    (tmp_path / "lab").mkdir()
    site = open_site(make_lab(tmp_path / "lab" / "home", policy))
    check_affordable(site, policy, StudyCost(shipped))
    images = shipped.model_copy(
        update={"privacy": shipped.privacy.model_copy(update={"unit": "image"})}
    )
    with pytest.raises(PrivacyError, match="the policy's unit is patient"):
        permit(policy, images, StudyCost(images).noise_multiplier)


def test_a_study_at_every_bound_is_let_in() -> None:
    assert refusal(JUST, ONE, NOISE) is None
    permit(JUST, ONE, NOISE)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_rounds": 2}, "3 rounds; the policy's max_rounds is 2"),
        ({"study_epsilon": 3.999}, "epsilon 4; the policy's study_epsilon is 3.999"),
        ({"delta": 0.99e-4}, "delta 0.0001 exceeds the policy's 9.9e-05"),
        ({"max_grad_norm": 0.999}, "max_grad_norm 1 exceeds the policy's 0.999"),
        ({"min_noise_multiplier": 0.8001}, "noise multiplier 0.8; the policy's min_noise_mult"),
        ({"min_cohort": 2}, "1 sites train; the policy's min_cohort is 2"),
    ],
)
def test_a_hair_beyond_a_bound_is_refused_with_both_numbers(
    changes: dict[str, Any], said: str
) -> None:
    fault = refusal(with_policy(**changes), ONE, NOISE)
    assert fault is not None and said in fault.text
    assert fault.reason == f"policy: {next(iter(changes))}"
    with pytest.raises(PrivacyError, match="study lab-test is refused by policy.yaml: ") as error:
        permit(with_policy(**changes), ONE, NOISE)
    assert error.value.reason is fault.reason


def test_a_unit_weaker_than_the_policys_is_refused_and_a_stronger_one_is_not() -> None:
    images = study(privacy=PRIVACY)
    assert "it protects single images" in str(refusal(JUST, images, NOISE))
    assert refusal(with_policy(unit="image"), images, NOISE) is None
    assert refusal(with_policy(unit="image"), ONE, NOISE) is None


def test_no_privacy_needs_the_policys_word_and_is_held_to_cohort_and_rounds_all_the_same() -> None:
    of = study(privacy={})
    assert "the policy does not allow it" in str(refusal(JUST, of, 0.0))
    allowed = with_policy(without_privacy=True)
    assert refusal(allowed, of, 0.0) is None
    for changes, said in (({"max_rounds": 2}, "max_rounds"), ({"min_cohort": 2}, "min_cohort")):
        assert said in str(refusal(allowed.model_copy(update=changes), of, 0.0))


roles = st.sampled_from(["train", "test", "held_out"])


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), roles, min_size=1),
    st.sets(st.sampled_from("abcdefgh")),
    st.integers(1, 8),
)
def test_only_members_that_train_make_a_cohort(
    cohort: dict[str, str], members: set[str], least: int
) -> None:
    """A site that only tests, or is held out, gives no crowd to hide in."""
    given_ = {name: Participant.model_validate({"role": role}) for name, role in cohort.items()}
    of = Study.model_construct(**(dict(ONE) | {"cohort": given_}))
    training = sum(role == "train" and name in members for name, role in cohort.items())
    reason = cohort_refusal(with_policy(min_cohort=least), of, members)
    assert (reason is None) == (training >= least)
    if reason:
        assert reason.text == f"{training} sites train; the policy's min_cohort is {least}"


def test_the_cohort_that_a_study_names_is_counted_the_same_way() -> None:
    cohort = {
        "lab": Participant(units=20),
        "tester": Participant(role="test"),
        "external": Participant(role="held_out"),
    }
    of = study(privacy=PATIENTS, cohort=cohort)
    assert refusal(JUST, of, NOISE) is None
    assert "1 sites train" in str(refusal(with_policy(min_cohort=2), of, NOISE))
    both = study(privacy=PATIENTS, cohort=cohort | {"other": Participant(units=20)})
    assert refusal(with_policy(min_cohort=2), both, NOISE) is None


def test_a_site_without_a_policy_allows_nothing(tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match="the site has no policy, so nothing is allowed"):
        read_policy(tmp_path / "policy.yaml")
    (tmp_path / "policy.yaml").write_text(dump(JUST))
    assert read_policy(tmp_path / "policy.yaml") == JUST


ABOVE, LEAST, MOST = "greater than", "greater than or equal to", "less than or equal to"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("lifetime_epsilon", 0, f"{ABOVE} 0"), ("lifetime_epsilon", 1e6 + 1, f"{MOST} 1000000"),
        ("study_epsilon", 0, f"{ABOVE} 0"), ("study_epsilon", 1e6 + 1, f"{MOST} 1000000"),
        ("delta", 0, f"{ABOVE} 0"), ("delta", 1, "less than 1"),
        ("min_noise_multiplier", 0, f"{ABOVE} 0"), ("max_grad_norm", 0, f"{ABOVE} 0"),
        ("max_weight", 0, f"{ABOVE} 0"), ("max_weight", -0.5, f"{ABOVE} 0"),
        ("min_cohort", 0, f"{LEAST} 1"), ("max_rounds", 0, f"{LEAST} 1"),
        ("gpu_memory_share", 0, f"{ABOVE} 0"), ("gpu_memory_share", 1.01, f"{MOST} 1"),
        ("metrics", "all", "'none', 'noised' or 'exact'"), ("unit", "cell", "'image' or 'patient'"),
        ("noise", 1, "noise"), ("hours", "25:00-26:00", "25:00"),
    ],
)  # fmt: skip
def test_a_bound_that_bounds_nothing_is_no_policy(
    tmp_path: Path, key: str, value: object, said: str
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(dump(JUST))
    text = path.read_text()
    lines = [line for line in text.splitlines() if not line.startswith(f"{key}:")]
    path.write_text("\n".join([*lines, f"{key}: {value}"]))
    with pytest.raises(ConfigError, match=f"{key}.*{said}"):
        read_policy(path)


@pytest.mark.parametrize("epsilon", [1e-3, 0.5, 1e6])
def test_every_epsilon_from_the_least_to_a_million_is_taken(epsilon: float) -> None:
    policy = Policy(lifetime_epsilon=epsilon, study_epsilon=epsilon, delta=0.5)
    assert (policy.lifetime_epsilon, policy.study_epsilon) == (epsilon, epsilon)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("gpu_memory_share", 1), ("gpu_memory_share", 0.01), ("min_cohort", 1), ("max_rounds", 1),
        ("delta", 0.999), ("delta", 1e-9), ("min_noise_multiplier", 1e-3), ("max_grad_norm", 1e-3),
        ("max_weight", 1e-3),
    ],
)  # fmt: skip
def test_the_last_value_within_a_bound_is_taken(key: str, value: float) -> None:
    assert getattr(Policy.model_validate(JUST.model_dump() | {key: value}), key) == value


def test_what_a_policy_leaves_out_is_the_careful_choice() -> None:
    least = Policy(lifetime_epsilon=4, study_epsilon=4, delta=1e-5)
    assert (least.unit, least.metrics, least.without_privacy) == ("patient", "none", False)
    assert (least.min_noise_multiplier, least.max_grad_norm) == (0.3, 10.0)
    assert least.max_weight == 100.0
    assert (least.min_cohort, least.max_rounds, least.gpu_memory_share) == (2, 10_000, 1.0)


def test_a_study_may_not_have_more_than_the_lifetime() -> None:
    with pytest.raises(ValueError, match=r"study_epsilon=4.1 exceeds lifetime_epsilon=4.0"):
        Policy(lifetime_epsilon=4, study_epsilon=4.1, delta=1e-5)
    assert Policy(lifetime_epsilon=4, study_epsilon=4, delta=1e-5).budget.epsilon == 4


def test_the_ledgers_bounds_are_the_policys() -> None:
    budget = with_policy(lifetime_epsilon=9.0, study_epsilon=2.0).budget
    assert (budget.epsilon, budget.study_epsilon, budget.delta) == (9.0, 2.0, 1e-4)


def test_hours_hold_one_window_or_several_and_none_is_always() -> None:
    noon, night = datetime(2026, 5, 4, 12), datetime(2026, 5, 4, 23)
    assert JUST.computes_at(noon) and JUST.computes_at(night)
    one = Policy.model_validate(JUST.model_dump() | {"hours": "20:00-06:00"})
    assert one.computes_at(night) and not one.computes_at(noon)
    two = Policy.model_validate(JUST.model_dump() | {"hours": ["20:00-06:00", "11:00-13:00"]})
    assert two.computes_at(night) and two.computes_at(noon)
    assert not two.computes_at(datetime(2026, 5, 4, 15))


def test_the_tests_open_policy_is_open() -> None:
    assert refusal(OPEN, study(), 0.5) is None
