"""Tables as spreadsheets and people write them: read as meant, or refused with a way out."""

import csv
import io
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.data.index import Index, scan
from client.data.quality.check import check
from client.data.table import read_table
from common.errors import DataError

Paint = Callable[..., Path]


def index_of(lab: Path, text: str, encoding: str = "utf-8") -> Index:
    (lab / "cells.csv").write_bytes(text.encode(encoding))
    return scan(lab)


def rows(index: Index) -> list[tuple[str, str, str, str]]:
    return [(row.name, row.label, row.patient, row.split) for row in index.rows]


TWO = [("monocyte/0.png", "monocyte", "p1", "train"), ("monocyte/1.png", "basophil", "p2", "test")]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    "header",
    ["path,label,patient,split", "Path,LABEL,Patient,Split", " path , label,patient ,split\u00a0"],
)
def test_the_forms_that_spreadsheets_write(
    lab: Path, separator: str, encoding: str, ending: str, header: str
) -> None:
    lines = [header, *(",".join(row) for row in TWO), ",,,", ""]
    text = ending.join(lines).replace(",", separator)
    assert rows(index_of(lab, text, encoding)) == TWO


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;", "sep=;;;;"])
def test_the_line_that_tells_excel_the_separator(lab: Path, first: str) -> None:
    text = f"{first}\npath;label;patient\nmonocyte/0.png;monocyte;a,b\nmonocyte/9.png;monocyte;c\n"
    with pytest.raises(DataError, match="line 4: .*9.png: no such file"):
        index_of(lab, text)
    (row,) = index_of(lab, text.rpartition("monocyte/9")[0]).rows
    assert row.patient == "a,b"


@pytest.mark.parametrize(
    "name",
    ["patient_id", "Patient ID", "PatientID", "patients", "patinet", "subject", "case_no", "PatNr"],
)
def test_a_column_that_is_nearly_called_patient_is_refused(lab: Path, name: str) -> None:
    text = f"path,label,{name}\nmonocyte/0.png,monocyte,p1\n"
    with pytest.raises(DataError, match=rf"no column patient, and one called '{name}'; call it"):
        index_of(lab, text)
    with pytest.raises(DataError, match="no column patient"):
        check(lab)


@pytest.mark.parametrize("name", ["splits", "Data split", "subset", "set", "fold", "spilt"])
def test_a_column_that_is_nearly_called_split_is_refused(lab: Path, name: str) -> None:
    with pytest.raises(DataError, match=rf"no column split, and one called '{name}'; call it"):
        index_of(lab, f"path,label,{name}\nmonocyte/0.png,monocyte,test\n")


@pytest.mark.parametrize("use", [scan, check], ids=["index", "check"])
def test_every_column_that_is_not_used_is_named(lab: Path, use: Callable[[Path], object]) -> None:
    (lab / "cells.csv").write_text(
        "path,site,label,patient,Patient age,,sha256\nmonocyte/0.png,x,monocyte,p,7,,y\n"
    )
    found = use(lab)
    said = "columns that are not used: site, Patient age, sha256"
    assert found.remarks[0] == said  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["Cells.csv", "cells.CSV", "labels.csv", "cells.xlsx"])
@pytest.mark.parametrize("use", [scan, check], ids=["index", "check"])
def test_a_table_of_another_name_is_not_passed_over_without_a_word(
    lab: Path, name: str, use: Callable[[Path], object]
) -> None:
    (lab / name).write_text("path,label,patient\nmonocyte/0.png,monocyte,p\n")
    (lab / "notes.txt").touch()
    (remark,) = use(lab).remarks  # type: ignore[attr-defined]
    assert remark.startswith(f"{name} is not read: a table is called cells.csv")


def test_a_column_that_is_there_twice_is_refused(lab: Path) -> None:
    with pytest.raises(DataError, match="the column patient twice"):
        index_of(lab, "path,label,patient,Patient \nmonocyte/0.png,monocyte,p,q\n")


