"""A round's training against its definition: each step by hand, unit by unit, in float64."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from client.randomness import SystemEntropy
from client.site import open_site
from client.training import inputs, training
from client.training.inputs import Drawn, Rows, shuffled
from client.training.training import Job, train
from client.training.workspace import Workspace, workspace
from common.config.study import Member, Study
from common.errors import DataError, ModelError, PrivacyError
from common.models.parameter_vector import flatten, load
from common.privacy.clipping.clip_rule import MARGIN
from common.privacy.noise_source import NoiseSource
from common.wire.vector_codec import Vector
from simulations.engine.seeded import SeededEntropy
from tests.client.lab import PRIVACY, TYPES, first_model, make_lab, study

ALL = PRIVACY | {"sample_rate": 1.0, "local_steps": 1, "max_grad_norm": 0.05}
RATE = 0.1
UNITS = 25
"""What the study declares for the lab; it has other numbers of images and of patients."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_lab(tmp_path_factory.mktemp("training") / "lab", cells=36)


def bench(lab: Path, of: Study) -> Workspace:
    """With the model as the study begins, whatever other tests left of it."""
    made = workspace(open_site(lab), of)
    load(made.parameters, first_model(of))
    return made


def trained(
    lab: Path, of: Study, number: int = 1, noise: float = 1e-9, entropy: Any = None
) -> Vector:
    """What the round adds to the vector; the noise is next to none."""
    made = bench(lab, of)
    job = Job(of, "lab", Member(units=UNITS), number, noise)
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
    monkeypatch.setattr(training, "poisson", everybody)
    found = trained(lab, of)
    assert asked == [(0.25, 2)]
    assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)


