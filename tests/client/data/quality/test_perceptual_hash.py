"""The pair search finds what comparing all with all finds; colours go there and back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from client.data.quality import perceptual_hash
from client.data.quality.colour import lab, rgb
from client.data.quality.outliers import robust_z


def _near_base(seed: int, count: int) -> np.ndarray:
    """Random hashes, half of them other ones with up to 9 bits changed."""
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 2**63, count, dtype=np.uint64)
    for at in range(count // 2):
        for bit in rng.choice(64, rng.integers(0, 10), replace=False):
            base[at] = base[rng.integers(count)] ^ (np.uint64(1) << np.uint64(bit))
    return base


def _pairs(base: np.ndarray, distance: int) -> set[tuple[int, int]]:
    return {
        pair
        for left, right in perceptual_hash.near_pairs(base, base, distance)
        for pair in zip(left.tolist(), right.tolist(), strict=True)
    }


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(0, 60), st.integers(0, 7))
def test_all_near_pairs_are_found(seed: int, count: int, distance: int) -> None:
    base = _near_base(seed, count)
    far = np.bitwise_count(base[:, None] ^ base[None]) if count else np.zeros((0, 0))
    wanted = {(i, j) for i, j in zip(*np.nonzero(far <= distance), strict=True) if i < j}
    assert _pairs(base, distance) == wanted


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(0, 60), st.integers(0, 7))
def test_neighbours_are_near_and_hold_equal_hashes_together(
    seed: int, count: int, distance: int
) -> None:
    base = np.concatenate([_near_base(seed, count), np.full(5, 7, np.uint64)])
    found = {
        frozenset(pair)
        for left, right in perceptual_hash.neighbours(base, distance)
        for pair in zip(left.tolist(), right.tolist(), strict=True)
    }
    assert all(np.bitwise_count(base[i] ^ base[j]) <= distance for i, j in map(tuple, found))
    assert {frozenset((count + at, count + at + 1)) for at in range(4)} <= found


def test_of_a_crowd_each_is_compared_with_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perceptual_hash, "_CROWD", 3)
    crowd = np.full(50, 12345, dtype=np.uint64)
    pairs = _pairs(crowd, 0)
    assert {left for left, _ in pairs} == {0, 1}
    assert pairs == {(0, 1), (0, 2), (1, 2)}


def test_small_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    base = _near_base(1, 80)
    whole = _pairs(base, 6)
    monkeypatch.setattr(perceptual_hash, "_BLOCK", 7)
    assert _pairs(base, 6) == whole != set()


@pytest.mark.parametrize("orientation", range(8))
def test_the_hash_of_an_orientation_is_that_of_the_turned_picture(orientation: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    turned = perceptual_hash.turn(pixels, orientation)[0]
    plain = perceptual_hash.hashes(Image.fromarray(pixels[0]))
    again = perceptual_hash.hashes(Image.fromarray(np.ascontiguousarray(turned)))
    assert np.bitwise_count(plain[orientation] ^ again[0]) <= 2


@settings(max_examples=30)
@given(arrays.arrays(np.uint8, (5, 3)))
def test_lab_and_back(pixels: np.ndarray) -> None:
    back = rgb(lab(pixels).astype(np.float64))
    assert np.abs(back.astype(int) - pixels.astype(int)).max() <= 1


def test_lab_of_known_colours() -> None:
    colours = np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 0, 255]], dtype=np.uint8)
    wanted = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86]]
    assert lab(colours) == pytest.approx(np.array(wanted), abs=0.05)


def test_robust_z_ignores_the_outlier_itself() -> None:
    values = np.array([1.0, 1.1, 0.9, 1.0, 50.0])
    z = robust_z(values, 0.01)
    assert z[-1] > 100 and np.abs(z[:-1]).max() < 2
    assert robust_z(np.zeros(4), 0.5).tolist() == [0] * 4
    assert robust_z(np.zeros(0), 0.5).size == 0
