"""A picture in a form that is never read is not passed over in silence: named, counted, refused."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from client.data.cache import CellCache, prepare
from client.data.decoding.formats import IMAGE_SUFFIXES, refused
from client.data.decoding.image import read_rgb
from client.data.folder_tree import read_tree
from client.data.index import scan
from client.data.quality.check import check
from common.errors import ConfigError, DataError
from common.process_hardening import environment, python
from tests.client.data.conftest import Paint
from tests.client.data.pictures import colours, dicom

Command = Callable[..., Any]


@pytest.fixture
def mixed(lab: Path) -> Path:
    """A lab of readable pictures, and of some that a microscope's own program wrote."""
    for name in ("basophil/a.czi", "basophil/b.CZI", "monocyte/c.heic", "monocyte/notes.txt"):
        (lab / name).write_bytes(b"content")
    return lab


def test_an_index_of_a_mixed_folder_names_and_counts_them(mixed: Path) -> None:
    words = r"3 pictures in forms that are not read: 2 Zeiss CZI, 1 HEIF; the first is basophil/a"
    with pytest.raises(DataError, match=words) as caught:
        scan(mixed)
    assert "export one picture of one cell as 8-bit RGB TIFF or PNG" in str(caught.value)


def test_the_exit_code_says_so(mixed: Path) -> None:
    command = python("-m", "hemofed", "data", "index", str(mixed), "--out", str(mixed.parent / "o"))
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 3 and "2 Zeiss CZI" in done.stderr
    assert not (mixed.parent / "o").exists()


def test_skip_unreadable_passes_them_over_and_counts_them(
    mixed: Path, hemofed_data: Command
) -> None:
    out = mixed.parent / "out"
    result = hemofed_data("index", mixed, "--skip-unreadable", "--out", out)
    assert result.exit_code == 0, result.exception
    assert "passed over: 2 Zeiss CZI, which is not read" in result.output
    assert "passed over: 1 not an image" in result.output
    assert len(CellCache.open(out)) == 11


def test_a_check_finds_them(mixed: Path) -> None:
    result = check(mixed)
    (finding,) = (finding for finding in result.findings if finding.code == "form")
    assert finding.files == finding.leave_out
    assert finding.files == ("basophil/a.czi", "basophil/b.CZI", "monocyte/c.heic")
    assert result.exit_code == 20 and result.passed_over == {"not an image": 1}


def test_a_type_that_is_left_out_is_left_out_with_them(mixed: Path) -> None:
    index = scan(mixed, {"basophil": "skip", "monocyte": "skip"})
    assert index.counts() == {"myeloblast": 3}
    assert scan(mixed, leave_out=["basophil/a.czi", "basophil/b.CZI", "monocyte/c.heic"])


def test_a_folder_of_nothing_else_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "monocyte").mkdir()
    (tmp_path / "monocyte" / "slide.svs").touch()
    for look in (scan, check):
        with pytest.raises(DataError, match="1 picture in forms that are not read: 1 Aperio SVS"):
            look(tmp_path)


def test_a_table_that_names_one(lab: Path) -> None:
    (lab / "a.gif").touch()
    (lab / "cells.csv").write_text("path,label\na.gif,monocyte\nmonocyte/1.png,monocyte\n")
    with pytest.raises(DataError, match=r"1 picture in forms that are not read: 1 GIF; .*a\.gif"):
        scan(lab)


def test_dicom_needs_no_suffix(tmp_path: Path, paint: Paint) -> None:
    folder = tmp_path / "lab" / "monocyte"
    paint(folder / "a.png")
    for name in ("b.dcm", "IM000001", "1.2.840.10008.5"):
        dicom(folder / name, colours())
    for name in ("README", "Makefile.12"):
        (folder / name).write_text("x" * 200)
    index = scan(tmp_path / "lab")
    assert [row.name.partition("/")[2] for row in index.rows] == [
        "1.2.840.10008.5",
        "IM000001",
        "a.png",
        "b.dcm",
    ]
    assert index.skipped == {"not an image": 2}


