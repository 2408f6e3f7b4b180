"""`hemofed data check` on drawn cells: each kind of damage is found, and nothing is invented."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from typer.testing import CliRunner

from client.data.decoding.image import read_rgb
from client.data.quality import measurements
from client.data.quality.check import check
from client.data.quality.findings import CheckResult, Finding, Severity
from client.data.quality.page import html
from common.errors import DataError
from tests.client.data import damaged_lab


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    return damaged_lab.lab(tmp_path / "lab")


def named(result: CheckResult, code: str) -> Finding:
    found = [finding for finding in result.findings if finding.code == code]
    assert found, f"no {code} among {[finding.code for finding in result.findings]}"
    return found[0]


def first(lab: Path) -> Path:
    return lab / "eosinophil" / "eosinophil_0000.png"


def test_a_tidy_lab_passes_and_stays_as_it_is(lab: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in lab.rglob("*")}
    result = check(lab)
    assert result.findings == () and result.exit_code == 0 and result.verdict == "pass"
    assert result.images == 36 and result.counts == dict.fromkeys(damaged_lab.TYPES, 12)
    assert {path: path.stat().st_mtime_ns for path in lab.rglob("*")} == before


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5])
def test_truncated_images_are_findings(lab: Path, suffix: str, share: float) -> None:
    buffer = io.BytesIO()
    formats = {"png": "PNG", "jpg": "JPEG", "tif": "TIFF", "bmp": "BMP"}
    damaged_lab.cell(5).save(buffer, formats[suffix])
    content = buffer.getvalue()
    name = f"monocyte/cut.{suffix}"
    (lab / name).write_bytes(content[: int(share * len(content))])
    result = check(lab)
    assert named(result, "unreadable").files == (name,)
    assert result.exit_code == 20 and result.images == 37


@pytest.mark.parametrize("even", [0, 1, 2])
def test_a_lab_without_one_picture_gets_its_findings_too(tmp_path: Path, even: int) -> None:
    folder = tmp_path / "lab" / "monocyte"
    folder.mkdir(parents=True)
    for number in range(even):
        Image.new("RGB", (96, 96), (number, 0, 0)).save(folder / f"even_{number}.png")
    (folder / "cut.png").write_bytes(b"\x89PNG")
    result = check(tmp_path / "lab")
    assert named(result, "unreadable").files == ("monocyte/cut.png",)
    assert result.exit_code == 20 and "monocyte/cut.png" in html(result)


def test_an_unknown_label_names_the_nearest_and_can_be_mapped(lab: Path) -> None:
    (lab / "monocyte").rename(lab / "monozyt")
    finding = named(check(lab), "unknown-label")
    assert len(finding.files) == 12 and "monocyte" in finding.cases[0].note
    assert check(lab, label_map={"monozyt": "monocyte"}).exit_code == 0


def test_what_is_no_image_is_passed_over_and_a_nested_folder_is_not(lab: Path) -> None:
    (lab / "monocyte" / "notes.txt").write_text("x")
    (lab / "monocyte" / ".hidden.png").write_text("x")
    (lab / "monocyte" / "patient1").mkdir()
    result = check(lab)
    assert result.passed_over == {"not an image": 1, "hidden": 1}
    assert named(result, "nested-folder").files == ("monocyte/patient1",)


def test_the_same_file_twice_and_under_two_labels(lab: Path) -> None:
    shutil.copy(first(lab), lab / "eosinophil" / "copy.png")
    result = check(lab)
    assert named(result, "duplicate").files == (
        "eosinophil/copy.png",
        "eosinophil/eosinophil_0000.png",
    )
    assert result.exit_code == 10
    shutil.copy(first(lab), lab / "monocyte" / "copy.png")
    result = check(lab)
    finding = named(result, "duplicate-two-labels")
    assert finding.severity is Severity.FAILURE and len(finding.files) == 3
    assert "eosinophil, monocyte" in finding.cases[0].note


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.resize((72, 72)),
        lambda image: image.point(lambda value: value * 0.92),
        lambda image: image.filter(ImageFilter.GaussianBlur(0.7)),
        lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        lambda image: image.transpose(Image.Transpose.ROTATE_90),
        lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    ],
    ids=["smaller", "darker", "blurred", "mirrored", "rotated", "transverse"],
)
def test_the_same_picture_in_another_file(lab: Path, change) -> None:  # type: ignore[no-untyped-def]
    change(read_rgb(first(lab))).save(lab / "eosinophil" / "again.jpg", quality=70)
    finding = named(check(lab), "near-duplicate")
    assert finding.files == ("eosinophil/again.jpg", "eosinophil/eosinophil_0000.png")


def test_splits_and_patients_from_a_table(lab: Path) -> None:
    shutil.copy(first(lab), lab / "eosinophil" / "copy.png")
    rows = ["path,label,patient,split"]
    for path in sorted(lab.rglob("*.png")):
        name = path.relative_to(lab).as_posix()
        patient = "p1" if name.endswith(("monocyte_0001.png", "monocyte_0002.png")) else ""
        split = "test" if name.endswith(("copy.png", "monocyte_0002.png")) else "train"
        rows.append(f"{name},{path.parent.name},{patient},{split}")
    rows += ["gone.png,monocyte,,train", f"{name},monocyte,,train", "monocyte/x,monocyte,,Tuesday"]
    (lab / "cells.csv").write_text("\n".join(rows))
    result = check(lab)
    finding = named(result, "patient-in-two-splits")
    assert finding.cases[0].note == "patient p1: 1 in test, 1 in train"
    assert len(named(result, "duplicate-across-splits").files) == 2
    assert len(named(result, "bad-row").cases) == 3
    assert result.exit_code == 20


def test_a_patient_with_a_split_for_some_of_its_cells_is_a_warning(tmp_path: Path) -> None:
    lab = damaged_lab.lab(tmp_path / "lab", each=2)
    names = sorted(str(path.relative_to(lab)) for path in lab.glob("*/*"))
    kinds = [name.partition("/")[0] for name in names]
    rows = [f"{name},{kind},p1," for name, kind in zip(names, kinds, strict=True)]
    rows[0] += "test"
    (lab / "cells.csv").write_text("\n".join(["path,label,patient,split", *rows]))
    finding = named(check(lab), "patient-split-in-part")
    assert finding.severity is Severity.WARNING
    assert finding.cases[0].note == f"patient p1: 1 in test, {len(rows) - 1} without a split"


def test_rare_and_single_types(tmp_path: Path) -> None:
    lab = damaged_lab.lab(tmp_path / "few", each=9)
    assert "monocyte (9)" in named(check(lab), "rare-type").what
    for kind in damaged_lab.TYPES[1:]:
        shutil.rmtree(lab / kind)
    assert "eosinophil" in named(check(lab), "one-type").what


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("size", lambda image: image.resize((24, 24))),
        ("brightness", lambda image: image.point(lambda value: value // 3)),
        ("blur", lambda image: image.filter(ImageFilter.GaussianBlur(6))),
        ("nucleus-blue", lambda image: Image.merge("RGB", image.split()[::-1])),
        ("blank", lambda image: Image.new("RGB", image.size, "white")),
    ],
)
def test_outliers(lab: Path, code: str, change) -> None:  # type: ignore[no-untyped-def]
    odd = lab / "monocyte" / "monocyte_0003.png"
    change(read_rgb(odd)).save(odd)
    result = check(lab)
    assert named(result, code).files == ("monocyte/monocyte_0003.png",)
    assert result.exit_code == 10


def test_stain_drift_through_a_profile_without_images(lab: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(lab, other)
    for path in other.rglob("*.png"):
        red, green, blue = read_rgb(path).split()
        Image.merge("RGB", (blue, green, red.point(lambda v: v // 2))).save(path)
    profile = tmp_path / "lab.json"
    profile.write_text(json.dumps(check(lab).profile.to_json()))
    assert ".png" not in profile.read_text()
    same = check(lab, reference=profile)
    assert same.drift and same.drift.nucleus < 0.1 and same.exit_code == 0
    moved = check(other, reference=profile)
    assert moved.drift and moved.drift.nucleus > 10
    assert set(moved.drift.types) == set(damaged_lab.TYPES)
    assert named(moved, "stain-drift").severity is Severity.WARNING
    direct = check(other, reference=lab).drift
    assert direct and direct.nucleus == pytest.approx(moved.drift.nucleus, abs=0.1)


def test_types_with_few_images_are_not_in_the_profile(tmp_path: Path) -> None:
    assert set(check(damaged_lab.lab(tmp_path / "l", each=9)).profile.colours) == {"all types"}


@pytest.mark.parametrize("content", ["{", "{}", '{"format": 9, "colours": {}}', "[]"])
def test_a_wrong_profile_is_named(lab: Path, content: str) -> None:
    path = lab.parent / "profile.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"profile\.json"):
        check(lab, reference=path)


def test_nothing_to_check_is_an_error(tmp_path: Path, lab: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        check(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image found"):
        check(tmp_path / "empty")
    with pytest.raises(DataError, match=r"name one lab, like .*lab"):
        check(tmp_path)


def test_two_processes_measure_the_same(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = sorted(map(str, lab.rglob("*.png")))
    here = measurements.measure_all(paths)
    monkeypatch.setattr(measurements, "IN_PROCESS", 0)
    there = measurements.measure_all(paths)
    assert np.array_equal(here.records, there.records) and here.errors == there.errors == {}


def test_the_command_writes_json_page_and_profile(lab: Path, tmp_path: Path) -> None:
    from client.data.cli import app

    (lab / "monocyte" / "cut.png").write_bytes(first(lab).read_bytes()[:500])
    shutil.copy(first(lab), lab / "eosinophil" / "copy & <b>.png")
    out = tmp_path / "out"
    out.mkdir()
    files = {name: out / name for name in ("found.json", "page.html", "profile.json")}
    options = ["--json", "--html", "--profile"]
    pairs = [text for pair in zip(options, map(str, files.values()), strict=True) for text in pair]
    result = CliRunner().invoke(app, ["check", str(lab), *pairs])
    assert result.exit_code == 20, result.output
    assert "FAIL" in result.output
    found = json.loads(files["found.json"].read_text())
    assert found["verdict"] == "fail" and found["exit_code"] == 20
    assert [part["code"] for part in found["findings"]] == ["unreadable", "duplicate"]
    page = files["page.html"].read_text()
    assert page.count("data:image/jpeg") == 2 and "copy &amp; &lt;b&gt;.png" in page
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page
    again = CliRunner().invoke(app, ["check", str(lab), "--reference", str(files["found.json"])])
    assert again.exit_code == 20 and "0.0" in again.output


def test_the_page_of_a_tidy_lab_says_pass(lab: Path) -> None:
    assert "Pass." in html(check(lab))
