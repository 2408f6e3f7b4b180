"""What the plan says of scores beforehand is what comes out, at the price it names."""

from typing import Any

import numpy as np
import pytest

from common.config.loading import parse
from common.config.study import Study
from common.noised_tally import NoisedTally
from common.privacy.metrics_noise import metrics_sigma
from common.privacy.planning.score_precision import WIDTHS, forecast


def study(**changes: Any) -> Study:
    content: dict[str, Any] = {
        "name": "first",
        "rounds": 10,
        "privacy": {"mode": "local", "spare_rounds": 1},
        "evaluation": {"every": 5, "epsilon": 1.0},
        "cohort": {"a": {"units": 2400}, "b": {"units": 800}, "far": {"role": "held_out"}},
    }
    return Study.model_validate(content | changes)


@pytest.mark.parametrize("privacy", [{"unit": "image"}, {"unit": "patient"}])
def test_the_forecast_is_the_width_that_comes_out(privacy: dict[str, Any]) -> None:
    one = study(privacy={"mode": "local"} | privacy)
    told, sigma = forecast(one), metrics_sigma(one)
    assert told and told.width
    assert told.cells == round(3200 / 7) * one.privacy.cells_of_a_unit
    assert (told.sites, told.evaluations, told.sigma) == (2, 3, sigma)
    rng, widths = np.random.default_rng(1), []
    right, wrong = round(0.8 * told.cells), round(0.2 * told.cells)
    for _ in range(300):
        counts = np.array([right, wrong, right, 0, 0, wrong])
        counts += np.rint(rng.normal(0, np.sqrt(2) * sigma, 6)).astype(np.int64)
        low, high = NoisedTally.of_counts(counts, 2 * sigma**2).intervals()["accuracy"] or (0, 1)
        widths.append(high - low)
    assert np.median(widths) == pytest.approx(told.width, rel=0.1)


def test_the_price_buys_what_it_is_named_for() -> None:
    told = forecast(study())
    assert told
    for wanted, price in told.prices:
        if price is not None:
            bought = forecast(study(evaluation={"every": 5, "epsilon": price}))
            assert bought and bought.width == pytest.approx(wanted, rel=0.02)
    assert [width for width, _ in told.prices] == list(WIDTHS)
    assert told.prices[0][1] is None and told.prices[-1][1] is not None


def test_what_would_say_nothing_is_told_before_it_runs() -> None:
    told = forecast(study(cohort={"a": {"units": 300}, "b": {"units": 200}}))
    assert told and told.width is None
    assert "is hidden by the noise: no figure will be given" in told.words
    assert "5 points: none, too few cells" in told.words


def test_no_units_no_forecast() -> None:
    assert forecast(study(cohort={})) is None
    assert forecast(study(cohort={"a": {"units": 0}})) is None


def test_an_epsilon_that_no_noise_meets_has_no_forecast() -> None:
    privacy = {"mode": "local", "delta": 1e-9}
    assert forecast(study(privacy=privacy, rounds=10_000, evaluation={"epsilon": 1e-3})) is None


def test_one_noise_for_all_makes_a_score_as_much_sharper_as_its_shares_are_smaller() -> None:
    content = {
        "name": "s",
        "rounds": 10,
        "privacy": {"mode": "local", "local_steps": 1},
        "cohort": {f"site-{at}": {"units": 2000} for at in range(5)},
    }
    local = forecast(parse(Study, content, "test"))
    content["privacy"] = {"mode": "distributed", "local_steps": 1}
    masked = forecast(parse(Study, content, "test"))
    assert local and masked and local.width and masked.width
    # Four shares make up the whole noise; each has its own smoothing term of three cells.
    assert masked.sigma == pytest.approx(((local.sigma**2 - 9) / 4 + 9) ** 0.5)
    assert masked.width < local.width
