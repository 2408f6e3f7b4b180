"""`hemofed privacy plan`, and what protection of an image is worth to a patient."""

import json
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from common.config.loading import dump, parse
from common.config.study import Participant, Study
from common.errors import ConfigError, PrivacyError
from common.privacy.accounting import Event, epsilon, study_event
from common.privacy.planning.patient_level import patient_epsilon
from common.privacy.planning.plan import PrivacyPlan, make_plan
from common.privacy.planning.plausibility import MUCH_NOISE, noise_of_mean
from common.privacy.planning.threat_models import Cohort
from common.privacy.statistics_noise import COLOUR, COUNT, statistics_event
from server.rounds.cell_statistics import CellStatistics

if TYPE_CHECKING:
    from click.testing import Result

PRIVACY = {"mode": "local", "epsilon": 2.0, "sample_rate": 1.0, "local_steps": 2}
"""Without sampling, which composes fastest."""
COHORT = Cohort(sites=3)


def study(**privacy: object) -> Study:
    return parse(Study, {"name": "s", "rounds": 6, "privacy": PRIVACY | privacy}, "test")


@pytest.fixture(scope="module")
def plan() -> PrivacyPlan:
    return make_plan(study(), COHORT)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., "Result"]:
    """Run `hemofed privacy ...` in this process."""
    monkeypatch.setenv("COLUMNS", "80")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from typer.testing import CliRunner

        from common.privacy.planning.cli import app
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def test_the_plan_covers_patients_of_many_images(plan: PrivacyPlan) -> None:
    images, costs = zip(*plan.by_patient, strict=True)
    assert images == (1, 2, 5, 10, 50)
    assert costs[0] == plan.epsilon and list(costs) == sorted(costs)


def test_the_views_count_the_rounds_that_may_be_done_again() -> None:
    made = make_plan(study(spare_rounds=6), COHORT)
    local = made.views[0]
    assert local.by_round[-1] == (12, made.epsilon)
    assert local.epsilon <= made.epsilon_asked
    assert all(view.by_round[-1][0] == 12 for view in made.views)


def test_the_plan_ends_at_the_epsilon_that_was_asked(plan: PrivacyPlan) -> None:
    rounds, spent = zip(*plan.views[0].by_round, strict=True)
    assert rounds[0] == 1 and rounds[-1] == 6
    assert list(spent) == sorted(spent)
    assert spent[-1] == plan.epsilon <= plan.epsilon_asked < plan.epsilon_rdp
    assert plan.epsilon > 0.995 * plan.epsilon_asked


def test_the_plan_says_how_many_units_a_step_has_and_what_means_little(
    command: Callable[..., "Result"], tmp_path: Path
) -> None:
    few = {"a": Participant(units=4, weight=4), "b": Participant(units=1000, weight=1000)}
    made = make_plan(study(delta=1e-3).model_copy(update={"cohort": few}), COHORT)
    assert made.units == {"a": 4.0, "b": 1000.0} and len(made.doubts) == 1
    assert "privacy.delta is 0.001, and b has 1,000 images" in made.doubts[0]
    alone = {"a": Participant(units=round(1000 * made.enough), weight=1)}
    blur = noise_of_mean(
        study(sample_rate=1e-3).model_copy(update={"cohort": alone}), made.noise_multiplier
    )
    assert blur == pytest.approx(MUCH_NOISE, rel=1e-3)
    file = tmp_path / "few.yaml"
    file.write_text(dump(study(delta=1e-3).model_copy(update={"cohort": few})))
    said = " ".join(command("plan", str(file)).output.split())
    assert "images in a step: 1 of a site's; of the cohort: a 4, b 1,000; below" in said
    assert made.doubts[0] in said


