"""A frozen encoder's features: the embeddings themselves, computed once."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from client.training.feature_cache import cached_features, encoder_digest, extract
from common.config.study import ModelSpec
from common.errors import DataError
from common.models import Classifier, build
from common.models.pixels import to_tensor

CPU = torch.device("cpu")


class Shelf:
    """Cells in memory that count how often they are read."""

    def __init__(self, count: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.pixels = rng.integers(0, 256, (count, 20, 20, 3), dtype=np.uint8)
        self.fingerprint = f"shelf {count} {seed}"
        self.reads = 0

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        self.reads += 1
        taken: NDArray[np.uint8] = self.pixels[rows]
        return taken


def model(seed: int = 0) -> Classifier:
    return build(ModelSpec(width=2, encoder="frozen"), 3, 20, seed)


def test_features_are_the_embeddings_whatever_the_batch() -> None:
    cells, network = Shelf(11), model()
    rows = np.array([4, 0, 10, 4])
    expected = network.embed(to_tensor(cells.take(rows))).detach().numpy()
    for batch in (1, 3, 64):
        found = extract(network, cells, rows, CPU, batch=batch)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_no_cell_gives_no_feature() -> None:
    assert extract(model(), Shelf(0), np.array([], np.int64), CPU).shape == (0, 8)


def test_bfloat16_stays_near_and_comes_as_float32() -> None:
    cells, rows = Shelf(6), np.arange(6)
    exact = extract(model(), cells, rows, CPU)
    quick = extract(model(), cells, rows, CPU, precision="bfloat16")
    assert quick.dtype == np.float32
    np.testing.assert_allclose(quick, exact, rtol=0.1, atol=0.05)


def test_computed_once_and_again_only_for_other_weights_or_cells(tmp_path: Path) -> None:
    cells, network = Shelf(5), model()
    first = cached_features(network, cells, CPU, folder=tmp_path)
    reads = cells.reads
    again = cached_features(model(), cells, CPU, folder=tmp_path)
    assert cells.reads == reads
    np.testing.assert_array_equal(first, again)
    cached_features(model(seed=1), cells, CPU, folder=tmp_path)
    cached_features(network, cells, CPU, "bfloat16", folder=tmp_path)
    cached_features(network, Shelf(5, seed=1), CPU, folder=tmp_path)
    assert cells.reads == reads + 2
    assert len(list(tmp_path.iterdir())) == 4


def test_features_fit_the_head() -> None:
    cells, network = Shelf(4), model()
    features = torch.from_numpy(extract(network, cells, np.arange(4), CPU))
    expected = network(to_tensor(cells.pixels))
    torch.testing.assert_close(network.head(features), expected, rtol=1e-4, atol=1e-5)


def test_quarter_turns_are_the_mean_of_four_and_a_turned_cell_is_the_same_cell() -> None:
    spec = ModelSpec(width=2, encoder="frozen")
    plain = build(spec, 3, 20, seed=0)
    turned = build(spec.model_copy(update={"quarter_turns": True}), 3, 20, seed=0)
    images = torch.randn(5, 3, 20, 20, generator=torch.Generator().manual_seed(1))
    poses = [torch.rot90(images, turn, (2, 3)) for turn in range(4)]
    expected = torch.stack([plain.embed(pose) for pose in poses]).mean(0)
    assert not torch.allclose(plain.embed(poses[1]), plain.embed(images), atol=1e-3)
    for pose in poses:
        torch.testing.assert_close(turned.embed(pose), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("damage", ["cut", "other", "nan"])
def test_a_damaged_file_is_computed_anew(tmp_path: Path, damage: str) -> None:
    cells, network = Shelf(5), model()
    good = cached_features(network, cells, CPU, folder=tmp_path)
    (path,) = tmp_path.iterdir()
    match damage:
        case "cut":
            path.write_bytes(path.read_bytes()[:-9])
        case "other":
            np.save(path, good[:2])
        case "nan":
            np.save(path, np.full_like(good, np.nan))
    np.testing.assert_array_equal(cached_features(network, cells, CPU, folder=tmp_path), good)
    np.testing.assert_array_equal(np.load(path), good)


def test_a_full_disk_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(DataError, match="5 cells.*No space left.*HEMOFED_CACHE"):
        cached_features(model(), Shelf(5), CPU, folder=tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_digest_follows_encoder_and_side_but_not_the_head() -> None:
    network = model()
    before = encoder_digest(network)
    with torch.no_grad():
        next(network.head.parameters()).add_(1)
    assert encoder_digest(network) == before
    with torch.no_grad():
        next(network.encoder.parameters()).add_(1)
    assert encoder_digest(network) != before
    turned = build(ModelSpec(width=2, encoder="frozen", quarter_turns=True), 3, 20, 0)
    assert encoder_digest(turned) != before
    network.input_side = 21
    assert encoder_digest(network) != encoder_digest(model())


def test_what_a_killed_process_had_computed_is_not_computed_again(tmp_path: Path) -> None:
    class Killed(Shelf):
        def take(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
            if rows[0] >= 512:
                raise KeyboardInterrupt
            return super().take(rows)

    cells, network = Shelf(600), model()
    with pytest.raises(KeyboardInterrupt):
        cached_features(network, Killed(600), CPU, folder=tmp_path)
    found = cached_features(network, cells, CPU, folder=tmp_path)
    assert cells.reads == 3, "the batches from 512 on"
    np.testing.assert_array_equal(found, extract(network, cells, np.arange(600), CPU))
    (kept,) = tmp_path.iterdir()
    assert kept.is_file()


@pytest.mark.parametrize("spec", [
    ModelSpec(width=2, encoder="frozen"),
    ModelSpec(name="efficientnet-lite0", weights="imagenet", encoder="frozen",
              features="middle", quarter_turns=True),
])  # fmt: skip
def test_no_bit_of_a_cells_features_depends_on_the_others(spec: ModelSpec) -> None:
    """Kernels change between 15 images and 16; a batch of fewer than all is filled."""
    network, cells = build(spec, 3, 32, 0), Shelf(40)
    everyone = np.arange(40)
    whole = extract(network, cells, everyone, CPU)
    for count in (1, 15, 16, 33):
        some = np.random.default_rng(count).permutation(everyone)[:count]
        assert np.array_equal(extract(network, cells, some, CPU), whole[some])
