"""A deep tree becomes a table of labels, patients and splits by its folders' names; all is said."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.data.cli import index as print_table
from client.data.folder_tree import read_tree, summary
from client.data.index import scan
from client.data.quality.check import check
from common.errors import DataError

Paint = Callable[..., Path]
Command = Callable[..., Any]


@pytest.fixture
def tree(tmp_path: Path, paint: Paint) -> Path:
    """Two patients, of whom one has cells in two splits' folders, and folders that say nothing."""
    names = (
        "train/Patient_01/Signed slides/Eosinophils/a.png",
        "train/Patient_01/Signed slides/LY+/b.png",
        "train/Patient_02/monocyte/c.png",
        "Val/Patient_02/monocyte/d.png",
        "test/monocyte/e.png",
    )
    for seed, name in enumerate(names):
        paint(tmp_path / "tree" / name, seed=seed)
    (tmp_path / "tree" / "notes.txt").touch()
    return tmp_path / "tree"


def test_the_rows_of_a_tree(tree: Path) -> None:
    assert read_tree(tree).rows == [
        ("Val/Patient_02/monocyte/d.png", "monocyte", "Patient_02", "validation"),
        ("test/monocyte/e.png", "monocyte", "", "test"),
        (
            "train/Patient_01/Signed slides/Eosinophils/a.png",
            "Eosinophils",
            "Patient_01",
            "train",
        ),
        ("train/Patient_01/Signed slides/LY+/b.png", "LY+", "Patient_01", "train"),
        ("train/Patient_02/monocyte/c.png", "monocyte", "Patient_02", "train"),
    ]


def test_what_the_table_was_made_of_is_said(tree: Path) -> None:
    said = "\n".join(summary(read_tree(tree)))
    for line in (
        "5 images",
        "label: no cell type is known by LY+",
        "patient: Patient_02 (2), Patient_01 (2)",
        "split: train (3), Val (1), test (1)",
        "in no column: Signed slides (2)",
        "passed over: 1 not an image",
    ):
        assert line in said
    assert "no cell type" not in "\n".join(summary(read_tree(tree, {"LY+": "LY"}), {"LY+": "LY"}))


def test_a_known_type_far_above_an_image_is_its_label(tmp_path: Path, paint: Paint) -> None:
    paint(tmp_path / "monocyte" / "case 7" / "slide 3" / "a.png")
    tree = read_tree(tmp_path)
    assert tree.rows == [("monocyte/case 7/slide 3/a.png", "monocyte", "case 7", "")]
    assert tree.unused == {"slide 3": 1}


def test_the_printed_table_is_what_the_index_reads(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / "cells.csv").touch()  # as the shell does, before anything is printed to it
    print_table(tree, print_csv=True)
    (tree / "cells.csv").write_text(capsys.readouterr().out)
    index = scan(tree, {"LY+": "lymphocyte_reactive"})
    assert index.counts() == {"eosinophil": 1, "monocyte": 3, "lymphocyte_reactive": 1}
    assert [(row.name, row.patient, row.split) for row in index.rows] == [
        (name, patient, split) for name, _, patient, split in read_tree(tree).rows
    ]


def test_a_table_is_printed_or_an_index_made(tree: Path, hemofed_data: Command) -> None:
    for more in (("--skip-unreadable",), ("--leave-out", "x.json"), ("--out", tree / "x")):
        assert hemofed_data("index", tree, "--print-csv", *more).exit_code == 2


@pytest.mark.parametrize(
    "name", [" a.png", "b .png", "c,d.png", 'e"f.png', "sep=;.png", "g\\h.png"]
)
def test_names_of_files_come_back_as_they_are(
    tmp_path: Path, paint: Paint, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    paint(tmp_path / "monocyte" / "slide 1" / name)
    print_table(tmp_path, print_csv=True)
    (tmp_path / "cells.csv").write_text(capsys.readouterr().out)
    (row,) = scan(tmp_path).rows
    assert row.name == f"monocyte/slide 1/{name}" and row.path.is_file()


@pytest.mark.parametrize("use", [scan, check], ids=["index", "check"])
def test_a_deep_tree_says_how_to_write_the_table_and_names_no_folder_deeper(
    tree: Path, use: Callable[[Path], object]
) -> None:
    with pytest.raises(DataError) as caught:
        use(tree)
    assert f"hemofed data index {tree} --print-csv > {tree / 'cells.csv'}" in str(caught.value)
    assert "takes them as splits" in str(caught.value) and "name one lab" not in str(caught.value)


def test_a_folder_of_patients_is_no_folder_of_labs(tree: Path) -> None:
    with pytest.raises(DataError, match="takes such folders as patients") as caught:
        scan(tree / "train")
    assert "name one lab" not in str(caught.value)


@pytest.mark.parametrize("kind", ["empty", "file", "no folder"])
def test_no_tree(tmp_path: Path, paint: Paint, kind: str) -> None:
    if kind == "no folder":
        paint(tmp_path / "a.png")
    source = tmp_path / "x" if kind == "file" else tmp_path
    with pytest.raises(DataError, match="is not a folder|no image in a folder"):
        read_tree(source)


def test_a_folder_of_words_below_a_type_is_no_guess(tmp_path: Path, paint: Paint) -> None:
    """It may be a kind of its own: the index asks, and the map or the table answers."""
    for at, below in enumerate(("atypical", "slide 3", "Patient_01", "train", "p2/atypical")):
        paint(tmp_path / "lymphocyte" / below / f"{at}.png", seed=at)
    tree = read_tree(tmp_path)
    assert {name.split("/", 1)[1]: label for name, label, _, _ in tree.rows} == {
        "atypical/0.png": "lymphocyte/atypical",
        "slide 3/1.png": "lymphocyte",
        "Patient_01/2.png": "lymphocyte",
        "train/3.png": "lymphocyte",
        "p2/atypical/4.png": "lymphocyte/atypical",
    }
    said = "\n".join(summary(tree))
    assert "no cell type is known by lymphocyte/atypical" in said
    table = "\n".join(["path,label,patient,split", *map(",".join, tree.rows)])
    (tmp_path / "cells.csv").write_text(table)
    with pytest.raises(DataError, match=r"'lymphocyte/atypical' \(2 images\): perhaps lymphocyte"):
        scan(tmp_path)
    found = scan(tmp_path, {"lymphocyte/atypical": "lymphocyte_reactive"})
    assert found.counts() == {"lymphocyte": 3, "lymphocyte_reactive": 2}


def test_a_link_to_a_folder_around_it_is_named(tmp_path: Path, paint: Paint) -> None:
    paint(tmp_path / "lab" / "Patient_1" / "monocyte" / "a.png")
    (tmp_path / "lab" / "Patient_1" / "back").symlink_to(tmp_path / "lab")
    with pytest.raises(DataError, match="Patient_1/back: is a link to a folder that it lies in"):
        read_tree(tmp_path / "lab")
    (tmp_path / "lab" / "Patient_1" / "back").unlink()
    (tmp_path / "elsewhere").symlink_to(tmp_path / "lab")
    assert len(read_tree(tmp_path / "elsewhere").rows) == 1