def test_other_choices_say_what_they_would_need_and_cost(plan: PrivacyPlan) -> None:
    choices = {choice.change: choice for choice in plan.choices}
    assert "rate x 2" not in choices, "a rate of 1 cannot be raised"
    assert choices["as planned"].epsilon_as_is == plan.epsilon
    assert choices["as planned"].relative_noise == 1.0
    assert choices["rounds x 2"].noise_multiplier > plan.noise_multiplier
    assert choices["rounds x 2"].epsilon_as_is > plan.epsilon
    assert choices["rate / 2"].noise_multiplier < plan.noise_multiplier
    wider = choices["sites x 2"]
    assert wider.relative_noise == pytest.approx(math.sqrt(0.5))
    assert (wider.noise_multiplier, wider.epsilon_as_is) == (plan.noise_multiplier, plan.epsilon)
    more = choices["steps x 2"]
    assert more.noise_multiplier == choices["rounds x 2"].noise_multiplier
    # Composed Gaussian mechanisms: noise grows with the root of the steps.
    assert more.relative_noise == pytest.approx(math.sqrt(2), rel=2e-3)


@pytest.mark.parametrize("images", [1, 3])
def test_a_patient_almost_always_sampled_is_one_of_sensitivity_k(images: int) -> None:
    event = Event(
        mechanism="poisson_discrete_gaussian",
        sample_rate=1.0,
        noise_multiplier=12.0,
        steps=6,
        unit="image",
    )
    whole = patient_epsilon(event, 1e-5, images)
    assert whole == epsilon([replace(event, noise_multiplier=12.0 / images)], 1e-5)
    almost = patient_epsilon(replace(event, sample_rate=0.9999), 1e-5, images)
    assert 0.995 * whole <= almost <= whole * 1.002 + 0.005


def test_sampled_group_epsilon_lies_between_one_image_and_group_privacy() -> None:
    """Above k times the epsilon at a smaller delta it would be no better than the generic bound."""
    event = Event(
        mechanism="poisson_discrete_gaussian",
        sample_rate=0.1,
        noise_multiplier=2.0,
        steps=50,
        unit="image",
    )
    one, two = patient_epsilon(event, 1e-5, 1), patient_epsilon(event, 1e-5, 2)
    assert one == epsilon([event], 1e-5) < two
    share = epsilon([event], 1e-8)
    generic_delta = 1e-8 * (1 + math.exp(share))
    assert patient_epsilon(event, generic_delta, 2) <= 2 * share


def test_a_patient_as_the_unit_pays_no_more_for_more_images() -> None:
    made = make_plan(study(unit="patient"), COHORT)
    assert {value for _, value in made.by_patient} == {made.epsilon}
    assert "all images" in made.adjacency


@pytest.mark.parametrize(("images", "noise"), [(0, 1.0), (2, 0.0)])
def test_group_bounds_are_named(images: int, noise: float) -> None:
    event = Event(
        mechanism="poisson_gaussian",
        sample_rate=0.1,
        noise_multiplier=noise,
        steps=1,
        unit="image",
    )
    with pytest.raises(PrivacyError, match="at least one image"):
        patient_epsilon(event, 1e-5, images)


def test_the_command_reads_a_study_or_a_simulation_and_draws(
    command: Callable[..., "Result"], tmp_path: Path
) -> None:
    alone, inside = tmp_path / "study.yaml", tmp_path / "simulation.yaml"
    content = json.dumps({"name": "s", "rounds": 6, "privacy": PRIVACY})
    alone.write_text(content)
    inside.write_text(f'{{"study": {content}, "data": {{"source": "rendered"}}}}')
    figure = tmp_path / "plan.png"
    result = command("plan", alone, "--figure", figure)
    assert result.exit_code == 0, result.output
    assert "at delta 1e-05" in result.stdout and "has one image more" in result.stdout
    assert "each of 5 sites (others: --sites N)" in " ".join(result.stdout.split())
    with Image.open(figure) as picture:
        assert picture.size == (1440, 600)
    whole = json.loads(command("plan", inside, "--json").stdout)
    assert whole["noise_multiplier"] == make_plan(study(), COHORT).noise_multiplier
    off = command("plan", inside, "--set", "privacy.mode=none")
    assert isinstance(off.exception, PrivacyError)


