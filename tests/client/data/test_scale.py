"""The scale of a lab's pictures is that of one cell each, or it is refused, or it is missed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from client.data.cache import build, content_key, prepare
from client.data.decoding.chunk import Geometry
from client.data.index import scan
from client.data.scale import ScaleError
from client.data.store import CellCache
from common.config.loading import parse
from common.config.study import Study
from common.errors import ConfigError, DataError
from common.field_of_view import FIELD_UM
from tests.client.data.conftest import Paint

Command = Callable[..., Any]


def cell(path: Path, *size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 180, 190)).save(path)
    return path


@pytest.mark.parametrize(
    ("um_per_px", "size", "words"),
    [
        (
            11.52,
            (288, 288),
            "span 3,317.8 um, .* 3 to 40 um: .*11.52 pixels a micrometre are --um-per-px 0.08681",
        ),
        (0.0868, (2880, 2160), "span 250.0 um, and .* about 125.0; .* A whole field of view"),
        (0.5, (288, 288), "a cell in it about 72.0; .* Give the micrometres along one pixel"),
        (0.01, (288, 288), "span 2.9 um, and a cell in it about 1.4"),
    ],
)
def test_a_scale_at_which_a_cell_has_an_impossible_size_is_refused(
    tmp_path: Path, um_per_px: float, size: tuple[int, int], words: str
) -> None:
    path = cell(tmp_path / "cell.png", *size)
    with pytest.raises(ScaleError, match=rf"cell\.png: at um_per_px {um_per_px:g} its .*{words}"):
        Geometry(side=16, um_per_px=um_per_px).read(path)


@pytest.mark.parametrize(
    ("um_per_px", "size"), [(1 / 11.52, 288), (0.1, 360), (0.05, 800), (0.3, 200), (0.25, 60)]
)
def test_scales_of_real_microscopes_are_taken(tmp_path: Path, um_per_px: float, size: int) -> None:
    path = cell(tmp_path / "cell.png", size, size)
    assert len(Geometry(side=16, um_per_px=um_per_px).read(path)) == 16 * 16 * 3


def test_a_wrong_scale_is_said_once_for_all_images(lab: Path, hemofed_data: Command) -> None:
    result = hemofed_data("index", lab, "--um-per-px", 11.52, "--out", lab.parent / "out")
    assert isinstance(result.exception, ScaleError)
    assert str(result.exception).count("is um_per_px right?") == 1
    assert not (lab.parent / "out").exists()


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_a_whole_field_is_no_cell(tmp_path: Path, suffix: str) -> None:
    path = cell(tmp_path / f"field.{suffix}", 4000, 3000)
    with pytest.raises(DataError, match=r"field\.\w+: is 4000 x 3000 px, a whole field of view"):
        Geometry(side=16).read(path)
    assert Geometry(side=16).read(cell(tmp_path / f"cell.{suffix}", 1024, 700))


def test_a_picture_as_wide_as_the_field_is_taken_whole(tmp_path: Path, paint: Paint) -> None:
    for size in (48, 96, 288, 127):
        path = paint(tmp_path / f"{size}.png", size=(size, size))
        scaled = Geometry(side=24, um_per_px=FIELD_UM / size).read(path)
        assert scaled == Geometry(side=24).read(path)


def test_the_field_is_the_studys(tmp_path: Path, paint: Paint) -> None:
    path = paint(tmp_path / "lab" / "monocyte" / "a.png", size=(100, 100))
    with Image.open(path) as image:
        middle = image.crop((20, 20, 80, 80)).resize((30, 30), Image.Resampling.BICUBIC)
    found = Geometry(side=30, um_per_px=0.5, field_um=30).read(path)
    off = np.abs(np.frombuffer(found, np.uint8).reshape(30, 30, 3) - np.asarray(middle, dtype=int))
    # What lies beside the field has a say in its outermost pixels.
    assert off[2:-2, 2:-2].max() <= 1
    out = CellCache.open(build(scan(tmp_path / "lab"), tmp_path / "out", 8, 0.5, 30.0))
    assert out.meta["field_um"] == 30


@pytest.mark.parametrize("field_um", [5.9, 80.1, float("nan")])
def test_a_field_in_which_no_cell_fits_is_refused(field_um: float) -> None:
    with pytest.raises(DataError, match=r"field_um is .*; expected 6 to 80 um"):
        Geometry(side=8, field_um=field_um)
    with pytest.raises(ConfigError, match="field_um"):
        parse(Study, {"name": "s", "field_um": field_um}, "study.yaml")


def test_the_field_is_part_of_what_a_study_and_a_cache_are(lab: Path, tmp_path: Path) -> None:
    digests = {Study(name="s").digest, Study(name="s", field_um=30).digest}
    index = scan(lab)
    keys = {content_key(index, Geometry(side=8, field_um=field)) for field in (25.0, 30.0)}
    assert len(digests) == len(keys) == 2
    assert (
        Study(name="s").field_um
        == CellCache.open(prepare(lab, 8, cache_root=tmp_path / "root")).meta["field_um"]
    )


def test_index_says_the_scale_or_that_there_is_none(
    lab: Path, tmp_path: Path, hemofed_data: Command
) -> None:
    out = tmp_path / "out"
    missing = hemofed_data("index", lab, "--out", out).output
    assert "scale: not known: " in missing and "--um-per-px" in missing
    options = ("--um-per-px", 0.5, "--field-um", 20, "--out", out)
    given = hemofed_data("index", lab, *options).output
    assert (
        "scale: 0.5 um a pixel; a cached image shows 20 um" in given
        and "scale: not known" not in given
    )
