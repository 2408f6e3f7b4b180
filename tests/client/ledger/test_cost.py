"""What a study costs, from the study alone."""

import pytest

from client.ledger.cost import StudyCost
from common.errors import PrivacyError
from tests.client.lab import PRIVACY, study

WHOLE = PRIVACY | {"sample_rate": 1.0}


def test_noise_that_cannot_be_drawn_stops_a_study_before_it_is_paid() -> None:
    """So many parameters that its grid has too many steps; without privacy nothing is drawn."""
    StudyCost(study(privacy=WHOLE)).check_drawable(1000)
    with pytest.raises(PrivacyError, match="can be drawn exactly"):
        StudyCost(study(privacy=WHOLE | {"epsilon": 5e-3})).check_drawable(10**9)
    StudyCost(study(privacy={})).check_drawable(10**15)
