import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ModelError
from server.aggregation.norms import CHUNK, require_bounded, update_norm


@given(st.integers(0, 1000), st.sampled_from([0, 1, 7, CHUNK - 1, CHUNK, 2 * CHUNK + 5]))
def test_the_norm_is_the_square_root_of_the_sum_of_squares(seed: int, size: int) -> None:
    values = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    expected = np.sqrt(np.square(values.astype(np.float64)).sum())
    assert update_norm(values) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_norm_of_what_is_not_finite_is_not_finite(value: float) -> None:
    with pytest.raises(ModelError, match="not finite"):
        require_bounded(update_norm(np.array([0, value], np.float32)), 1e4)


def test_the_longest_float32_is_measured_and_exceeds_the_bound() -> None:
    with pytest.raises(ModelError, match=r"norm 3e\+38 exceeds max_update_norm 1e\+04"):
        require_bounded(update_norm(np.array([0, 3e38], np.float32)), 1e4)


def test_an_update_at_the_bound_is_accepted() -> None:
    require_bounded(update_norm(np.array([3, 4], np.float32)), 5.0)
    require_bounded(update_norm(np.zeros(0, np.float32)), 5.0)
    with pytest.raises(ModelError, match="exceeds"):
        require_bounded(update_norm(np.array([3, 4.001], np.float32)), 5.0)
