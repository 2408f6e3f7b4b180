"""A rendered folder: layout, determinism, patients, and refusals."""

import csv
import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from common.cell_types import CELL_TYPES
from common.errors import ConfigError, DataError
from simulations.synthetic import RECORD, STYLES, SiteSpec, class_mix, is_rendered, synthesize
from simulations.synthetic import dataset as dataset_module
from simulations.synthetic.plan import plan

NAMES = [cell.name for cell in CELL_TYPES]


def spec(cells: int = 30, **changes: object) -> SiteSpec:
    return SiteSpec(**{"style": STYLES["cream"], "cells": cells, **changes})  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "cells.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_layout_is_class_folders_an_index_and_a_record(tmp_path: Path) -> None:
    sites = {"north": spec(25), "south": spec(12, style=STYLES["straw"])}
    seen: list[tuple[int, int]] = []
    synthesize(
        tmp_path / "out",
        sites=sites,
        seed=3,
        side=24,
        workers=1,
        progress=lambda done, total: seen.append((done, total)),
    )
    for name, site in sites.items():
        listed = rows(tmp_path / "out" / name)
        assert len(listed) == site.cells
        assert list(listed[0]) == ["path", "label", "patient"]
        for row in listed:
            kind, file = row["path"].split("/")
            assert kind == row["label"]
            assert file.startswith(f"{kind}_0")
            with Image.open(tmp_path / "out" / name / row["path"]) as image:
                assert (image.format, image.size, image.mode) == ("JPEG", (24, 24), "RGB")
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    assert record["rendered"] is True
    assert record["seed"] == 3
    assert record["sites"]["south"]["cells"] == 12
    assert is_rendered(tmp_path / "out")
    assert is_rendered(tmp_path / "out" / "north")
    assert not is_rendered(tmp_path)
    assert seen[-1] == (37, 37)
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_two_who_render_the_same_at_once_both_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {"sites": {"a": spec(4)}, "seed": 1, "side": 16, "workers": 1}
    real, out = dataset_module._render_all, tmp_path / "out"

    def overtaken(*arguments: Any) -> None:
        monkeypatch.setattr(dataset_module, "_render_all", real)
        synthesize(out, **words)
        real(*arguments)

    monkeypatch.setattr(dataset_module, "_render_all", overtaken)
    synthesize(out, **words)
    assert is_rendered(out) and [file.name for file in tmp_path.iterdir()] == ["out"]


def test_bytes_depend_on_the_seed_and_not_on_the_workers(tmp_path: Path) -> None:
    sites = {"a": spec(50), "b": spec(45, style=STYLES["slate"])}
    for name, seed, workers in (("one", 1, 1), ("two", 1, 2), ("other", 2, 1)):
        synthesize(tmp_path / name, sites=sites, seed=seed, side=16, workers=workers)
    one = contents(tmp_path / "one")
    assert one == contents(tmp_path / "two")
    assert one != contents(tmp_path / "other")


def test_a_cell_does_not_depend_on_other_cells_or_sites(tmp_path: Path) -> None:
    synthesize(tmp_path / "few", sites={"a": spec(8)}, seed=1, side=16, workers=1)
    synthesize(tmp_path / "many", sites={"z": spec(3), "a": spec(20)}, seed=1, side=16, workers=1)
    few, many = contents(tmp_path / "few" / "a"), contents(tmp_path / "many" / "a")
    del few["cells.csv"], few[RECORD]
    assert few.items() <= many.items()
    assert rows(tmp_path / "few" / "a") == rows(tmp_path / "many" / "a")[:8]


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**63 - 1),
    cells=st.integers(1, 400),
    alpha=st.floats(0.05, 100),
)
def test_plans_are_patients_of_1_to_50_cells(seed: int, cells: int, alpha: float) -> None:
    site = spec(cells, alpha=alpha)
    planned = plan("lab", site, seed)
    assert [cell.number for cell in planned] == list(range(cells))
    assert len({cell.path for cell in planned}) == cells
    sizes = Counter(cell.patient for cell in planned)
    assert max(sizes.values()) <= 50
    assert sorted(sizes) == list(range(len(sizes)))
    assert sum(class_mix("lab", site, seed).values()) == pytest.approx(1)


