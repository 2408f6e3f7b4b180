from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from client.randomness import SystemEntropy
from client.site import open_site
from client.training.inputs import first_of_each, poisson, seed_of, shuffled
from client.training.job import Job
from client.training.training import train
from client.training.workspace import workspace
from common.config.study import Participant
from common.device import quickest
from common.errors import DataError
from common.models import trainable
from common.models.parameter_vector import flatten, load
from common.privacy.noise_source import NoiseSource
from tests.client.lab import make_lab, study


def source(seed: int) -> NoiseSource:
    return NoiseSource.seeded(str(seed).encode())


@given(st.integers(0, 10_000), st.integers(0, 200), st.floats(0.01, 1), st.integers(1, 5))
def test_units_come_whole_or_not_and_never_with_too_many_cells(
    seed: int, cells: int, rate: float, most: int
) -> None:
    units = np.random.default_rng(seed).integers(0, 20, cells)
    rows = np.arange(cells) * 3
    drawn = poisson(rows, units, rate, most, source(seed))
    assert len(set(drawn.rows.tolist())) == len(drawn.rows)
    assert (units[drawn.rows // 3] == drawn.units).all()
    for unit in np.unique(drawn.units):
        expected = min(most, int((units == unit).sum()))
        assert (drawn.units == unit).sum() == expected


def test_each_unit_joins_at_the_public_rate_and_by_itself() -> None:
    rows, rate, draws = np.arange(400), 0.1, 500
    stream = source(0)
    joined = np.zeros((draws, 400))
    for n in range(draws):
        joined[n, poisson(rows, rows, rate, 1, stream).rows] = 1
    assert joined.mean() == pytest.approx(rate, abs=0.003)
    # Batch sizes vary as independent draws do: shuffled batches would all have one size.
    assert joined.sum(1).var() == pytest.approx(400 * rate * (1 - rate), rel=0.25)
    assert abs(np.corrcoef(joined[:, 0], joined[:, 1])[0, 1]) < 0.2


def test_one_more_unit_changes_nobody_elses_draw_rate() -> None:
    rate = 0.3
    counts = [
        sum(0 in poisson(np.arange(n), np.arange(n), rate, 1, source(s)).rows for s in range(2000))
        for n in (1, 50)
    ]
    assert counts[0] == pytest.approx(2000 * rate, abs=80)
    assert counts[1] == pytest.approx(2000 * rate, abs=80)


def test_rate_one_takes_everyone() -> None:
    assert len(poisson(np.arange(50), np.arange(50), 1.0, 1, source(1)).rows) == 50


def test_pixels_on_the_device_make_the_batch_that_pixels_on_disk_make(tmp_path: Path) -> None:
    site, of = open_site(make_lab(tmp_path)), study()
    disk = workspace(site, of).inputs
    held = replace(disk, images=torch.from_numpy(disk.cells.take(np.arange(40))))
    chosen = np.array([7, 0, 31])
    assert torch.equal(held.batch(chosen), disk.batch(chosen))


def test_bfloat16_trains_near_float32_and_never_under_privacy_nor_on_a_cpu(tmp_path: Path) -> None:
    path = make_lab(tmp_path)
    path.write_text(path.read_text().replace("precision: float32", "precision: bfloat16"))
    # A seed of its own: another test's model is shared with it, as that test left it.
    site, plain = open_site(path), study(privacy={}, seed=7)
    assert site.runtime.precision == "bfloat16"
    for private in (True, False):
        of = study() if private else plain
        assert workspace(site, of).inputs.precision == "float32"
    gpu = torch.device("cuda")
    assert (quickest(gpu, "bfloat16"), quickest(gpu, "float32")) == ("bfloat16", "float32")
    inputs, found = workspace(site, plain).inputs, {}
    start = flatten(trainable(inputs.network))
    for precision in ("float32", "bfloat16"):
        load(trainable(inputs.network), start)
        job = Job(plain, "lab", Participant(units=20), 1, 0.0)
        train(job, replace(inputs, precision=precision), SystemEntropy())
        found[precision] = flatten(trainable(inputs.network)) - start
    near, exact = found["bfloat16"], found["float32"]
    assert not np.array_equal(near, exact)
    assert np.linalg.norm(near - exact) < 0.1 * np.linalg.norm(exact)


def test_no_cells_give_an_empty_sample() -> None:
    empty = np.zeros(0, np.int64)
    assert len(poisson(empty, empty, 0.5, 3, source(0)).rows) == 0


def test_a_patients_cells_are_chosen_afresh_each_time() -> None:
    rows, units, stream = np.arange(30), np.zeros(30, np.int64), source(2)
    seen = {int(row) for _ in range(60) for row in poisson(rows, units, 1.0, 2, stream).rows}
    assert len(seen) > 25


@given(st.integers(1, 100), st.integers(1, 40), st.integers(1, 3), st.integers(0, 9))
def test_an_epoch_sees_every_cell_once(cells: int, size: int, epochs: int, seed: int) -> None:
    batches = list(shuffled(np.arange(cells), size, epochs, seed))
    seen = np.concatenate(batches)
    assert (np.bincount(seen, minlength=cells) == epochs).all()
    assert max(map(len, batches)) <= size
    again = np.concatenate(list(shuffled(np.arange(cells), size, epochs, seed)))
    assert (seen == again).all()


def test_no_training_cell_is_an_error() -> None:
    with pytest.raises(DataError, match="no training cell"):
        next(shuffled(np.zeros(0, np.int64), 8, 1, 0))


def test_seeds_tell_purposes_apart() -> None:
    assert len({seed_of(1, "a", 2), seed_of(1, "a", 3), seed_of(1, "b", 2), seed_of(1, "a2")}) == 4


@given(arrays(np.int64, st.integers(0, 60), elements=st.integers(0, 8)), st.integers(1, 5))
def test_one_patient_more_moves_the_counted_cells_by_that_patients_alone(
    units: np.ndarray[Any, Any], most: int
) -> None:
    """Whatever cells the others have: theirs are the same with and without the patient."""
    first = first_of_each(units, most)
    for unit in range(9):
        mine = units == unit
        assert first[mine].tolist() == [n < most for n in range(mine.sum())], "the first ones"
        assert np.array_equal(first[~mine], first_of_each(units[~mine], most))
