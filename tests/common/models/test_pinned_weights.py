"""The bytes whose digest a study names are the bytes that are parsed."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from common.config.study import ModelSpec
from common.errors import ModelError
from common.files import file_digest
from common.models import build
from common.models.encoder_file import EncoderRecord, write_encoder
from common.models.projection import Projection, ProjectionRecord, write_projection
from common.models.tensor_digest import tensor_digest
from common.models.weights import read_checkpoint

SMALL = ModelSpec(name="cnn", width=4, encoder="frozen")


@pytest.fixture
def swap_once_hashed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, bytes], None]:
    """Have somebody replace a file in the moment in which its digest was taken."""

    def prepare(path: Path, other: bytes) -> None:
        def swapping(hashing: Callable[..., Any]) -> Callable[..., Any]:
            def hash_and_swap(*given: Any, **more: Any) -> Any:
                found = hashing(*given, **more)
                path.write_bytes(other)
                return found

            return hash_and_swap

        for name in ("sha256", "file_digest"):
            monkeypatch.setattr(hashlib, name, swapping(getattr(hashlib, name)))

    return prepare


def encoder_file(path: Path, seed: int) -> torch.nn.Module:
    """A small encoder, and a file of it."""
    encoder = build(SMALL, 2, 32, seed).encoder
    words: dict[str, Any] = dict.fromkeys(EncoderRecord.model_fields, None)
    words |= {"format": 1, "privacy": "none", "model": "cnn", "width": 4, "side": 32, "seed": seed}
    words |= {"source": "lab", "fingerprint": "0" * 64, "classes": ("a", "b"), "hemofed": "0"}
    words |= {"images": 2, "epochs": 1, "learning_rate": 0.1, "validation_images": 0}
    write_encoder(path, encoder, EncoderRecord.model_validate(words))
    return encoder


def test_an_encoder_swapped_after_the_check_is_not_seen(
    tmp_path: Path, swap_once_hashed: Callable[[Path, bytes], None]
) -> None:
    path, other = tmp_path / "encoder.safetensors", tmp_path / "other.safetensors"
    wanted = encoder_file(path, seed=1)
    encoder_file(other, seed=2)
    weights = {"weights": str(path), "weights_sha256": file_digest(path)}
    swap_once_hashed(path, other.read_bytes())
    model = build(SMALL.model_copy(update=weights), 2, 32, seed=3)
    assert path.read_bytes() == other.read_bytes()
    assert all(
        torch.equal(value, wanted.state_dict()[name])
        for name, value in model.encoder.state_dict().items()
    )


def test_a_projection_swapped_after_the_check_is_not_seen(
    tmp_path: Path, swap_once_hashed: Callable[[Path, bytes], None]
) -> None:
    network = build(SMALL, 2, 32, seed=0)
    width = network.embedding_dim
    record = ProjectionRecord(
        sources={},
        images=2,
        side=32,
        encoder=tensor_digest(network.encoder.state_dict()),
        hemofed="",
    )
    path, other = tmp_path / "map.safetensors", tmp_path / "other.safetensors"
    wanted = torch.eye(width)[:, :3]
    write_projection(path, Projection(torch.zeros(width), wanted), record)
    write_projection(other, Projection(torch.zeros(width), 2 * wanted), record)
    named = {"projection": str(path), "projection_sha256": file_digest(path)}
    swap_once_hashed(path, other.read_bytes())
    model = build(SMALL.model_copy(update=named), 2, 32, seed=0)
    assert path.read_bytes() == other.read_bytes()
    assert any(
        torch.equal(value, wanted) for value in model.state_dict().values() if value.ndim == 2
    )


def test_a_checkpoint_swapped_after_the_check_is_not_seen(
    tmp_path: Path, swap_once_hashed: Callable[[Path, bytes], None]
) -> None:
    path, other = tmp_path / "weights.pth", tmp_path / "other.pth"
    torch.save({"x": torch.zeros(2)}, path)
    torch.save({"x": torch.ones(2)}, other)
    digest = file_digest(path)
    swap_once_hashed(path, other.read_bytes())
    assert torch.equal(read_checkpoint(path, digest)["x"], torch.zeros(2))


def test_another_file_than_the_study_names_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"what no parser should see")
    with pytest.raises(ModelError, match=r"weights\.pth: has SHA-256 .*, the study names bbbb"):
        read_checkpoint(path, "b" * 64)
