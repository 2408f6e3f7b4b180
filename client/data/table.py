"""Reads a lab's table of cells (`cells.csv`) as any common spreadsheet writes it."""

import codecs
import csv
import difflib
import io
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.data.patient_names import is_given
from common.errors import DataError

COLUMNS = ("path", "label", "patient", "split")
_NEAR = {
    "patient": (
        "subject",
        "case",
        "person",
        "donor",
        "pat",
        "pt",
        "pid",
        "mrn",
        "fallnummer",
        "患者",
    ),
    "split": ("subset", "set", "fold", "partition"),
}
"""Column -> other common words for it."""
_SEPARATORS = ",;\t"
_SHORTENED = re.compile(r"\d([.,]\d+)?[eE]\+\d+")
_SAVE = "save it as UTF-8 (in Excel: 'CSV UTF-8')"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One row of the table."""

    line: int
    """The row's line in the file, from 1; the last one, if the row has several."""
    path: str
    """The path with the blanks around it, which may belong to the file's name."""
    label: str
    patient: str
    """"" if the table says in any way that the patient is not known."""
    split: str
    """"" if the table says in any way that no split is given."""
    fault: str = ""
    """What is wrong with the row's form; "" if nothing is."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """The rows of a table."""

    records: Iterator[Record]
    """The rows in order, without empty ones. Raises DataError at a row that is not valid CSV."""
    unused: tuple[str, ...]
    """The columns that hemofed does not use, as the table names them."""


def read_table(path: Path) -> Table:
    """Read a CSV whose header names the columns path and label, and optionally patient and split.

    The separator is a comma, semicolon or tab, or the one that a first line such as `sep=;` names.
    The text is UTF-8, or UTF-16 with a byte order mark. Case and outer blanks do not matter in the
    names of columns.

    Raises:
        DataError: the file cannot be read, its header lacks path or label or has a column twice,
            or a column seems to mean patient or split while none has that name.
    """
    text = _text(path)
    if not text.strip():
        raise DataError(
            f"{path}: is empty, as a `--print-csv` that failed leaves it; remove it, or give it a "
            "header with the columns path and label"
        )
    line, separator, start = _separator(text)
    reader = csv.reader(io.StringIO(text[start:], newline=""), delimiter=separator, strict=True)
    header = next(_rows(path, reader), [])
    places = _places(path, header)
    unused = [name.strip() for at, name in enumerate(header) if at not in places.values()]
    return Table(
        records=_records(path, reader, places, len(header), line),
        unused=tuple(name for name in unused if name),
    )


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read as CSV ({error.strerror})") from error
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        name = "utf-16"
    elif b"\0" in content:
        raise DataError(f"{path}: cannot be read as CSV (it has zero bytes in it); {_SAVE}")
    else:
        name = "utf-8-sig"
    try:
        return content.decode(name)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}: cannot be read as CSV (line {line} has a byte {content[error.start]:#04x}, "
            f"which is not {name.upper().removesuffix('-SIG')}); {_SAVE}"
        ) from error


def _separator(text: str) -> tuple[int, str, int]:
    """The number of lines before the header, the separator, and the header's place in the text.

    >>> _separator("path;label\\n"), _separator("sep=;\\npath;label\\n")
    ((0, ';', 0), (1, ';', 6))
    """
    told = re.match(r'"?sep=(.)"?[ ]*[,;\t]*(\r\n|\r|\n)', text, re.IGNORECASE)
    if told:
        return 1, told[1], told.end()
    header = re.match(r"[^\r\n]*", text)
    assert header is not None
    return 0, max(_SEPARATORS, key=header[0].count), 0


def _rows(path: Path, reader: Any) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as error:
        raise DataError(
            f"{path}: cannot be read as CSV ({error}); is a quote left open?"
        ) from error


def _places(path: Path, header: Sequence[str]) -> dict[str, int]:
    """Map each column of `COLUMNS` that the header has to its place in a row."""
    names = [_folded(name) for name in header]
    twice = [name for name in COLUMNS if names.count(name) > 1]
    if twice:
        raise DataError(f"{path}: has the column {twice[0]} twice; keep the one that is meant")
    missing = [name for name in ("path", "label") if name not in names]
    if missing:
        # Without a header the first line is a cell, perhaps with a patient's name: do not show it.
        known = f" (columns: {', '.join(header)})" if len(missing) == 1 else ""
        raise DataError(
            f"{path}: no column {' and no column '.join(missing)}{known}; the first line is to "
            "name the columns: path, label and optionally patient, split"
        )
    for column in _NEAR:
        near = [given for given, name in zip(header, names, strict=True) if _is_near(name, column)]
        if near and column not in names:
            raise DataError(
                f"{path}: has no column {column}, and one called {near[0].strip()!r}; call it "
                f"{column} if that is what it says of each cell, else by another name"
            )
    return {name: names.index(name) for name in COLUMNS if name in names}


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold().strip()


def _is_near(name: str, column: str) -> bool:
    """Whether `name` may mean `column`: it contains it, misspells it, or has another word for it.

    >>> [_is_near(name, "patient") for name in ("patient no.", "patinet", "donor", "slide")]
    [True, True, True, False]
    """
    words = [word for word in re.split(r"[\W_]+", name) if word]
    bare = {re.sub(r"(s|ids?|nr|no|num|number|code|name|key)$", "", word) for word in words}
    whole = "".join(words)
    slip = difflib.get_close_matches(whole, [column], 1, 0.8)
    return column in whole or bool(slip or {*words, *bare}.intersection(_NEAR[column]))


def _records(
    path: Path, reader: Any, places: dict[str, int], width: int, before: int
) -> Iterator[Record]:
    for row in _rows(path, reader):
        if not any(cell.strip() for cell in row):
            continue
        found = dict.fromkeys(COLUMNS, "")
        found |= {name: row[at] for name, at in places.items() if at < len(row)}
        for name in ("patient", "split"):
            found[name] = found[name].strip() if is_given(found[name]) else ""
        fault = (
            _fault(row, width)
            or _shortened(found["patient"])
            or _separated_otherwise(row, reader.dialect.delimiter)
        )
        yield Record(line=reader.line_num + before, **found, fault=fault)


def _shortened(patient: str) -> str:
    if not _SHORTENED.fullmatch(patient):
        return ""
    return (
        "its patient is a long number that a spreadsheet shortened, so that several may be one; "
        "export the column as text"
    )


def _separated_otherwise(row: Sequence[str], separator: str) -> str:
    other = next((mark for mark in _SEPARATORS if mark != separator and mark in row[0]), "")
    if len(row) > 1 or not other:
        return ""
    return f"has no {separator!r}, which separates the header, but {other!r}; use one in all lines"


def _fault(row: Sequence[str], width: int) -> str:
    if any(cell.strip() for cell in row[width:]):
        return (
            f"has {len(row)} fields, the header {width}; put quotes around what has the separator "
            "in it"
        )
    if any("\n" in cell or "\r" in cell for cell in row):
        return "has a line break within a field; is a quote left open above?"
    return ""
