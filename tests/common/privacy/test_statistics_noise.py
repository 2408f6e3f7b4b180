"""The noise of the training cells' statistics: what is asked for, paid for and can be drawn."""

import pytest

from common.config.study import Participant, Study
from common.errors import PrivacyError
from common.privacy import statistics_noise
from common.privacy.accounting import epsilon
from common.privacy.statistics_noise import COLOUR, COUNT, statistics_event, statistics_sigma

PRIVACY = {"mode": "distributed", "local_steps": 1, "delta": 1e-4}


def study(**privacy: object) -> Study:
    cohort = {name: Participant(units=30) for name in ("a", "b", "c")}
    content = {"name": "s", "privacy": PRIVACY | privacy, "cohort": cohort}
    return Study.model_validate(content)


@pytest.mark.parametrize("unit", ["image", "patient"])
@pytest.mark.parametrize("asked", [0.1, 2.0])
def test_the_event_is_one_answer_of_all_units_at_just_the_epsilon_asked(
    asked: float, unit: str
) -> None:
    event = statistics_event(study(statistics_epsilon=asked, unit=unit).privacy)
    assert event is not None
    assert (event.steps, event.sample_rate, event.mode) == (1, 1.0, "distributed")
    assert event.unit == unit
    assert 0.98 * asked < epsilon([event], 1e-4) <= asked


def test_the_numbers_are_what_every_version_takes_them_for() -> None:
    assert (COUNT, COLOUR) == (1024, 256)


def test_a_study_that_asks_for_none_has_no_event_and_no_noise() -> None:
    assert statistics_event(study().privacy) is None
    with pytest.raises(PrivacyError, match="statistics_epsilon is not set"):
        statistics_sigma(study())


def test_more_noise_than_can_be_drawn_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    of = study(statistics_epsilon=1.0)
    sigma = statistics_sigma(of)
    monkeypatch.setattr(statistics_noise, "MAX_SIGMA", sigma)
    assert statistics_sigma(of) == sigma
    monkeypatch.setattr(statistics_noise, "MAX_SIGMA", 1024.0)
    with pytest.raises(PrivacyError, match=f"{sigma / 1024:.3g} cells a site, and at most 1 can"):
        statistics_sigma(of)


def test_an_epsilon_that_no_noise_gives_is_refused_by_its_key() -> None:
    with pytest.raises(PrivacyError, match=r"privacy.statistics_epsilon: .*1e-07"):
        statistics_event(study(statistics_epsilon=1e-7).privacy)
