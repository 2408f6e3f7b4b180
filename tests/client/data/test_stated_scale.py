"""What files state of their own scale is held against the one that a lab gives."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from client.data.index import scan
from client.data.quality.check import check
from client.data.stated_scale import look, stated_um_per_px
from tests.client.data.conftest import Paint
from tests.client.data.pictures import colours, dicom

Command = Callable[..., Any]


def test_ome_states_it(tmp_path: Path) -> None:
    for unit, size in (("\u00b5m", 0.1), ("nm", 100.0), ("mm", 1e-4)):
        metadata = {"axes": "YXS", "PhysicalSizeX": size, "PhysicalSizeXUnit": unit}
        tifffile.imwrite(tmp_path / "a.ome.tif", colours(), metadata=metadata, ome=True)
        assert stated_um_per_px(tmp_path / "a.ome.tif") == pytest.approx(0.1)


@pytest.mark.parametrize(
    "attributes",
    [
        "PhysicalSizeX='0.1' PhysicalSizeXUnit='\u00b5m'",
        'PhysicalSizeX = "0.1" PhysicalSizeXUnit="&#181;m"',
        'PhysicalSizeXUnit="nm" PhysicalSizeX="1E+2"',
        'PhysicalSizeX="0.1"',
    ],
)
def test_ome_states_it_in_any_form_of_xml(tmp_path: Path, attributes: str) -> None:
    text = f'<OME><Pixels SizeC="3" SizeZ="1" SizeT="1" {attributes}/></OME>'.encode()
    tifffile.imwrite(tmp_path / "a.tif", colours(), description=text, metadata=None)
    assert stated_um_per_px(tmp_path / "a.tif") == pytest.approx(0.1)


@pytest.mark.parametrize("size", ["0.1.2", "e", "", "-0.1", "nan", "1e-9", "1e9", "inf"])
def test_a_scale_that_is_none_is_none(tmp_path: Path, size: str) -> None:
    text = f'<OME><Pixels PhysicalSizeX="{size}"'.encode()
    tifffile.imwrite(tmp_path / "a.tif", colours(), description=text, metadata=None)
    assert stated_um_per_px(tmp_path / "a.tif") is None
    dicom(tmp_path / "a.dcm", colours())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content = pydicom.dcmread(tmp_path / "a.dcm")
        content.add(DataElement(0x00280030, "LO", [size, size] if size != "e" else "0.1"))
        content.save_as(tmp_path / "a.dcm")
        assert stated_um_per_px(tmp_path / "a.dcm") is None


@pytest.mark.parametrize(
    ("tag", "kind", "value"), [(282, "I", 100_000), (296, "s", "cm"), (282, "2I", (1, 0))]
)
def test_a_tag_of_another_type_is_no_scale(
    tmp_path: Path, tag: int, kind: str, value: object
) -> None:
    extra = [(tag, kind, 1 if kind == "I" else 2, value, True)]
    tifffile.imwrite(tmp_path / "a.tif", colours(), metadata=None, extratags=extra)
    assert stated_um_per_px(tmp_path / "a.tif") is None


def test_imagej_states_it(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    for unit in ("micron", "um", "\\u00B5m"):
        tifffile.imwrite(path, colours(), imagej=True, resolution=(10, 10), metadata={"unit": unit})
        assert stated_um_per_px(path) == pytest.approx(0.1)
    tifffile.imwrite(path, colours(), imagej=True, resolution=(10, 10), metadata={"unit": "pixel"})
    assert stated_um_per_px(path) is None


def test_a_printers_resolution_is_no_scale(tmp_path: Path) -> None:
    picture = Image.fromarray(colours())
    for suffix in ("tif", "png", "jpg"):
        path = tmp_path / f"a.{suffix}"
        picture.save(path)
        assert stated_um_per_px(path) is None
        for dpi in (72, 300, 2400):
            picture.save(path, dpi=(dpi, dpi))
            assert stated_um_per_px(path) is None
        # A JPEG has 16 bits for it.
        fine = 50_800 if suffix == "jpg" else 254_000
        picture.save(path, dpi=(fine, fine))
        assert stated_um_per_px(path) == pytest.approx(25_400 / fine, rel=1e-3)


def test_dicom_states_it(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    dicom(path, colours())
    assert stated_um_per_px(path) is None
    content = pydicom.dcmread(path)
    content.PixelSpacing = [0.0002, 0.0001]
    content.save_as(path)
    assert stated_um_per_px(path) == pytest.approx(0.1)
    measures, groups = Dataset(), Dataset()
    measures.PixelSpacing = [0.0005, 0.0005]
    groups.PixelMeasuresSequence = Sequence([measures])
    content.SharedFunctionalGroupsSequence = Sequence([groups])
    content.save_as(path)
    assert stated_um_per_px(path) == pytest.approx(0.5)


@pytest.fixture
def scaled(tmp_path: Path) -> Path:
    """Forty pictures of 160 px at a stated tenth of a micrometre."""
    (tmp_path / "lab" / "monocyte").mkdir(parents=True)
    for at in range(40):
        picture = Image.new("RGB", (160, 160), (200, 180, 100 + at))
        picture.save(tmp_path / "lab" / "monocyte" / f"{at}.png", dpi=(254_000, 254_000))
    return tmp_path / "lab"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "files of 21 of 21 pictures state 0.1 um a pixel: where that is right, index with"),
        (0.2, "files of 21 of 21 pictures state 0.1 um a pixel, and 0.2 was given: which is right"),
        (0.2, "the middle one of 21 pictures spans 32 um"),
        (0.1, "the middle one of 21 pictures spans 16 um"),
    ],
)
def test_index_and_check_say_it(
    scaled: Path, tmp_path: Path, given: float | None, words: str, hemofed_data: Command
) -> None:
    option = () if given is None else ("--um-per-px", given)
    assert words in hemofed_data("index", scaled, "--out", tmp_path / "c", *option).output
    assert words in "\n".join(check(scaled, um_per_px=given).remarks)


def test_a_scale_that_agrees_is_not_asked_about(scaled: Path, paint: Paint) -> None:
    paths = [row.path for row in scan(scaled).rows]
    assert look(paths, 0.101) == ["the middle one of 21 pictures spans 16.2 um"]
    Image.new("RGB", (160, 160)).save(paths[0], dpi=(127_000, 127_000))
    assert "state 0.1 to 0.2 um a pixel" in " ".join(look(paths, 0.1))
    paths[0].write_bytes(b"damaged")
    assert "state 0.1 um" in " ".join(look(paths, None))
    assert look([], 0.1) == [] == look([paint(scaled / "a.png")], None)