@pytest.mark.parametrize(
    "word",
    [
        "",
        "NA",
        "n/a",
        "N.A.",
        "#N/A",
        "nan",
        "NaN",
        "NULL",
        "None",
        "-",
        "--",
        "?",
        "unknown",
        "not known",
        "Anonymous",
        "XXX",
        "xxxxxxx",
        "#REF!",
        "#NAME?",
    ],
)
def test_what_stands_for_an_unknown_patient_is_not_one_patient(lab: Path, word: str) -> None:
    index = index_of(
        lab,
        f"path,label,patient,split\nmonocyte/0.png,monocyte, {word} ,{word}\n"
        "monocyte/1.png,monocyte,Nancy,train\n",
    )
    assert [(row.patient, row.split) for row in index.rows] == [("", ""), ("Nancy", "train")]


def test_patients_that_differ_in_case_zeros_or_a_stop_are_warned_of(lab: Path) -> None:
    names = ["P1", "p_01", "007", "7", "7.0", "10", "100", '"7,0"']
    files = [f"basophil/basophil_{at:04}.TIF" for at in range(4)]
    files += [f"monocyte/{at}.png" for at in range(4)]
    lines = [f"{file},monocyte,{name}" for file, name in zip(files, names, strict=True)]
    index = index_of(lab, "\n".join(["path,label,patient", *lines]))
    (remark,) = (said for said in index.remarks if "two names" in said)
    assert remark.startswith("2 patients under two names perhaps") and "007" not in remark
    assert [row.patient for row in index.rows] == [*names[:-1], "7,0"]
    (finding,) = (one for one in check(lab).findings if one.code == "patients-alike")
    assert [case.note for case in finding.cases] == ["007, 7, 7,0, 7.0", "P1, p_01"]
    assert finding.cases[1].files == ("basophil/basophil_0000.TIF", "basophil/basophil_0001.TIF")


def test_paths_with_backslashes_are_found_and_are_one_with_their_like(lab: Path) -> None:
    index = index_of(lab, "path,label\nmonocyte\\0.png,monocyte\n.\\monocyte\\1.png,monocyte\n")
    assert [row.name for row in index.rows] == ["monocyte/0.png", "monocyte/1.png"]
    with pytest.raises(DataError, match="line 4: .*same file is on line 2"):
        index_of(
            lab,
            "path,label\nmonocyte\\0.png,monocyte\nmonocyte/1.png,monocyte\n"
            "basophil/../monocyte/0.png,monocyte\n",
        )


def test_a_backslash_that_is_in_a_name_stays(lab: Path, paint: Paint) -> None:
    paint(lab / "monocyte" / "a\\b.png")
    (row,) = index_of(lab, "path,label\nmonocyte/a\\b.png,monocyte\n").rows
    assert row.path.is_file()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,label,patient\nmonocyte/0.png,monocyte,Müller\n".encode("cp1252"), "line 2 .* 0xfc"),
        ("path,label\nmonocyte/0.png,monocyte\n".encode("utf-16-le"), "zero bytes"),
        (b"PK\x03\x04\0\0", "zero bytes"),
        (b"\xff\xfep\0a", "UTF-16"),
    ],
    ids=["cp1252", "utf-16 without a mark", "xlsx", "cut utf-16"],
)
def test_another_encoding_is_refused_with_what_to_do(
    lab: Path, content: bytes, message: str
) -> None:
    (lab / "cells.csv").write_bytes(content)
    for use in (scan, check):
        with pytest.raises(DataError, match=rf"cells.csv: .*{message}.*(?s:.*)save it as UTF-8"):
            use(lab)


