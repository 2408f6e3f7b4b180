"""What leaves a lab, through the app: one unit more changes it by no more than is paid for.

Two labs answer the same message; one has one unit more. The noise is replaced by zeros, after its
size was noted. The difference of what they send may be as large as the noise is made for: its size
over the noise multiplier that stands in the ledger.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from client.app import client_app
from client.data.cache import prepare
from client.ledger.binding import create_simulated_ledger
from client.ledger.ledger import Ledger
from client.site import open_site
from client.training import metrics_release
from common.config.loading import dump
from common.config.study import CellSource, Participant, Site, Study
from common.models import build, federated
from common.models.parameter_vector import flatten
from common.noised_tally import NoisedTally
from common.privacy import noise
from common.privacy.noise import SMOOTHING
from common.wire.messages import Update, read_refusal, read_tally
from tests.client.lab import OPEN, context, message

TYPES = ("myeloblast", "lymphocyte", "monocyte")
PATIENTS, MOST = 9, 6
"""Patients in the cache; the last one is the unit more, and each has MOST cells."""
RATE = 10.0


class Stream:
    """Random words of which each call has its own: a unit more takes none of the others' away."""

    def __init__(self, seed: int) -> None:
        self.seed, self.calls = seed, 0

    def words(self, count: int) -> NDArray[np.uint64]:
        self.calls += 1
        drawn = np.random.default_rng((self.seed, self.calls))
        return drawn.integers(0, 2**64, count, dtype=np.uint64)


@dataclass
class Scripted:
    """An `Entropy` whose streams are those of `Stream`."""

    seed: int
    repeats: bool = False

    def source(self, *purpose: str | int) -> Stream:
        return Stream(self.seed)


@dataclass
class Silence:
    """In place of `discrete_gaussian`: zeros, and the sigmas that were asked for."""

    sigmas: list[float] = field(default_factory=list)

    def __call__(self, n: int, sigma: float, source: object) -> NDArray[np.int64]:
        self.sigmas.append(sigma)
        return np.zeros(n, np.int64)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells of PATIENTS patients; half for training, half for validation, patient by patient."""
    folder = tmp_path_factory.mktemp("cells")
    rng, rows = np.random.default_rng(5), ["path,label,patient"]
    for number in range(PATIENTS * MOST):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{TYPES[number % 3]},p{number // MOST:02}")
    (folder / "cells.csv").write_text("\n".join(rows))
    return prepare(folder, 32, cache_root=tmp_path_factory.mktemp("cache"))


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch) -> Silence:
    made = Silence()
    monkeypatch.setattr(noise, "discrete_gaussian", made)
    monkeypatch.setattr(metrics_release, "discrete_gaussian", made)
    return made


Lab = Callable[[str, NDArray[np.int64], str], Path]


@pytest.fixture
def lab(tmp_path: Path, cache: Path) -> Lab:
    """(name of the folder, rows, their split) -> site.yaml of a lab of these cells."""

    def make(name: str, rows: NDArray[np.int64], split: str) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "ledger.sqlite").unlink(missing_ok=True)
        records = np.array([(row, split) for row in rows], [("row", np.int64), ("split", "U10")])
        np.save(folder / "cells.npy", records)
        source = CellSource(folder=cache, selection=folder / "cells.npy")
        site = Site(name="lab", cells=(source,))
        (folder / "site.yaml").write_text(dump(site))
        policy = OPEN.model_copy(update={"metrics": "noised", "lifetime_epsilon": 1e5})
        (folder / "policy.yaml").write_text(dump(policy))
        create_simulated_ledger(open_site(folder / "site.yaml"))
        return folder / "site.yaml"

    return make


FROZEN = {"name": "efficientnet-lite0", "weights": "imagenet", "encoder": "frozen"}
models = st.one_of(
    st.fixed_dictionaries({"name": st.just("cnn"), "width": st.just(1)}),
    st.fixed_dictionaries(
        {
            **{key: st.just(value) for key, value in FROZEN.items()},
            "features": st.just("middle"),
            "quarter_turns": st.booleans(),
            "projection": st.sampled_from([None, "rendered"]),
            "centre": st.booleans(),
        }
    ),
)


@st.composite
def studies(draw: st.DrawFn) -> Study:
    model = draw(models)
    trains = "encoder" not in model
    augment = trains and draw(st.booleans())
    privacy = {
        "mode": "local",
        "epsilon": 4.0,
        "delta": 1e-4,
        "sample_rate": 1.0,
        "local_steps": 1,
        "unit": draw(st.sampled_from(["image", "patient"])),
        "max_cells_per_patient": draw(st.integers(1, MOST)),
        "max_grad_norm": draw(st.sampled_from([0.1, 1.0])),
        "clipping": draw(st.sampled_from(["flat", "automatic"])),
        "engine": draw(st.sampled_from(["bookkeeping", "vmap"])),
        "augmentations": draw(st.integers(1, 3)) if augment else 1,
    }
    power = draw(st.sampled_from([0.0, 0.5]))
    training = {
        "learning_rate": RATE,
        "augment": augment,
        "rare_class_power": power,
        "class_prior": dict(zip(TYPES, (0.7, 0.2, 0.1), strict=True)) if power else {},
    }
    return Study.model_validate(
        {
            "name": "sensitivity",
            "cell_types": TYPES,
            "image_side": 32,
            "rounds": 3,
            "seed": draw(st.integers(0, 3)),
            "model": model,
            "training": training,
            "privacy": privacy,
            "cohort": {"lab": Participant(units=draw(st.sampled_from([8, 40])))},
        }
    )


def asked(study: Study, kind: str, number: int, scale: float) -> tuple[Message, int]:
    """A message with the first model, moved by random numbers of size `scale`, and its size."""
    model = build(study.model, len(study.cell_types), study.image_side, study.seed)
    values = flatten(federated(model))
    values += np.random.default_rng(1).uniform(-scale, scale, len(values)).astype(np.float32)
    return message(study, kind, number, values), len(values)


def neighbours(study: Study, cells: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows with and without one unit; it is the last, and has `cells` cells."""
    more = np.arange((PATIENTS - 1) * MOST + (cells if study.privacy.unit == "patient" else 1))
    return more, more[: (PATIENTS - 1) * MOST]


