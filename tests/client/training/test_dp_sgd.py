"""A private round against its definition: each step by hand, unit by unit, in float64."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from client.randomness import SystemEntropy
from client.training import dp_sgd, inputs
from client.training.inputs import Drawn, Rows
from client.training.job import Job
from client.training.training import train
from common.config.study import Participant, Study
from common.errors import DataError, PrivacyError
from common.models.parameter_vector import flatten
from common.privacy.clipping.clip_rule import MARGIN
from common.privacy.noise_source import NoiseSource
from common.wire.vector_codec import Vector
from simulations.engine.seeded import SeededEntropy
from tests.client.lab import PRIVACY, first_model, make_lab, study
from tests.client.training.bench import RATE, UNITS, bench

ALL = PRIVACY | {"sample_rate": 1.0, "local_steps": 1, "max_grad_norm": 0.05}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_lab(tmp_path_factory.mktemp("training") / "lab", cells=36)


def trained(
    lab: Path, of: Study, number: int = 1, noise: float = 1e-9, entropy: Any = None
) -> Vector:
    """What the round adds to the vector; the noise is next to none."""
    made = bench(lab, of)
    job = Job(of, "lab", Participant(units=UNITS), number, noise)
    assert train(job, made.inputs, entropy or SeededEntropy(1)) is None
    return flatten(made.parameters) - first_model(of)


class Reference:
    """DP-SGD as the paper has it, in float64, with everybody in every step and no noise."""

    def __init__(self, lab: Path, of: Study) -> None:
        self.of, self.made = of, bench(lab, of)
        self.model = copy.deepcopy(self.made.model).double()
        self.start = [value.detach().clone() for value in self.model.parameters()]
        self.rows = self.made.inputs.cells.rows("train")
        patients = self.made.inputs.cells.units[self.rows]
        self.units = patients if of.privacy.unit == "patient" else self.rows

    def update(self) -> Vector:
        """What the round adds to the vector."""
        privacy = self.of.privacy
        for _ in range(privacy.local_steps):
            mean = self.clipped_sum() / (privacy.sample_rate * UNITS)
            self.step(mean)
        moved = [v - start for v, start in zip(self.model.parameters(), self.start, strict=True)]
        return np.asarray(torch.cat([part.detach().flatten() for part in moved]).numpy())

    def clipped_sum(self) -> Tensor:
        bound, total = self.of.privacy.max_grad_norm, torch.tensor(0.0, dtype=torch.float64)
        for unit in np.unique(self.units):
            gradient = self.gradient(self.rows[self.units == unit])
            norm = float(gradient.norm())
            plain = self.of.privacy.clipping == "flat"
            factor = min(1.0, bound / norm) if plain else bound / (norm + 0.01)
            total = total + gradient * MARGIN * factor
        return total

    def gradient(self, rows: Rows) -> Tensor:
        """Of the mean loss of some cells, (P,)."""
        images = self.made.inputs.batch(rows).double()
        losses = F.cross_entropy(
            self.model(images), self.made.inputs.targets(rows), reduction="none"
        )
        found = torch.autograd.grad(losses.mean(), list(self.model.parameters()))
        return torch.cat([part.flatten() for part in found])

    def step(self, mean: Tensor) -> None:
        parts = torch.split(mean, [value.numel() for value in self.model.parameters()])
        mu = self.of.training.proximal_mu
        with torch.no_grad():
            for value, part, start in zip(self.model.parameters(), parts, self.start, strict=True):
                value -= RATE * (part.view_as(value) + mu * (value - start))


def plain_views(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every view of an image is the image: several are then as good as one."""
    monkeypatch.setattr(inputs, "augment", lambda images, draws: images)


@pytest.mark.parametrize("unit", ["image", "patient"])
@pytest.mark.parametrize("views", [1, 3])
def test_a_private_step_is_the_clipped_mean_over_the_public_number(
    lab: Path, monkeypatch: pytest.MonkeyPatch, unit: str, views: int
) -> None:
    plain_views(monkeypatch)
    privacy = ALL | {"unit": unit, "augmentations": views, "max_cells_per_patient": 100}
    of = study(privacy=privacy, training={"learning_rate": RATE, "augment": True})
    expected = Reference(lab, of).update()
    found = trained(lab, of)
    assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)


