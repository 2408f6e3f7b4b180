"""What of a round's work is public: rates, expected rows, declared units."""

import math
from typing import Any

import pytest

from client.training.job import Job
from common.config.study import Participant
from common.errors import DataError
from tests.client.lab import PRIVACY, study
from tests.client.training.bench import UNITS


def test_the_rate_falls_as_half_a_cosine_over_the_rounds() -> None:
    of = study(rounds=4, training={"learning_rate": 0.8, "schedule": "cosine"})
    rates = [Job(of, "lab", Participant(), number).learning_rate for number in (1, 2, 3, 4)]
    expected = [0.8, 0.4 * (1 + math.sqrt(0.5)), 0.4, 0.4 * (1 - math.sqrt(0.5))]
    assert rates == pytest.approx(expected)
    assert Job(study(rounds=4), "lab", Participant(), 3).learning_rate == 0.1


def test_a_private_job_that_would_stop_for_want_of_units_is_found_before_it_is_paid() -> None:
    with pytest.raises(DataError, match="declares 0 units for it"):
        Job(study(), "lab", Participant(units=0), 1, 1.0).check()
    Job(study(), "lab", Participant(units=1), 1, 1.0).check()
    Job(study(privacy={}), "lab", Participant(units=0), 1).check()


@pytest.mark.parametrize(
    ("privacy", "rows"),
    [({}, 10.0), ({"augmentations": 3}, 30.0), ({"unit": "patient", "augmentations": 3}, 240.0)],
)
def test_the_rows_expected_are_of_the_most_cells_in_all_their_views(
    privacy: dict[str, Any], rows: float
) -> None:
    of = study(privacy=PRIVACY | {"max_cells_per_patient": 8} | privacy)
    assert Job(of, "lab", Participant(units=UNITS), 1).expected_rows == pytest.approx(rows)


@pytest.mark.parametrize("units", [-1, 0, 1])
def test_a_private_study_needs_the_units_that_it_declares_before_it_is_paid(units: int) -> None:
    private = Job(study(), "lab", Participant.model_construct(units=units), 1, 1.0)
    Job(study(privacy={}), "lab", Participant.model_construct(units=units), 1).check()
    if units < 1:
        with pytest.raises(DataError, match="a private study needs a public number of units"):
            private.check()
    else:
        private.check()
        assert private.normaliser == PRIVACY["sample_rate"]


def test_a_batchs_rows_are_expected_of_patients_with_their_most_cells_in_each_view() -> None:
    many = PRIVACY | {"unit": "patient", "max_cells_per_patient": 3, "augmentations": 5}
    of = study(privacy=many, training={"learning_rate": 0.1, "augment": True})
    rows = Job(of, "lab", Participant(units=20), 1, 1.0).expected_rows
    assert rows == pytest.approx(0.4 * 20 * 3 * 5)
