"""Class folders and CSVs become an index, or an error that says what to do."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from client.data.index import scan
from client.data.quality.check import check
from common.errors import DataError

Paint = Callable[..., Path]


def test_class_folders_in_order_with_junk_counted(lab: Path) -> None:
    (lab / "__MACOSX/basophil").mkdir(parents=True)
    (lab / "__MACOSX/basophil/._basophil_0000.TIF").write_bytes(b"junk")
    (lab / "basophil/._basophil_0000.TIF").write_bytes(b"junk")
    (lab / ".DS_Store").write_bytes(b"junk")
    (lab / "monocyte/Thumbs.db").write_bytes(b"junk")
    (lab / "README.txt").write_text("ours")
    index = scan(lab)
    assert index.counts() == {"myeloblast": 3, "basophil": 4, "monocyte": 4}
    assert [row.name for row in index.rows] == sorted(row.name for row in index.rows)
    assert all(row.path.is_file() and row.path == lab / row.name for row in index.rows)
    assert index.skipped == {
        "__MACOSX": 1,
        "hidden": 2,
        "not an image": 1,
        "outside a class folder": 1,
    }


def test_other_names_of_folders(tmp_path: Path, paint: Paint) -> None:
    for folder in ("SNE", "Hairy Cell", "Stab", "artefact"):
        paint(tmp_path / folder / "1.png")
    index = scan(tmp_path, {"Stab": "neutrophil_band", "artefact": "skip"})
    assert index.counts() == {"neutrophil_band": 1, "neutrophil_segmented": 1, "hairy_cell": 1}
    assert index.skipped == {"left out by label_map": 1}


def test_unknown_label_names_folder_and_nearest(lab: Path) -> None:
    (lab / "monocyte").rename(lab / "monocite")
    with pytest.raises(
        DataError, match=r"lab: 1 name .*\n  'monocite' .4 images.: perhaps monocyte\n"
    ):
        scan(lab)


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no image found .it is empty.* one folder a cell type"):
        scan(tmp_path)
    (tmp_path / "basophil").mkdir()
    with pytest.raises(DataError, match=r"no image found .1 empty folder"):
        scan(tmp_path)


def test_a_folder_of_labs_says_to_name_one(lab: Path) -> None:
    with pytest.raises(DataError, match=r"name one lab, like .*lab"):
        scan(lab.parent)


def test_no_such_source_and_not_a_source(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder or CSV"):
        scan(tmp_path / "nowhere")
    (tmp_path / "cells.txt").write_text("")
    with pytest.raises(DataError, match=r"expected a folder of class folders, or a \.csv"):
        scan(tmp_path / "cells.txt")


@pytest.mark.parametrize("separator", [",", ";"])
def test_table(lab: Path, separator: str) -> None:
    lines = (
        "label,site,path,patient,split",
        "BAS,x,basophil/basophil_0001.TIF,p1,train",
        "Monocyte,x,monocyte/0.png,,Val",
        "MYO,x,myeloblast/a.jpg,p2,",
    )
    table = lab / "some.csv"
    table.write_text("\r\n".join(lines).replace(",", separator), encoding="utf-8-sig")
    rows = scan(table).rows
    assert [(row.name, row.label, row.patient, row.split) for row in rows] == [
        ("basophil/basophil_0001.TIF", "basophil", "p1", "train"),
        ("monocyte/0.png", "monocyte", "", "validation"),
        ("myeloblast/a.jpg", "myeloblast", "p2", ""),
    ]


def test_a_folder_with_a_table_is_read_through_it(lab: Path) -> None:
    (lab / "cells.csv").write_text("path,label\nmonocyte/1.png,plasma_cell\n")
    assert scan(lab).counts() == {"plasma_cell": 1}
    assert scan(lab) == scan(lab)


def test_wrong_rows_are_named_by_line_all_at_once(lab: Path) -> None:
    (lab / "cells.csv").write_text(
        "path,label,split\n"
        "monocyte/1.png,monocyte,train\n"
        "monocyte/9.png,monocyte,train\n"
        ",monocyte,\n"
        "monocyte/2.png,monocite,\n"
        "monocyte/3.png,monocyte,holdout\n"
        "monocyte/1.png,basophil,test\n"
    )
    with pytest.raises(DataError) as caught:
        scan(lab)
    head, *faults = str(caught.value).splitlines()
    assert head.endswith("cells.csv: 4 wrong rows")
    for fault, expected in zip(
        faults,
        (
            r"line 3: .*9.png: no such file",
            r"line 4: the path is empty",
            r"line 6: monocyte/3.png: split 'holdout' is not train, validation or test",
            r"line 7: monocyte/1.png: the same file is on line 2 already",
            r"lab: 1 name that no cell type is known by",
            r"'monocite' .1 image.: perhaps monocyte",
            r"Map a site's own names in label_map",
        ),
        strict=True,
    ):
        assert re.search(expected, fault)


def test_many_wrong_rows_are_not_all_printed(lab: Path) -> None:
    (lab / "cells.csv").write_text(
        "path,label\nmonocyte/1.png,monocyte\n" + "monocyte/1.png,monocyte\n" * 50
    )
    with pytest.raises(DataError, match=r"50 wrong rows(?s:.*)and 30 more$"):
        scan(lab)


def test_a_table_without_the_columns_or_rows(lab: Path) -> None:
    table = lab / "cells.csv"
    table.write_text("file,label\na,b\n")
    with pytest.raises(DataError, match=r"no column path \(columns: file, label\)"):
        scan(lab)
    table.write_text("path,label\n")
    with pytest.raises(DataError, match="no image in it"):
        scan(lab)
    table.write_bytes(b"path,label\n\xff\xfe,monocyte\n")
    with pytest.raises(DataError, match="cannot be read as CSV"):
        scan(lab)


@pytest.mark.parametrize("use", [scan, check], ids=["index", "check"])
def test_what_the_file_system_bears_and_we_cannot_is_named(
    lab: Path, use: Callable[[Path], object]
) -> None:
    loop = lab / "monocyte" / "loop.png"
    loop.symlink_to(loop)
    with pytest.raises(DataError, match=r"loop.png: cannot be followed .*remove it"):
        use(lab)
    loop.unlink()
    old = os.fsencode(lab / "monocyte") + b"/M\xfcller.png"
    Path(os.fsdecode(old)).touch()
    with pytest.raises(DataError, match=r"M\\\\?xfcller.png'?: the name is not UTF-8.*rename"):
        use(lab)