def test_of_a_patient_no_more_cells_train_than_the_studys_cap(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, real, summed = [], inputs.Inputs.batch, training.clipped_gradient_sum

    def spied(inputs: inputs.Inputs, positions: Rows, draws: Tensor | None = None) -> Tensor:
        seen.append(positions)
        return real(inputs, positions, draws)

    def each_row_once(net: Any, loss: Any, rows_at: Any, targets: Tensor, **rest: Any) -> Any:
        rows_at(torch.arange(len(targets)))
        return summed(net, loss, rows_at, targets, **rest)

    monkeypatch.setattr(inputs.Inputs, "batch", spied)
    monkeypatch.setattr(training, "clipped_gradient_sum", each_row_once)
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
    asked, real = [], training.clipped_gradient_sum

    def spied(*inputs: Any, **settings: Any) -> Any:
        asked.append(settings["engine"])
        return real(*inputs, **settings)

    monkeypatch.setattr(training, "clipped_gradient_sum", spied)
    privacy = ALL | {"clipping": "automatic", "max_grad_norm": 20.0, "engine": engine}
    of = study(privacy=privacy, training={"learning_rate": RATE, "augment": False})
    expected = Reference(lab, of).update()
    found = trained(lab, of)
    assert np.linalg.norm(found - expected) < 0.01 * np.linalg.norm(expected)
    assert asked == [engine]


def test_a_cells_views_are_summed_in_chunks_made_for_so_many(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, real = [], training.clipped_gradient_sum

    def spied(*inputs: Any, **settings: Any) -> Any:
        asked.append((settings["views"], settings["expected"]))
        return real(*inputs, **settings)

    monkeypatch.setattr(training, "clipped_gradient_sum", spied)
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
        train(Job(of, "lab", Member(units=0), 1, 1.0), bench(lab, of).inputs, SystemEntropy())


def test_a_job_that_names_no_noise_does_not_train_in_private(lab: Path) -> None:
    of = study()
    with pytest.raises(PrivacyError, match="noise_multiplier=0.0: expected"):
        train(Job(of, "lab", Member(units=UNITS), 1), bench(lab, of).inputs, SystemEntropy())


def test_no_step_leaves_a_weight_beyond_the_sites_bound(lab: Path) -> None:
    """Nor as near as a float16 update's rounding; without a bound it goes as far as it goes."""
    of = empty(local_steps=1)
    for most, beyond in ((2.0, False), (math.inf, True)):
        made = bench(lab, of)
        train(Job(of, "lab", Member(units=UNITS), 1, 2.0, most), made.inputs, SystemEntropy())
        weights = flatten(made.parameters)
        if beyond:
            assert weights.min() < -2 and weights.max() > 2
        else:
            assert weights.max() == -weights.min() == 2 * (1 - 2**-9)


def test_a_private_job_that_would_stop_for_want_of_units_is_found_before_it_is_paid() -> None:
    with pytest.raises(DataError, match="declares 0 units for it"):
        Job(study(), "lab", Member(units=0), 1, 1.0).check()
    Job(study(), "lab", Member(units=1), 1, 1.0).check()
    Job(plain_study(), "lab", Member(units=0), 1).check()


@pytest.mark.parametrize(
    ("privacy", "rows"),
    [({}, 10.0), ({"augmentations": 3}, 30.0), ({"unit": "patient", "augmentations": 3}, 240.0)],
)
def test_the_rows_expected_are_of_the_most_cells_in_all_their_views(
    privacy: dict[str, Any], rows: float
) -> None:
    of = study(privacy=PRIVACY | {"max_cells_per_patient": 8} | privacy)
    assert Job(of, "lab", Member(units=UNITS), 1).expected_rows == pytest.approx(rows)


def test_views_are_drawn_row_by_row_from_the_secret_stream() -> None:
    draws = training._uniform(NoiseSource.seeded(b"views"), 2000, 7)
    assert draws.shape == (2000, 7) and draws.dtype == torch.float32
    assert 0 <= float(draws.min()) < 0.001 and 0.999 < float(draws.max()) < 1
    assert float(draws.mean()) == pytest.approx(0.5, abs=0.01)
    assert len(torch.unique(draws)) > 13_900, "no row is another's"
    assert torch.equal(training._uniform(NoiseSource.seeded(b"views"), 2000, 7), draws)
    assert training._uniform(NoiseSource.seeded(b"views"), 0, 7).shape == (0, 7)


priors = st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=2)


def weighted(prior: list[float], power: float) -> Study:
    shares = dict(zip(TYPES, prior, strict=True))
    return study(training={"rare_class_power": power, "class_prior": shares})


@given(prior=priors, power=st.floats(0, 1), seed=st.integers(0, 99))
@example(prior=[1e-6, 1.0], power=1.0, seed=0)
def test_no_class_weighs_more_than_one_and_the_rarest_weighs_one(
    prior: list[float], power: float, seed: int
) -> None:
    """So that a weighted loss is never above the plain one, whatever prior a study claims."""
    of = weighted(prior, power)
    logits = torch.randn(12, 2, generator=torch.Generator().manual_seed(seed))
    targets = torch.arange(12) % 2
    plain = F.cross_entropy(logits, targets, reduction="none")
    ratios = training._loss(of, torch.device("cpu"))(logits, targets) / plain
    rarest = int(np.argmin(prior))
    assert torch.allclose(ratios[targets == rarest], torch.tensor(1.0), atol=1e-5)
    expected = max((prior[1 - rarest] / prior[rarest]) ** -power, 1e-4)
    assert torch.allclose(ratios[targets != rarest], torch.tensor(expected), rtol=1e-3, atol=1e-6)


def plain_study(**spec: Any) -> Study:
    fields = {"batch_size": 8, "learning_rate": RATE, "augment": False} | spec
    return study(privacy={}, training=fields)


def train_plain(lab: Path, of: Study, number: int = 1) -> tuple[Vector, float]:
    made = bench(lab, of)
    loss = train(Job(of, "lab", Member(units=UNITS), number), made.inputs, SystemEntropy())
    assert loss is not None
    return flatten(made.parameters) - first_model(of), loss


def by_hand(lab: Path, of: Study, steps: int, rates: list[float]) -> tuple[Vector, float]:
    """SGD over the same batches, with torch's own optimizer."""
    made, spec = bench(lab, of), of.training
    model = copy.deepcopy(made.model)
    start = [value.detach().clone() for value in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    rows, losses = made.inputs.cells.rows("train"), []
    seed = Job(of, "lab", Member(units=UNITS), 1).seed("shuffle")
    for at, positions in zip(range(steps), shuffled(rows, 8, 9, seed), strict=False):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(made.inputs.batch(positions)), made.inputs.targets(positions))
        loss.backward()
        for value, origin in zip(model.parameters(), start, strict=True):
            assert value.grad is not None
            value.grad += spec.proximal_mu * (value.detach() - origin)
        if spec.gradient_clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), spec.gradient_clip)
        for group in optimizer.param_groups:
            group["lr"] = rates[at]
        optimizer.step()
        losses.append(float(loss.detach()))
    parts = [v.detach() - origin for v, origin in zip(model.parameters(), start, strict=True)]
    return np.asarray(torch.cat([p.flatten() for p in parts]).numpy()), float(np.mean(losses))