def paid_noise(site: Path) -> float:
    """The noise multiplier of the one debit in the ledger."""
    with Ledger.read(open_site(site).ledger) as ledger:
        (row,) = ledger.rows("debit")
    return row.event.noise_multiplier


def size_of_sum(study: Study, change: NDArray[np.float64], number: int) -> float:
    """L2 norm of the clipped sum behind a difference of updates, by the study's constants."""
    normaliser = study.privacy.sample_rate * study.cohort["lab"].units
    if study.model.centre and number == 1:
        moved = change[change != 0]
        features = 320 if study.model.projection else 424
        assert len(moved) <= features
        return (
            float(np.linalg.norm(change))
            * normaliser
            * (study.privacy.max_grad_norm / math.sqrt(features))
        )
    return float(np.linalg.norm(change)) * normaliser / RATE


# An example takes a second, so none is made smaller.
EXAMPLES = settings(
    max_examples=20,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@EXAMPLES
@given(
    study=studies(),
    number=st.integers(1, 2),
    cells=st.integers(1, MOST),
    scale=st.sampled_from([0.1, 3.0, 50.0]),
    seed=st.integers(0, 999),
)
def test_one_unit_more_moves_an_update_by_no_more_than_is_paid_for(
    lab: Lab, silence: Silence, study: Study, number: int, cells: int, scale: float, seed: int
) -> None:
    silence.sigmas.clear()
    (question, size), updates = asked(study, "train", number, scale), []
    for name, rows in zip(("more", "less"), neighbours(study, cells), strict=True):
        site = lab(name, rows, "train")
        reply = client_app(Scripted(seed))(question, context(site))
        assert read_refusal(reply) is None
        updates.append(Update.read(reply, size).values.astype(np.float64))
    noised = 320 if study.model.projection else 424
    values = len(updates[0])
    if study.model.centre:
        values = noised if number == 1 else values - noised
    grid = noise.grid_for(values, study.privacy.max_grad_norm)
    covered = math.sqrt(silence.sigmas[0] ** 2 - SMOOTHING**2) / paid_noise(site) / grid
    moved = size_of_sum(study, updates[0] - updates[1], number)
    # float32 parameters of up to 50 are rounded by 2e-6 when a step is added to them.
    rounded = 4e-6 * max(scale, 1.0) * math.sqrt(values) * study.cohort["lab"].units / RATE
    assert moved <= covered + rounded
    assert covered <= study.privacy.max_grad_norm * 1.0016
    assert set(silence.sigmas) == {silence.sigmas[0]}


@EXAMPLES
@given(
    study=studies(),
    cells=st.integers(1, MOST),
    scale=st.sampled_from([0.1, 50.0]),
    seed=st.integers(0, 999),
)
def test_one_unit_more_moves_an_evaluation_by_no_more_than_is_paid_for(
    lab: Lab, silence: Silence, study: Study, cells: int, scale: float, seed: int
) -> None:
    silence.sigmas.clear()
    (question, _), counts = asked(study, "evaluate", 1, scale), []
    for name, rows in zip(("more", "less"), neighbours(study, cells), strict=True):
        site = lab(name, rows, "validation")
        reply = client_app(Scripted(seed))(question, context(site))
        assert read_refusal(reply) is None
        tally = read_tally(reply, study)
        assert isinstance(tally, NoisedTally)
        counts.append(tally.counts)
    covered = math.sqrt(silence.sigmas[0] ** 2 - SMOOTHING**2) / paid_noise(site)
    moved = float(np.linalg.norm(counts[0] - counts[1]))
    assert moved <= covered * (1 + 1e-9)
    assert moved > 0, "or the unit more was not counted, and nothing is shown"
