"""Sites that lack something do not stop the others, and are named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from client.data.site_cells import open_cells
from client.site import open_site
from common.config.loading import load
from common.config.study import Study
from common.errors import ConfigError, DataError, FederationError
from simulations.config import read
from simulations.run import federate, run
from tests.simulations.small import PRIVATE, Silent, simulation


def make_lab(root: Path, name: str, rows: list[tuple[str, str]]) -> None:
    """A lab of tiny images: (cell type, split) each."""
    rng = np.random.default_rng(len(name))
    folder = root / name
    folder.mkdir(parents=True)
    lines = ["path,label,split"]
    for number, (label, split) in enumerate(rows):
        pixels = rng.integers(0, 256, (20, 20, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{label},{split}")
    (folder / "cells.csv").write_text("\n".join(lines))


@pytest.fixture
def labs(tmp_path: Path) -> Path:
    mixed = [("lymphocyte", ""), ("monocyte", "")] * 20
    make_lab(tmp_path / "labs", "both", mixed)
    make_lab(tmp_path / "labs", "one-class", [("lymphocyte", "")] * 20)
    make_lab(tmp_path / "labs", "no-training", [("monocyte", "test")] * 12)
    return tmp_path / "labs"


def test_one_class_trains_and_no_training_cell_is_left_out_by_name(
    tmp_path: Path, labs: Path
) -> None:
    config = simulation(
        data={"source": "images", "root": str(labs)},
        study={"cell_types": ["lymphocyte", "monocyte"]},
    )
    federate(config, tmp_path / "run", Silent())
    lines = (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()
    for line in lines:
        sites = json.loads(line)["sites"]
        assert sites["both"]["status"] == sites["one-class"]["status"] == "ok"
        refusal = sites["no-training"]
        assert (refusal["status"], refusal["reason"]) == ("refused", "internal")
    log = (tmp_path / "run" / "sites" / "no-training" / "site.log").read_text()
    assert "no training cell" in log


def test_a_site_without_a_training_cell_has_no_model_of_its_own_and_stops_nothing(
    tmp_path: Path, labs: Path
) -> None:
    config = simulation(
        data={"source": "images", "root": str(labs)},
        study={"cell_types": ["lymphocyte", "monocyte"], "rounds": 1},
        baselines=["local_only", "centralised"],
    )
    summary = run(config, tmp_path / "run", Silent())
    assert set(summary["baselines"]["local_only"]["sites"]) == {"both", "one-class"}
    assert "no-training" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("study", "said"),
    [
        ({"cell_types": ["monocyte", "basophil"]}, "lab one-class: of its 20 cells .*basophil"),
        (
            {"cell_types": ["lymphocyte", "monocyte"], "privacy": PRIVATE | {"unit": "patient"}},
            "lab both: of its 40 cells .*patients must be known from a cells.csv",
        ),
    ],
)
def test_a_lab_without_a_cell_of_the_study_says_so_before_any_round(
    tmp_path: Path, labs: Path, study: dict[str, Any], said: str
) -> None:
    config = simulation(data={"source": "images", "root": str(labs)}, study=study)
    with pytest.raises(DataError, match=said):
        federate(config, tmp_path / "run", Silent())


def test_only_the_cells_of_the_study_are_counted(tmp_path: Path, labs: Path) -> None:
    others = [("basophil", split) for split in ("train", "validation", "test")] * 30
    make_lab(labs, "mixed", [*others, *[("lymphocyte", ""), ("monocyte", "")] * 20])
    config = simulation(
        data={"source": "images", "root": str(labs)},
        study={
            "cell_types": ["lymphocyte", "monocyte"],
            "rounds": 1,
            "privacy": PRIVATE | {"local_steps": 1},
        },
    )
    summary = run(config, tmp_path / "run", Silent())
    figures = summary["sites"]["mixed"]
    found = [figures[name] for name in ("n_train", "n_validation", "n_test")]
    assert sum(found) == 40 and sum(figures["class_counts"].values()) == 40
    study = load(Study, tmp_path / "run" / "study.yaml")
    assert study.cohort["mixed"].units == figures["n_train"]
    cells = open_cells(open_site(tmp_path / "run" / "sites" / "mixed" / "site.yaml"), study)
    assert [len(cells.rows(name)) for name in ("train", "validation", "test")] == found


def test_labels_that_nobody_knows_are_named_with_the_nearest(tmp_path: Path) -> None:
    make_lab(tmp_path / "labs", "a", [("limphocyte", "")] * 12)
    config = simulation(data={"source": "images", "root": str(tmp_path / "labs")})
    with pytest.raises(DataError, match="limphocyte.*lymphocyte"):
        federate(config, tmp_path / "run", Silent())


@pytest.mark.parametrize("folder", ["nowhere", "empty"])
def test_no_data_is_an_error_that_names_the_folder(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    config = simulation(data={"source": "images", "root": str(tmp_path / folder)})
    with pytest.raises(DataError, match=folder):
        federate(config, tmp_path / "run", Silent())


def test_no_root_says_how_to_give_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEMOFED_DATA", raising=False)
    with pytest.raises(ConfigError, match="--data DIR, or set HEMOFED_DATA"):
        federate(simulation(data={"source": "images"}), tmp_path / "run", Silent())


def test_a_training_that_diverges_is_named_and_left_out(tmp_path: Path, labs: Path) -> None:
    config = simulation(
        data={"source": "images", "root": str(labs)},
        study={
            "cell_types": ["lymphocyte", "monocyte"],
            "training": {"batch_size": 4, "learning_rate": 100, "weight_decay": 1},
        },
    )
    with pytest.raises(FederationError, match="round .* sound updates"):
        federate(config, tmp_path / "run", Silent())


SHIPPED = sorted((Path(__file__).parents[2] / "configs" / "simulations").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_config_and_variant_is_valid(path: Path) -> None:
    import yaml

    read(path, [])
    for variant in yaml.safe_load(path.read_text()).get("variants", {}):
        read(path, [f"variant={variant}"])


def test_an_unknown_variant_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match="no variant 'x'; it has: head, private"):
        read(next(path for path in SHIPPED if path.stem == "five_labs"), ["variant=x"])