@pytest.mark.parametrize(
    ("spec", "steps", "rates"),
    [
        ({"max_local_steps": 3}, 3, [RATE] * 3),
        ({"max_local_steps": 3, "local_epochs": 9, "warmup_steps": 3}, 3, [0.025, 0.05, 0.075]),
        ({"max_local_steps": 3, "gradient_clip": 0.01}, 3, [RATE] * 3),
        ({"max_local_steps": 3, "proximal_mu": 5.0}, 3, [RATE] * 3),
    ],
)
def test_plain_training_is_the_optimizers_over_the_same_batches(
    lab: Path, spec: dict[str, Any], steps: int, rates: list[float]
) -> None:
    of = plain_study(**spec)
    expected, mean = by_hand(lab, of, steps, rates)
    found, loss = train_plain(lab, of)
    assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)
    assert loss == pytest.approx(mean, rel=1e-4)


def test_plain_augmentation_follows_the_seed_and_changes_what_is_learned(lab: Path) -> None:
    of = plain_study(augment=True)
    once, again = train_plain(lab, of), train_plain(lab, of)
    assert np.array_equal(once[0], again[0])
    assert not np.allclose(once[0], train_plain(lab, plain_study())[0])


def test_the_rate_falls_as_half_a_cosine_over_the_rounds() -> None:
    of = study(rounds=4, training={"learning_rate": 0.8, "schedule": "cosine"})
    rates = [Job(of, "lab", Member(), number).learning_rate for number in (1, 2, 3, 4)]
    expected = [0.8, 0.4 * (1 + math.sqrt(0.5)), 0.4, 0.4 * (1 - math.sqrt(0.5))]
    assert rates == pytest.approx(expected)
    assert Job(study(rounds=4), "lab", Member(), 3).learning_rate == 0.1


def test_training_that_diverges_is_an_error_and_says_so(lab: Path) -> None:
    of = plain_study(learning_rate=100.0, local_epochs=30)
    made = bench(lab, of)
    load(made.parameters, first_model(of) * np.float32(1e30))
    with pytest.raises(ModelError, match="round 1: the loss is (nan|inf); lower training"):
        train(Job(of, "lab", Member(), 1), made.inputs, SystemEntropy())


@pytest.mark.parametrize("units", [-1, 0, 1])
def test_a_private_study_needs_the_units_that_it_declares_before_it_is_paid(units: int) -> None:
    private = Job(study(), "lab", Member.model_construct(units=units), 1, 1.0)
    Job(study(privacy={}), "lab", Member.model_construct(units=units), 1).check()
    if units < 1:
        with pytest.raises(DataError, match="a private study needs a public number of units"):
            private.check()
    else:
        private.check()
        assert private.normaliser == PRIVACY["sample_rate"]


def test_a_batchs_rows_are_expected_of_patients_with_their_most_cells_in_each_view() -> None:
    many = PRIVACY | {"unit": "patient", "max_cells_per_patient": 3, "augmentations": 5}
    of = study(privacy=many, training={"learning_rate": 0.1, "augment": True})
    rows = Job(of, "lab", Member(units=20), 1, 1.0).expected_rows
    assert rows == pytest.approx(0.4 * 20 * 3 * 5)


def test_no_step_leaves_a_weight_beyond_the_policys(lab: Path) -> None:
    of = study(training={"learning_rate": 100.0})
    made = bench(lab, of)
    train(Job(of, "lab", Member(units=UNITS), 1, 1.0, 0.5), made.inputs, SeededEntropy(1))
    assert np.abs(flatten(made.parameters)).max() == pytest.approx(0.5, rel=2e-3)