def test_a_given_mix_is_kept_and_types_left_out_do_not_occur() -> None:
    mix = {"lymphocyte": 3.0, "monocyte": 1.0}
    planned = plan("lab", spec(3000, mix=mix), 0)
    counts = Counter(cell.cell_type for cell in planned)
    assert set(counts) == set(mix)
    assert counts["lymphocyte"] / 3000 == pytest.approx(0.75, abs=0.08)


def test_patient_sizes_are_skewed() -> None:
    sizes = list(Counter(cell.patient for cell in plan("lab", spec(5000), 0)).values())[:-1]
    assert min(sizes) == 1
    assert max(sizes) > 25
    assert sorted(sizes)[len(sizes) // 2] < sum(sizes) / len(sizes)


def test_the_same_again_is_left_alone_and_anything_else_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    synthesize(out, sites={"a": spec(3)}, seed=1, side=16, workers=1)
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*")}
    synthesize(out, sites={"a": spec(3)}, seed=1, side=16, workers=1)
    assert before == {file: file.stat().st_mtime_ns for file in out.rglob("*")}
    with pytest.raises(DataError, match=r"holds something else"):
        synthesize(out, sites={"a": spec(3)}, seed=2, side=16, workers=1)
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="file: exists and holds something else"):
        synthesize(tmp_path / "file", sites={"a": spec(3)}, seed=1, side=16, workers=1)


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    synthesize(tmp_path, sites={"a": spec(2)}, seed=1, side=16, workers=1)
    assert len(rows(tmp_path / "a")) == 2


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset_module, "_render_chunk", full)
    with pytest.raises(DataError, match=r"No space left"):
        synthesize(tmp_path / "out", sites={"a": spec(3)}, seed=1, side=16, workers=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("sites", "side", "workers", "says"),
    [
        ({}, 32, 1, "at least one site"),
        ({"a": spec(0)}, 32, 1, "sites.a.cells: 0"),
        ({"a/b": spec()}, 32, 1, "'a/b'"),
        ({"..": spec()}, 32, 1, "'..'"),
        ({"a": spec(alpha=0.0)}, 32, 1, "alpha"),
        ({"a": spec(alpha=float("nan"))}, 32, 1, "alpha"),
        ({"a": spec(mix={"lymphozyte": 1.0})}, 32, 1, "lymphozyte"),
        ({"a": spec(mix={"monocyte": -1.0})}, 32, 1, "monocyte"),
        ({"a": spec(mix={"monocyte": 0.0})}, 32, 1, "all weights are 0"),
        ({"a": spec(mix={"monocyte": float("nan")})}, 32, 1, "monocyte"),
        ({"a": spec()}, 8, 1, "side: 8"),
        ({"a": spec()}, 32, 0, "workers: 0"),
    ],
)
def test_values_out_of_range_are_named(
    tmp_path: Path, sites: dict[str, SiteSpec], side: int, workers: int, says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        synthesize(tmp_path / "out", sites=sites, seed=0, side=side, workers=workers)
    assert says in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:.*removed in Click 9:DeprecationWarning")
def test_command_writes_the_folder_and_the_contact_sheet(tmp_path: Path) -> None:
    from typer import Typer
    from typer.testing import CliRunner

    from simulations.synthetic.cli import synthesize_command

    app = Typer()
    app.command()(synthesize_command)
    sheet = tmp_path / "sheet.png"
    words = ["--sites", "6", "--cells", "2", "--side", "16", "--workers", "1"]
    result = CliRunner().invoke(app, [str(tmp_path / "out"), *words, "--contact-sheet", str(sheet)])
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    assert list(record["sites"]) == [*STYLES, "lab_006"]
    with Image.open(sheet) as image:
        assert image.format == "PNG"


def test_the_record_tells_the_style(tmp_path: Path) -> None:
    synthesize(tmp_path / "o", sites={"a": spec(1)}, seed=0, side=16, workers=1)
    style = json.loads((tmp_path / "o" / RECORD).read_text())["sites"]["a"]["style"]
    expected = dataclasses.asdict(STYLES["cream"])
    assert style == json.loads(json.dumps(expected))
