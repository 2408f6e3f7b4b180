"""Statistics of the training cells: what they are, and how far one unit moves them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from client.data.site_cells import SiteCells
from client.training import statistics_release
from client.training.statistics_release import colour_numbers, statistics
from common.config.study import Study
from common.privacy.statistics_noise import (
    COLOUR,
    COUNT,
    SENSITIVITY,
    statistics_event,
    statistics_sigma,
)
from tests.client.masking.company import PRIVACY, masked_study

TYPES = ("basophil", "eosinophil", "monocyte")


@dataclass(frozen=True)
class Pictures:
    """Stands for a cache: its pictures are in memory, and it notes how many are read at a time."""

    images: NDArray[np.uint8]
    read: list[int]

    @property
    def side(self) -> int:
        return int(self.images.shape[1])

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        self.read.append(len(rows))
        return self.images[rows]


def cells_of(
    images: NDArray[np.uint8], labels: Any, units: Any, splits: Any = None
) -> tuple[SiteCells, list[int]]:
    read: list[int] = []
    given = np.full(len(images), "train") if splits is None else np.asarray(splits)
    cells = SiteCells(
        (Pictures(images, read),),  # type: ignore[arg-type]
        np.asarray(labels, np.int64),
        given,
        np.asarray(units, np.int64),
        held_out=False,
    )
    return cells, read


def study(**privacy: object) -> Study:
    asked = PRIVACY | {"statistics_epsilon": 2.0, **privacy}
    return masked_study(cell_types=TYPES, privacy=asked)


@st.composite
def labs(draw: st.DrawFn) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    count = draw(st.integers(1, 12))
    shape = (count, 2, 2, 3)
    values = st.sampled_from([0, 255]) if draw(st.booleans()) else st.integers(0, 255)
    images = draw(arrays(np.uint8, shape, elements=values))
    labels = draw(arrays(np.int64, count, elements=st.integers(0, 2)))
    return images, labels, draw(arrays(np.int64, count, elements=st.integers(0, 3)))


@given(labs(), st.integers(1, 4), st.sampled_from(["image", "patient"]))
def test_one_unit_more_moves_them_by_no_more_than_the_noise_is_made_for(
    lab: tuple[Any, Any, Any], most: int, unit: str
) -> None:
    images, labels, units = lab
    if unit == "image":
        units = np.arange(len(units))
    of = study(unit=unit, max_cells_per_patient=most)
    with_all = statistics(cells_of(images, labels, units)[0], of)
    for one in np.unique(units):
        others = units != one
        without = cells_of(images[others], labels[others], units[others])[0]
        moved = np.linalg.norm(with_all - statistics(without, of))
        assert moved <= SENSITIVITY * of.privacy.cells_of_a_unit


@pytest.mark.parametrize("shade", [0, 255])
def test_a_patient_of_white_or_of_black_cells_moves_them_by_exactly_that(shade: int) -> None:
    images = np.full((7, 4, 4, 3), shade, np.uint8)
    of = study(unit="patient", max_cells_per_patient=5)
    told = statistics(cells_of(images, np.ones(7), np.zeros(7))[0], of)
    assert np.linalg.norm(told) == pytest.approx(5 * SENSITIVITY, rel=1e-12)


def test_a_share_is_for_that_sensitivity_and_the_noise_that_is_paid_for() -> None:
    of = study(unit="patient", max_cells_per_patient=5)
    event = statistics_event(of.privacy)
    assert event is not None
    whole = 2 * statistics_sigma(of) ** 2  # of three sites one may collude
    assert whole >= (event.noise_multiplier * 5 * SENSITIVITY) ** 2
    assert whole == pytest.approx((event.noise_multiplier * 5 * SENSITIVITY) ** 2, rel=1e-4)


@given(arrays(np.uint8, (3, 2, 5, 3)))
def test_a_colour_is_its_mean_to_half_a_step(images: NDArray[np.uint8]) -> None:
    means = images.reshape(3, -1, 3).mean(1) / 255
    told = colour_numbers(images)
    assert np.abs(told).max() <= COLOUR
    assert np.abs((1 + told / COLOUR) / 2 - means).max() <= 0.25 / COLOUR + 1e-12


def test_only_training_cells_count_each_with_its_type_and_a_few_are_read_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(statistics_release, "_PIECE", 4)
    images = np.random.default_rng(1).integers(0, 256, (30, 4, 4, 3), np.uint8)
    labels, splits = np.arange(30) % 3, np.repeat(["train", "validation", "test"], 10)
    cells, read = cells_of(images, labels, np.arange(30), splits)
    told = statistics(cells, study())
    assert told[:3].tolist() == [4 * COUNT, 3 * COUNT, 3 * COUNT]
    assert np.array_equal(told[3:], colour_numbers(images[:10]).sum(0))
    assert read == [4, 4, 2]


def test_a_lab_without_training_cells_has_none() -> None:
    cells, _ = cells_of(np.zeros((2, 4, 4, 3), np.uint8), [0, 1], [0, 1], ["test", "test"])
    assert statistics(cells, study()).tolist() == [0] * 6