def test_a_table_most_of_whose_files_are_missing_asks_for_its_folder(lab: Path) -> None:
    lines = [f"elsewhere/{at}.png,monocyte" for at in range(99)]
    for kept in (["monocyte/0.png,monocyte"], []):
        (lab / "cells.csv").write_text("\n".join(["path,label", *kept, *lines]))
        with pytest.raises(
            DataError, match=r"99 of .* files are not there.*is the folder right\?$"
        ):
            scan(lab)
    with pytest.raises(DataError, match="is the folder right"):
        check(lab)


def test_a_check_of_such_a_table_asks_too(lab: Path) -> None:
    lines = [f"elsewhere/{at}.png,monocyte" for at in range(99)]
    (lab / "cells.csv").write_text("\n".join(["path,label", "monocyte/0.png,monocyte", *lines]))
    (finding,) = (one for one in check(lab).findings if one.code == "bad-row")
    assert "is the folder right?" in finding.what and len(finding.cases) == 99


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("monocyte/a,b.png,monocyte", "has 3 fields, the header 2"),
        ('"monocyte/0.png\n",monocyte', "line break within a field"),
        (f"{'x' * 5000}.png,monocyte", "no such file"),
    ],
)
def test_a_row_that_is_out_of_form_is_named(lab: Path, row: str, fault: str) -> None:
    with pytest.raises(DataError, match=rf"(?s)wrong row.*line [34]: .*{fault}"):
        index_of(lab, f"path,label\nmonocyte/1.png,monocyte\n{row}\nmonocyte/2.png,monocyte\n")


def test_a_quote_that_is_left_open_is_no_end_of_the_table(lab: Path) -> None:
    with pytest.raises(DataError, match="cells.csv: .*quote"):
        index_of(lab, 'path,label\nmonocyte/0.png,monocyte\n"monocyte/1.png,monocyte\n')


def test_unknown_names_are_listed_once_each_with_their_images(lab: Path) -> None:
    names = ["Mono"] * 4 + ["Giant thrombocyte"] * 2 + ["LY+"]
    files = [f"basophil/basophil_{at:04}.TIF" for at in range(4)]
    files += [f"monocyte/{at}.png" for at in range(3)]
    lines = [f"{file},{name}" for file, name in zip(files, names, strict=True)]
    with pytest.raises(DataError) as caught:
        index_of(lab, "\n".join(["path,label", *lines]))
    assert str(caught.value).splitlines()[1:4] == [
        "  'Mono' (4 images): perhaps monocyte",
        "  'Giant thrombocyte' (2 images)",
        "  'LY+' (1 image)",
    ]
    (finding,) = (one for one in check(lab).findings if one.code == "unknown-label")
    assert finding.what.endswith(
        "3 names that no cell type is known by: 'Mono' (4 images), 'Giant thrombocyte' (2 images), "
        "'LY+' (1 image)"
    )


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(
            *[st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8)] * 3
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_what_is_written_is_what_is_read(
    tmp_path: Path, content: list[tuple[str, str, str]], separator: str, encoding: str
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator)
    writer.writerows([("path", "label", "patient"), *content])
    (tmp_path / "cells.csv").write_bytes(text.getvalue().encode(encoding))
    found = [
        (record.path, record.label, record.patient)
        for record in read_table(tmp_path / "cells.csv").records
    ]
    known = [(path, label, patient) for path, label, patient in content]
    assert [one[:2] for one in found] == [one[:2] for one in known]
    assert all(got in (wrote, "") for (_, _, got), (_, _, wrote) in zip(found, known, strict=True))


def test_pictures_that_no_row_names_are_counted_and_the_check_lists_them(lab: Path) -> None:
    every = sorted(path.relative_to(lab).as_posix() for path in lab.rglob("*.*"))
    index = index_of(lab, "\n".join(["path,label", *(f"{name},monocyte" for name in every)]))
    assert index.remarks == ()
    (lab / "cells.csv").write_text("path,label\nmonocyte/0.png,monocyte\nmonocyte/1.png,rest\n")
    (remark,) = scan(lab, {"rest": "skip"}).remarks
    assert remark.startswith("9 pictures are named by no row of the table: `hemofed data check")
    assert "png" not in remark  # it may go into a report, and a path may name a patient
    result = check(lab, label_map={"rest": "skip"})
    (finding,) = (one for one in result.findings if one.code == "unlisted")
    assert set(finding.files) == set(every) - {"monocyte/0.png", "monocyte/1.png"}