@pytest.mark.parametrize("form", ["WEBP", "AVIF", "JPEG2000"])
def test_other_forms_are_indexed(tmp_path: Path, form: str, hemofed_data: Command) -> None:
    suffix = {"JPEG2000": "jp2"}.get(form, form.lower())
    (tmp_path / "lab" / "monocyte").mkdir(parents=True)
    Image.fromarray(colours()).save(tmp_path / "lab" / "monocyte" / f"a.{suffix}", form)
    result = hemofed_data("index", tmp_path / "lab", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.exception
    pixels = CellCache.open(tmp_path / "out").images[0]
    assert np.ptp(pixels) > 200


def test_no_suffix_is_read_and_refused() -> None:
    assert not [suffix for suffix in IMAGE_SUFFIXES if refused(f"cell{suffix}")]


def test_a_reason_that_goes_for_many_is_said_once(tmp_path: Path) -> None:
    folder = tmp_path / "lab" / "monocyte"
    folder.mkdir(parents=True)
    for number in range(5):
        Image.fromarray(colours()).convert("RGBA").point(lambda level: 0).save(
            folder / f"{number}.png"
        )
    with pytest.raises(DataError, match="no pixel of it is opaque") as caught:
        prepare(tmp_path / "lab", 8, cache_root=tmp_path / "root")
    said = str(caught.value)
    assert said.count("opaque") == 1 and said.count("--skip-unreadable") == 1
    assert [said.count(str(folder / f"{number}.png")) for number in range(5)] == [1] * 5


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html>\n<title>Log in</title>", "it is text"),
        ("Zelle Nr. 7, gefärbt".encode("cp1252"), "it is text"),
        (bytes(300), "it begins with nothing but zero bytes"),
        (bytes(range(256)), "it begins as no picture does that is read"),
        (b"\x89PNG\r\n\x1a\nIHDR", "it is damaged at its beginning, or cut short"),
        (b"P6\n2 2\n255\n" + bytes(12), "it is Netpbm; export one picture"),
        (b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100", "it is DICOM without its preamble"),
    ],
)
@pytest.mark.parametrize("name", ["cell.bmp", "cell.dcm"])
def test_what_is_no_picture_is_said_in_words_of_ours(
    tmp_path: Path, content: bytes, words: str, name: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_rgb(tmp_path / name)
    assert words in str(caught.value)
    assert str(caught.value).count(str(tmp_path)) == 1 and "BufferedReader" not in str(caught.value)


def test_pictures_by_another_name_are_told_from_what_is_none(lab: Path) -> None:
    for at, suffix in enumerate(("bak", "JPG~", "", "001x")):
        shutil.copy(lab / "monocyte" / f"{at}.png", lab / "monocyte" / f"copy{at}.{suffix}")
    for name in ("c.tif", "b.bmp"):
        shutil.copy(lab / "myeloblast" / name, lab / "myeloblast" / f"{name}.orig")
    (lab / "monocyte" / "notes.txt").write_text("notes")
    dicom(lab / "monocyte" / "a.image", colours())
    index = scan(lab)
    assert len(index.rows) == 12
    assert index.skipped == {
        "a picture by its first bytes and not by its name; rename it, or take it out": 6,
        "not an image": 1,
    }
    (finding,) = (one for one in check(lab).findings if one.code == "misnamed")
    assert len(finding.files) == 6 and "monocyte/copy0.bak" in finding.files


def test_a_pipe_among_the_pictures_is_not_waited_for(lab: Path) -> None:
    for name in ("pipe", "pipe.png"):
        os.mkfifo(lab / "monocyte" / name)
    index = scan(lab)
    assert len(index.rows) == 11 and index.skipped == {"neither a file nor a folder": 2}
    assert read_tree(lab).passed_over == {"neither a file nor a folder": 2}


def test_a_check_writes_into_folders_that_are_there(lab: Path, hemofed_data: Command) -> None:
    for option in ("--json", "--html", "--profile"):
        result = hemofed_data("check", lab, option, lab / "x" / "found")
        assert isinstance(result.exception, ConfigError)
        assert "its folder is not there" in str(result.exception)
    assert not (lab / "x").exists()