def test_the_command_takes_a_simulations_variant_and_keys_from_either_root(
    command: Callable[..., "Result"], tmp_path: Path
) -> None:
    path = tmp_path / "simulation.yaml"
    private = json.dumps({"study": {"rounds": 6, "privacy": PRIVACY}})
    path.write_text(f"{{study: {{name: s}}, variants: {{private: {private}}}}}")
    words = ("plan", path, "--json", "--set", "variant=private")
    for key in ("privacy.epsilon", "study.privacy.epsilon"):
        result = command(*words, "--set", f"{key}=4")
        assert json.loads(result.stdout)["epsilon_asked"] == 4.0, result.output
    unknown = command("plan", path, "--set", "variant=public").exception
    assert isinstance(unknown, ConfigError)
    assert "no variant 'public'; it has: private" in str(unknown)


def test_the_command_forecasts_distributed_mode_and_says_that_it_is_a_forecast(
    command: Callable[..., "Result"], tmp_path: Path
) -> None:
    path = tmp_path / "study.yaml"
    cohort = {"a": {}, "b": {}, "c": {}, "t": {"role": "test"}}
    content = {"name": "s", "rounds": 6, "privacy": PRIVACY, "cohort": cohort}
    path.write_text(json.dumps(content))
    figure = tmp_path / "plan.png"
    shown = " ".join(command("plan", path, "--figure", figure).stdout.split())
    assert "The rows of mode distributed are a forecast" in shown
    assert (
        "each of 3 sites (others: --sites N) adds 1/sqrt(2)" in shown
        and "71% of local mode's noise" in shown
    )
    assert figure.exists()
    whole = json.loads(command("plan", path, "--json", "--sites", 9, "--dropouts", 2).stdout)
    assert whole["cohort"] == {"sites": 9, "colluders": 1, "dropouts": 2}
    assert whole["forecast"] and "are a forecast" in whole["distributed"]
    refused = command("plan", path, "--colluders", 3)
    assert isinstance(refused.exception, PrivacyError)


SHARED = PRIVACY | {"mode": "distributed", "local_steps": 1, "dropouts": 1}


def shared(sites: int, **privacy: float) -> Study:
    cohort = {f"s{number}": {"units": 100} for number in range(sites)}
    content = {"name": "s", "rounds": 6, "privacy": SHARED | privacy, "cohort": cohort}
    return parse(Study, content, "test")


def test_of_a_study_in_mode_distributed_the_plan_is_what_it_does(
    command: Callable[..., "Result"], tmp_path: Path
) -> None:
    path, figure = tmp_path / "study.yaml", tmp_path / "plan.png"
    path.write_text(dump(shared(6)))
    shown = " ".join(command("plan", path, "--figure", figure).stdout.split())
    assert "are what this study does" in shown and "forecast" not in shown
    assert "adds 1/sqrt(4) of it (colluders: 1, dropouts: 1)" in shown
    assert "the noise of all sites is longer than their gradients" in shown
    whole = json.loads(command("plan", path, "--json").stdout)
    assert whole["cohort"] == {"sites": 6, "colluders": 1, "dropouts": 1}
    views = {view["adversary"]: view for view in whole["views"]}
    planned = views["1 other site, 1 dropped"]
    assert planned["by_round"][-1][1] == pytest.approx(whole["epsilon"], rel=1e-9)
    assert views["all other sites"]["noise_multiplier"] == whole["noise_multiplier"] / 2
    other = json.loads(command("plan", path, "--json", "--colluders", 2).stdout)
    assert other["forecast"] and not whole["forecast"]
    path.write_text(dump(shared(0)))
    assert json.loads(command("plan", path, "--json").stdout)["forecast"], "it names no sites yet"