def test_of_a_table_that_is_named_itself_only_the_folders_of_its_pictures_are_looked_at(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (lab / "cells.csv").write_text("path,label\nmonocyte/0.png,monocyte\n")
    assert scan(lab / "cells.csv").remarks[0].startswith("3 pictures are named by no row")
    monkeypatch.chdir(lab / "monocyte")
    Path("cells.csv").write_text("path,label,split\n0.png,monocyte,\n1.png,monocyte,Holdout\n")
    for source in (Path("."), Path("cells.csv")):
        (finding,) = (one for one in check(source).findings if one.code == "unlisted")
        assert finding.files == ("2.png", "3.png")


@pytest.mark.parametrize("patient", ["1.23457E+11", "1,2E+05", "1e+9"])
def test_a_number_that_a_spreadsheet_shortened_is_no_patient(lab: Path, patient: str) -> None:
    with pytest.raises(DataError, match="line 2: .*long number that a spreadsheet shortened"):
        index_of(lab, f'path,label,patient\nmonocyte/0.png,monocyte,"{patient}"\n')


def test_a_first_line_without_any_column_is_not_repeated(lab: Path) -> None:
    with pytest.raises(DataError) as caught:
        index_of(lab, "monocyte/0.png,monocyte,Eva Mueller\n")
    assert "Eva" not in str(caught.value) and "the first line is to name" in str(caught.value)


def test_a_name_with_its_accents_apart_is_the_same_file(lab: Path, paint: Paint) -> None:
    there = unicodedata.normalize("NFD", "Müller.png")
    paint(lab / "monocyte" / there)
    index = index_of(lab, "path,label\nmonocyte/M\u00fcller.png,monocyte\n")
    assert [row.name for row in index.rows] == [f"monocyte/{there}"]


@pytest.mark.parametrize("named", ["monocyte", "monocyte/pipe.png"])
def test_a_row_that_names_no_file_is_told_from_one_whose_file_is_gone(
    lab: Path, named: str
) -> None:
    os.mkfifo(lab / "monocyte" / "pipe.png")
    with pytest.raises(DataError, match=f"line 2: {named}: is no file"):
        index_of(lab, f"path,label\n{named},monocyte\n")


def test_a_table_that_is_no_file_is_not_read_past(lab: Path) -> None:
    os.mkfifo(lab / "cells.csv")
    with pytest.raises(DataError, match=r"cells\.csv: is no file"):
        scan(lab)


@pytest.mark.parametrize("content", ["", "\ufeff", " \n\n"])
def test_an_empty_table_is_called_empty(lab: Path, content: str) -> None:
    with pytest.raises(
        DataError, match=r"cells\.csv: is empty, as a `--print-csv` that failed leaves it"
    ):
        index_of(lab, content)


@pytest.mark.parametrize("good", ["", "monocyte/1.png,monocyte\n"])
def test_rows_with_another_separator_than_the_header_are_blamed_for_that(
    lab: Path, good: str
) -> None:
    with pytest.raises(DataError, match=r"line 2: .*has no ',', .* but ';'; use one in all lines"):
        index_of(lab, f"path,label\nmonocyte/0.png;monocyte\n{good}")


def test_a_table_of_which_all_is_left_out_says_so(lab: Path) -> None:
    (lab / "cells.csv").write_text("path,label\nmonocyte/0.png,artefact\n")
    with pytest.raises(DataError, match="1 image is left out, and no other there"):
        scan(lab, {"artefact": "skip"})
