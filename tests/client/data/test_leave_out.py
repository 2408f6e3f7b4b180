"""What is left out of an index is what was asked for, named and counted, and nothing else."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.data.cache import CellCache
from client.data.index import scan
from client.data.leave_out import LeaveOut, of_another, read_leave_out, without_unreadable
from client.data.quality.check import check
from client.data.scale import ScaleError
from common.errors import ConfigError, DataError
from tests.client.data import damaged_lab
from tests.client.data.conftest import Paint

Command = Callable[..., Any]


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """36 cells, two that cannot be read, a copy, and one image under two labels."""
    lab = damaged_lab.lab(tmp_path / "bad")
    whole = (lab / "eosinophil" / "eosinophil_0000.png").read_bytes()
    (lab / "monocyte" / "cut.png").write_bytes(whole[:500])
    (lab / "monocyte" / "none.png").touch()
    shutil.copy(lab / "eosinophil" / "eosinophil_0001.png", lab / "eosinophil" / "z_copy.png")
    shutil.copy(lab / "lymphocyte" / "lymphocyte_0001.png", lab / "monocyte" / "other.png")
    return lab


OUT = {
    "monocyte/cut.png",
    "monocyte/none.png",
    "eosinophil/z_copy.png",
    "lymphocyte/lymphocyte_0001.png",
    "monocyte/other.png",
}


def test_unreadable_images_are_left_out_named_and_counted(
    bad: Path, tmp_path: Path, hemofed_data: Command
) -> None:
    assert isinstance(hemofed_data("index", bad, "--out", tmp_path / "c").exception, DataError)
    assert not (tmp_path / "c").exists()
    result = hemofed_data("index", bad, "--out", tmp_path / "c", "--skip-unreadable")
    assert result.exit_code == 0, result.exception
    assert "passed over: 2 unreadable" in result.output
    assert "cut.png: cannot be read" in result.output and "none.png: cannot" in result.output
    cache = CellCache.open(tmp_path / "c")
    assert len(cache) == 38 and cache.meta["skipped"] == {"unreadable": 2}
    assert not {"monocyte/cut.png", "monocyte/none.png"} & set(cache.sources.tolist())


def test_a_source_without_such_is_indexed_as_it_is(bad: Path) -> None:
    index = scan(bad, leave_out=OUT)
    assert without_unreadable(index) == (index, ())


def test_a_source_of_nothing_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "monocyte").mkdir()
    (tmp_path / "monocyte" / "a.png").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"no image can be read; the first: .*a\.png"):
        without_unreadable(scan(tmp_path))


def test_the_json_of_a_check_is_a_list_of_what_to_leave_out(
    bad: Path, tmp_path: Path, hemofed_data: Command
) -> None:
    found = tmp_path / "found.json"
    assert hemofed_data("check", bad, "--json", found).exit_code == 20
    assert read_leave_out(found) == LeaveOut(names=frozenset(OUT), source=str(bad))
    result = hemofed_data("index", bad, "--out", tmp_path / "c", "--leave-out", found)
    assert result.exit_code == 0, result.exception
    assert "passed over: 5 left out by --leave-out" in result.output
    assert not OUT & set(CellCache.open(tmp_path / "c").sources.tolist())
    assert len(CellCache.open(tmp_path / "c")) == 35


def test_what_is_left_out_leaves_a_source_that_passes(bad: Path) -> None:
    out = {name for finding in check(bad).findings for name in finding.leave_out}
    for name in out:
        (bad / name).unlink()
    assert check(bad).exit_code == 0


def test_an_unknown_name_can_be_left_out_with_its_images(bad: Path) -> None:
    (bad / "artefact").mkdir()
    shutil.copy(bad / "monocyte" / "monocyte_0001.png", bad / "artefact" / "a.png")
    with pytest.raises(DataError, match="'artefact'"):
        scan(bad)
    assert len(scan(bad, leave_out={"artefact/a.png"}).rows) == 40


def test_a_list_of_another_source_is_refused(bad: Path) -> None:
    with pytest.raises(DataError, match="has none of the 1 image to leave out, like x/y.png"):
        scan(bad, leave_out={"x/y.png"})


def test_a_list_that_another_source_was_checked_for_is_remarked(
    bad: Path, tmp_path: Path, hemofed_data: Command
) -> None:
    names = ["monocyte/cut.png", "monocyte/none.png"]
    for source, remarked in (("/labs/other", True), (str(bad), False), (None, False)):
        found = {"source": source, "findings": [{"leave_out": names}]}
        (tmp_path / "found.json").write_text(json.dumps(found))
        words = ("--out", tmp_path / "c", "--leave-out", tmp_path / "found.json")
        result = hemofed_data("index", bad, *words)
        assert result.exit_code == 0, result.exception
        assert ("was made of /labs/other, and this is" in result.output) == remarked


def test_a_list_belongs_to_a_folder_and_to_its_table(bad: Path) -> None:
    (bad / "cells.csv").touch()
    for one in (bad, bad / "cells.csv"):
        for other in (bad, bad / "cells.csv"):
            assert of_another(LeaveOut(source=str(one)), other) == ""


@pytest.mark.parametrize("first", ["a", "z"], ids=["odd ones first", "odd ones last"])
def test_pictures_of_another_size_are_left_out_and_a_wrong_scale_is_not_taken_for_them(
    tmp_path: Path, paint: Paint, first: str
) -> None:
    for at in range(30):
        paint(tmp_path / "monocyte" / f"m{at:02}.png", size=(96, 96), seed=at)
    for at in range(24):
        paint(tmp_path / "monocyte" / f"{first}{at:02}.png", size=(20, 20), seed=at)
    index, faults = without_unreadable(scan(tmp_path), um_per_px=0.25)
    assert len(index.rows) == 30 and index.skipped == {"unreadable": 24}
    assert all("its 20 x 20 px span 5.0 um" in fault for fault in faults)
    (form,) = (one for one in check(tmp_path, um_per_px=0.25).findings if one.code == "form")
    assert len(form.leave_out) == 24
    with pytest.raises(ScaleError, match=r"span 96\.0 um"):
        without_unreadable(scan(tmp_path), um_per_px=1.0)
    (form,) = (one for one in check(tmp_path, um_per_px=1.0).findings if one.code == "form")
    assert len(form.cases) == 30 and form.leave_out == ()


def test_a_scale_that_is_wrong_for_all_is_told_before_all_are_read(
    tmp_path: Path, paint: Paint
) -> None:
    for at in range(130):
        paint(tmp_path / "monocyte" / f"{at:03}.png", size=(96, 96), seed=at)
    seen: list[int] = []
    with pytest.raises(ScaleError):
        without_unreadable(scan(tmp_path), lambda done, _: seen.append(done), um_per_px=1.0)
    assert max(seen) < 130


def test_a_list_as_an_editor_left_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    path.write_text('{"findings": [{"leave_out": ["a"]}]}', encoding="utf-8-sig")
    assert read_leave_out(path).names == {"a"}
    path.write_text("[" * 100_000)
    with pytest.raises(ConfigError, match="cannot be read as JSON"):
        read_leave_out(path)
    assert "was made of" in of_another(LeaveOut(source="x" * 5000), tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"findings": 3}',
        '{"findings": [{"code": "blur"}]}',
        '{"findings": [{"leave_out": "a"}]}',
        '{"findings": [{"leave_out": [1]}]}',
        '{"findings": [null]}',
    ],
)
def test_what_is_no_such_list_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "found.json").write_text(content)
    with pytest.raises(ConfigError, match=r"found\.json: (cannot be read as JSON|has no findings)"):
        read_leave_out(tmp_path / "found.json")


def test_findings_that_need_a_person_leave_nothing_out(bad: Path) -> None:
    result = check(bad)
    assert json.loads(json.dumps(result.to_json()))["findings"]
    for finding in result.findings:
        assert set(finding.leave_out) <= set(finding.files)
