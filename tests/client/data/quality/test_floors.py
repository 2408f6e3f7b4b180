"""A whole lab of pictures that no cell looks like is found without another to compare it with."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from rich.console import Console

from client.data.quality.check import check
from client.data.quality.findings import CheckResult, Finding, Severity
from client.data.quality.nuclei import count_nuclei
from client.data.quality.page import html
from client.data.quality.terminal import show
from tests.client.data import damaged_lab
from tests.client.data.pictures import colours

Change = Callable[[Image.Image], Image.Image]


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    return damaged_lab.lab(tmp_path / "lab")


def four(image: Image.Image) -> Image.Image:
    """A field of view with the cell four times."""
    field = Image.new("RGB", (2 * image.width, 2 * image.height))
    for at in range(4):
        turned = image.rotate(90 * at)
        field.paste(turned, (at % 2 * image.width, at // 2 * image.height))
    return field


def named(result: CheckResult, code: str) -> Finding:
    (found,) = (finding for finding in result.findings if finding.code == code)
    return found


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("too-dark", lambda image: image.point(lambda level: level // 4)),
        ("too-dark", lambda image: image.point(lambda level: level // 16)),
        ("grey", lambda image: image.convert("L").convert("RGB")),
        ("grey", lambda image: image.getchannel("R").convert("RGB")),
        ("several-cells", four),
    ],
    ids=["14 bits in 16", "12 bits in 16", "grey", "one channel", "field of view"],
)
def test_a_lab_under_a_floor_fails_and_one_picture_is_a_warning(
    lab: Path, code: str, change: Change
) -> None:
    paths = sorted(lab.rglob("*.png"))
    one = paths[5]
    change(Image.open(one)).save(one)
    finding = named(check(lab), code)
    assert finding.files == (one.relative_to(lab).as_posix(),)
    assert finding.severity is Severity.WARNING
    for path in paths:
        if path != one:
            change(Image.open(path)).save(path)
    finding = named(check(lab), code)
    assert finding.severity is Severity.FAILURE and len(finding.cases) > 30
    assert f"{len(finding.cases)} pictures of 36" in finding.what


@pytest.mark.parametrize("side", [64, 96, 288])
@pytest.mark.parametrize("seed", range(8))
def test_lobes_are_one_nucleus_and_cells_are_several(seed: int, side: int) -> None:
    def counted(image: Image.Image) -> int:
        return count_nuclei(np.asarray(image.resize((64, 64), Image.Resampling.BOX)))

    cell = damaged_lab.cell(seed, side)
    assert counted(cell) == 1
    assert counted(four(cell)) == 4


@pytest.mark.parametrize("level", [0, 128, 255])
def test_an_even_field_has_no_more_than_one_nucleus(level: int) -> None:
    assert count_nuclei(np.full((64, 64, 3), level, np.uint8)) <= 1


def test_pictures_of_several_pages_are_a_finding_with_their_count(lab: Path) -> None:
    with tifffile.TiffWriter(lab / "monocyte" / "stack.tif") as file:
        for _ in range(3):
            file.write(colours(), photometric="rgb")
    finding = named(check(lab), "form")
    assert finding.files == finding.leave_out == ("monocyte/stack.tif",)
    assert "holds 3 pictures" in finding.cases[0].note
    assert finding.severity is Severity.FAILURE


def test_what_index_refuses_at_a_scale_check_names(lab: Path) -> None:
    wrong = named(check(lab, um_per_px=11.52), "form")
    assert len(wrong.cases) == 36 and "is um_per_px right?" in wrong.cases[0].note
    right = check(lab, um_per_px=0.25)
    assert right.exit_code == 0 and right.scale == "scale: 0.25 um a pixel"


def test_a_missing_scale_is_said_and_is_no_finding(lab: Path) -> None:
    result = check(lab)
    assert result.exit_code == 0
    assert result.scale.startswith("scale: not known: ") and "Scale: not known: " in html(result)
    console = Console(width=400, file=io.StringIO(), record=True)
    show(result, console)
    assert result.scale in console.export_text()