@pytest.mark.parametrize("mu", [0.0, 50.0])
def test_later_steps_begin_where_the_last_one_ended_and_are_pulled_back(
    lab: Path, mu: float
) -> None:
    of = study(
        privacy=ALL | {"local_steps": 3, "max_grad_norm": 0.5},
        training={"learning_rate": RATE, "augment": False, "proximal_mu": mu / 10},
    )
    expected = Reference(lab, of).update()
    found = trained(lab, of)
    assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)


def test_the_sample_is_drawn_by_the_studys_rate_and_cap_and_normalised_by_the_rate(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def everybody(rows: Rows, units: Rows, rate: float, most: int, _: NoiseSource) -> Drawn:
        asked.append((rate, most))
        return Drawn(rows, units)

    privacy = ALL | {"sample_rate": 0.25, "unit": "patient", "max_cells_per_patient": 2}
    of = study(privacy=privacy, training={"learning_rate": RATE, "augment": False})
    expected = Reference(lab, of).update()
    monkeypatch.setattr(dp_sgd, "poisson", everybody)
    found = trained(lab, of)
    assert asked == [(0.25, 2)]
    assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)


def test_of_a_patient_no_more_cells_train_than_the_studys_cap(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, real, summed = [], inputs.Inputs.batch, dp_sgd.clipped_gradient_sum

    def spied(inputs: inputs.Inputs, positions: Rows, draws: Tensor | None = None) -> Tensor:
        seen.append(positions)
        return real(inputs, positions, draws)

    def each_row_once(net: Any, loss: Any, rows_at: Any, targets: Tensor, **rest: Any) -> Any:
        rows_at(torch.arange(len(targets)))
        return summed(net, loss, rows_at, targets, **rest)

    monkeypatch.setattr(inputs.Inputs, "batch", spied)
    monkeypatch.setattr(dp_sgd, "clipped_gradient_sum", each_row_once)
    privacy = ALL | {"unit": "patient", "max_cells_per_patient": 2, "augmentations": 3}
    trained(lab, study(privacy=privacy))
    rows = seen[0]
    patients = bench(lab, study(privacy=privacy)).inputs.cells.units
    assert set(np.unique(rows, return_counts=True)[1]) == {3}, "three views of each"
    assert np.bincount(patients[np.unique(rows)]).max() == 2


@pytest.mark.parametrize("engine", ["bookkeeping", "opacus", "vmap"])
def test_clipping_is_by_the_studys_rule_and_engine(
    lab: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    asked, real = [], dp_sgd.clipped_gradient_sum

    def spied(*inputs: Any, **settings: Any) -> Any:
        asked.append(settings["engine"])
        return real(*inputs, **settings)

    monkeypatch.setattr(dp_sgd, "clipped_gradient_sum", spied)
    privacy = ALL | {"clipping": "automatic", "max_grad_norm": 20.0, "engine": engine}
    of = study(privacy=privacy, training={"learning_rate": RATE, "augment": False})
    expected = Reference(lab, of).update()
    found = trained(lab, of)
    assert np.linalg.norm(found - expected) < 0.01 * np.linalg.norm(expected)
    assert asked == [engine]


def test_a_cells_views_are_summed_in_chunks_made_for_so_many(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, real = [], dp_sgd.clipped_gradient_sum

    def spied(*inputs: Any, **settings: Any) -> Any:
        asked.append((settings["views"], settings["expected"]))
        return real(*inputs, **settings)

    monkeypatch.setattr(dp_sgd, "clipped_gradient_sum", spied)
    trained(lab, study(privacy=ALL | {"sample_rate": 0.5, "augmentations": 3}))
    assert asked == [(3, 0.5 * UNITS * 3)]


class Listened:
    """The system's entropy, and what it was asked for."""

    repeats = False

    def __init__(self) -> None:
        self.purposes: list[tuple[str | int, ...]] = []

    def source(self, *purpose: str | int) -> NoiseSource:
        self.purposes.append(purpose)
        return SystemEntropy().source(*purpose)


def empty(**changes: Any) -> Study:
    """A study whose samples are all but always empty, so that its updates are noise alone."""
    privacy = PRIVACY | {"sample_rate": 1e-6, "local_steps": 1, "max_grad_norm": 0.5} | changes
    return study(privacy=privacy, training={"learning_rate": 1.0})


def test_the_noise_is_the_jobs_multiplier_of_the_clipping_norm(lab: Path) -> None:
    of = empty()
    noise = np.concatenate([trained(lab, of, 1, 2.0, SystemEntropy()) for _ in range(20)])
    expected = 2.0 * 0.5 / (1e-6 * UNITS)
    assert len(noise) > 5_000
    assert float(noise.std()) == pytest.approx(expected, rel=0.04)
    assert abs(float(noise.mean())) < 5 * expected / math.sqrt(len(noise))


def test_each_step_has_noise_of_its_own(lab: Path) -> None:
    """Steps with noise that repeats would add up to its multiple, not to its root."""
    noise = trained(lab, empty(local_steps=16), 1, 2.0, SystemEntropy())
    expected = 4 * 2.0 * 0.5 / (1e-6 * UNITS)
    assert float(noise.std()) == pytest.approx(expected, rel=0.2)


def test_who_is_sampled_and_the_noise_come_from_two_streams_of_each_round(lab: Path) -> None:
    of, entropy = study(), Listened()
    for number in (1, 2):
        trained(lab, of, number, 1.0, entropy)
    assert len(set(entropy.purposes)) == len(entropy.purposes) == 4
    assert {purpose[-1] for purpose in entropy.purposes} == {"sampling", "noise"}
    assert all(of.digest in purpose and "lab" in purpose for purpose in entropy.purposes)


def test_a_study_that_declares_no_units_for_the_site_is_refused(lab: Path) -> None:
    of = study()
    with pytest.raises(DataError, match="declares 0 units for it"):
        train(Job(of, "lab", Participant(units=0), 1, 1.0), bench(lab, of).inputs, SystemEntropy())


def test_a_job_that_names_no_noise_does_not_train_in_private(lab: Path) -> None:
    of = study()
    with pytest.raises(PrivacyError, match="noise_multiplier=0.0: expected"):
        train(Job(of, "lab", Participant(units=UNITS), 1), bench(lab, of).inputs, SystemEntropy())


def test_no_step_leaves_a_weight_beyond_the_sites_bound(lab: Path) -> None:
    """Nor as near as a float16 update's rounding; without a bound it goes as far as it goes."""
    of = empty(local_steps=1)
    for most, beyond in ((2.0, False), (math.inf, True)):
        made = bench(lab, of)
        train(Job(of, "lab", Participant(units=UNITS), 1, 2.0, most), made.inputs, SystemEntropy())
        weights = flatten(made.parameters)
        if beyond:
            assert weights.min() < -2 and weights.max() > 2
        else:
            assert weights.max() == -weights.min() == 2 * (1 - 2**-9)


def test_no_step_leaves_a_weight_beyond_the_policys(lab: Path) -> None:
    of = study(training={"learning_rate": 100.0})
    made = bench(lab, of)
    train(Job(of, "lab", Participant(units=UNITS), 1, 1.0, 0.5), made.inputs, SeededEntropy(1))
    assert np.abs(flatten(made.parameters)).max() == pytest.approx(0.5, rel=2e-3)


def test_views_are_drawn_row_by_row_from_the_secret_stream() -> None:
    draws = dp_sgd._uniform(NoiseSource.seeded(b"views"), 2000, 7)
    assert draws.shape == (2000, 7) and draws.dtype == torch.float32
    assert 0 <= float(draws.min()) < 0.001 and 0.999 < float(draws.max()) < 1
    assert float(draws.mean()) == pytest.approx(0.5, abs=0.01)
    assert len(torch.unique(draws)) > 13_900, "no row is another's"
    assert torch.equal(dp_sgd._uniform(NoiseSource.seeded(b"views"), 2000, 7), draws)
    assert dp_sgd._uniform(NoiseSource.seeded(b"views"), 0, 7).shape == (0, 7)