def test_the_plan_tells_what_statistics_cost_and_how_precise_they_come_out(
    command: Callable[..., "Result"], tmp_path: Path
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(dump(shared(6)))
    assert json.loads(command("plan", path, "--json").stdout)["statistics"] is None
    study = shared(6, statistics_epsilon=0.5)
    path.write_text(dump(study))
    told = json.loads(command("plan", path, "--json").stdout)["statistics"]
    event, training = statistics_event(study.privacy), study_event(study.privacy, study.rounds)
    assert event and 0.45 < epsilon([event], study.privacy.delta) <= 0.5
    assert told["with_training"] == epsilon([training, event], study.privacy.delta)
    # What comes out of the sum of 600 declared units' white cells, all of one type.
    numbers = np.zeros(len(study.cell_types) + 3, np.int64)
    numbers[0], numbers[-3:] = 600 * COUNT, 600 * COLOUR
    out = CellStatistics.of_sum(study, study.training_sites, numbers)
    first = out.cells[study.cell_types[0]]
    assert first.high - first.value == pytest.approx(told["cells"])
    assert 1 - out.colours["red"].low == pytest.approx(told["colour"], rel=0.1)
    shown = " ".join(command("plan", path).stdout.split())
    assert "statistics: the number of training cells of each type, to +-" in shown


def test_a_colour_that_the_noise_hides_is_forecast_as_hidden() -> None:
    few = make_plan(shared(4, statistics_epsilon=0.02), Cohort(sites=4, dropouts=1)).statistics
    many = make_plan(shared(6, statistics_epsilon=0.5), Cohort(sites=6, dropouts=1)).statistics
    assert few and few.colour and few.colour > 0.5 and "colour, which the noise hides" in few.words
    assert many and many.colour and many.colour < 0.5 and "of 255, over 6 sites" in many.words


def test_a_study_that_names_no_sites_yet_is_told_what_statistics_cost_all_the_same(
    command: Callable[..., "Result"], tmp_path: Path
) -> None:
    path, named = tmp_path / "study.yaml", shared(6, statistics_epsilon=0.5)
    path.write_text(dump(named.model_copy(update={"cohort": {}})))
    told = json.loads(command("plan", path, "--json").stdout)["statistics"]
    forecast = make_plan(named, Cohort(sites=6, dropouts=1)).statistics
    assert forecast and told["with_training"] == forecast.with_training
    assert told["sites"] == 0 and told["cells"] is None and told["colour"] is None
    shown = " ".join(command("plan", path).stdout.split())
    assert "up to epsilon 0.5 more, which makes" in shown and "the cohort names" in shown


def test_one_noise_for_all_falls_with_the_number_of_sites() -> None:
    """Against its mean over the units of all; a round stays one step."""
    choices = {one.change: one for one in make_plan(shared(6), Cohort(sites=6, dropouts=1)).choices}
    assert not [name for name in choices if name.startswith("steps")]
    now, then = noise_of_mean(shared(6), 1.0), noise_of_mean(shared(12), 1.0)
    assert choices["sites x 2"].relative_noise == pytest.approx(then / now)
    assert "sites / 2" not in choices, "three sites of which one may be away are no secret sum"
    more = make_plan(shared(8), Cohort(sites=8, dropouts=1)).choices
    wanted = noise_of_mean(shared(4), 1.0) / noise_of_mean(shared(8), 1.0)
    assert {one.change: one.relative_noise for one in more}["sites / 2"] == pytest.approx(wanted)


def test_a_study_without_privacy_has_no_plan(
    command: Callable[..., "Result"], tmp_path: Path
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("{name: s}")
    result = command("plan", path)
    assert isinstance(result.exception, PrivacyError) and "mode is none" in str(result.exception)
    assert isinstance(command("plan", tmp_path / "no.yaml").exception, ConfigError)
