"""Pretraining on public cells: the file, its record, and a study that starts from it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from client.data.cache import CellCache, prepare
from common.config.study import ModelSpec
from common.errors import ConfigError, DataError, HemofedError, ModelError
from common.models import build
from common.models.encoder_file import read_encoder, read_record, write_encoder
from simulations.encoders.cli import app
from simulations.encoders.pretrain import Recipe, pretrain

CPU = torch.device("cpu")
COLOURS = {"basophil": (90, 40, 160), "monocyte": (150, 150, 190), "normoblast": (230, 120, 90)}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cell types that their colour tells apart, 20 images each."""
    folder = tmp_path_factory.mktemp("public") / "lab"
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(20):
            pixels = np.clip(np.array(colour) + rng.normal(0, 20, (24, 24, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def cells(lab: Path) -> CellCache:
    return CellCache.open(prepare(lab, 16, cache_root=lab.parent / "cache"))


def recipe(**changes: object) -> Recipe:
    settings = {"spec": ModelSpec(width=4), "epochs": 15, "learning_rate": 0.02} | changes
    return Recipe(**settings)  # type: ignore[arg-type]


def silent(_done: int, _total: int) -> None:
    pass


def test_an_encoder_learns_and_a_study_starts_from_it(cells: CellCache, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    model, record = pretrain(cells, "lab", recipe(), CPU, lambda *at: steps.append(at))
    assert record.balanced_accuracy is not None and record.balanced_accuracy > 0.8
    assert set(record.classes) == set(COLOURS)
    assert record.images + record.validation_images == 60
    assert record.privacy == "none" and record.side == 16
    assert steps[-1] == (len(steps), len(steps))
    path = tmp_path / "encoder.safetensors"
    write_encoder(path, model.encoder, record)
    assert read_record(path) == record
    spec = ModelSpec(width=4, weights=str(path), encoder="frozen")
    study = build(spec, 7, 16, seed=9)
    loaded = study.encoder.state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in model.encoder.state_dict().items())
    fresh = build(spec.model_copy(update={"weights": None}), 7, 16, seed=9)
    assert torch.equal(study.head.weight, fresh.head.weight)  # type: ignore[arg-type]


def test_a_seed_decides_the_result(cells: CellCache) -> None:
    runs = [
        pretrain(cells, "lab", recipe(epochs=1, seed=seed), CPU, silent)[0].encoder.state_dict()
        for seed in (1, 1, 2)
    ]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert not all(torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


def test_only_the_types_asked_for_are_seen(cells: CellCache) -> None:
    chosen = recipe(epochs=1, cell_types=("basophil", "normoblast"))
    _, record = pretrain(cells, "lab", chosen, CPU, silent)
    assert set(record.classes) == {"basophil", "normoblast"}
    assert record.images + record.validation_images == 40
    assert record.fingerprint != cells.fingerprint


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"cell_types": ("basofil",)}, ConfigError, "'basofil'.*found: .*basophil"),
        ({"cell_types": ("basophil",)}, DataError, "two cell types"),
        ({"spec": ModelSpec(encoder="frozen")}, ConfigError, "frozen"),
    ],
)
def test_what_cannot_be_pretrained_is_refused(
    cells: CellCache, changes: dict[str, object], error: type[HemofedError], message: str
) -> None:
    with pytest.raises(error, match=message):
        pretrain(cells, "lab", recipe(**changes), CPU, silent)


def test_files_that_do_not_fit_are_refused(cells: CellCache, tmp_path: Path) -> None:
    model, record = pretrain(cells, "lab", recipe(epochs=1), CPU, silent)
    path = tmp_path / "encoder.safetensors"
    write_encoder(path, model.encoder, record)
    with pytest.raises(ModelError, match=r"encoder of cnn.*resnet18"):
        build(ModelSpec(name="resnet18", weights=str(path)), 3, 16, 0)
    with pytest.raises(ModelError, match=r"width 4.*do not fit.*shape"):
        build(ModelSpec(width=5, weights=str(path)), 3, 16, 0)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match="without the record"):
        read_encoder(path)
    path.write_bytes(b"damaged")
    with pytest.raises(ModelError, match="not a safetensors file"):
        read_encoder(path)


def test_the_command_warns_trains_and_shows(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEMOFED_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "encoder.safetensors"
    options = ["--side", "16", "--epochs", "1", "--width", "2", "--cell-types"]
    words = ["pretrain", str(lab), "--out", str(out), *options, "basophil, monocyte"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0
    assert "NO PRIVACY" in done.output
    shown = CliRunner().invoke(app, ["show", str(out)], catch_exceptions=False)
    assert read_record(out).fingerprint in shown.output.replace("\n", "")
    assert "basophil" in shown.output


def test_the_command_refuses_another_ending_before_it_trains(lab: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="safetensors"):
        CliRunner().invoke(
            app, ["pretrain", str(lab), "--out", str(tmp_path / "e.pth")], catch_exceptions=False
        )
