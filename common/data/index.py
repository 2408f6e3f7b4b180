"""Where a lab's images are and what they show: class folders or a CSV -> an index."""

import csv
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.cells import CODES, SKIP, resolve
from common.data.marks import SOURCE_MARK
from common.errors import DataError

IMAGE_SUFFIXES = frozenset({".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp"})
TABLE = "cells.csv"
"""A folder with this file is read through it."""

SPLITS = {
    "": "",
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
_FAULTS_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One image."""

    path: Path
    name: str
    """The path as the source has it: relative to the folder or the CSV, with forward slashes."""
    label: str
    """A name in `CELL_TYPES`."""
    patient: str = ""
    split: str = ""
    """"", "train", "validation" or "test"; "": not given."""


@dataclass(frozen=True, kw_only=True)
class Index:
    """The images of one source, in a fixed order, and what was passed over."""

    source: Path
    rows: tuple[Row, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)
    """Reason -> number of files that were passed over."""

    def counts(self) -> dict[str, int]:
        """Cell type -> number of images, in the order of `CELL_TYPES`, none left out with 0."""
        found = Counter(row.label for row in self.rows)
        return {name: found[name] for name in CODES if found[name]}


def scan(source: Path, label_map: Mapping[str, str] | None = None) -> Index:
    """Index a folder of class folders (MLL23's layout), or a CSV.

    The CSV has the columns path and label, and optionally patient and split; others are ignored,
    and paths are relative to it. Only names and sizes are looked at; no image is opened. Raises
    DataError: nothing there, no image, an unknown label, a folder of labs, a wrong row.
    """
    if source.is_file():
        if source.suffix.lower() != ".csv":
            raise DataError(f"{source}: expected a folder of class folders, or a .csv file")
        return _from_table(source, source, label_map)
    if not source.is_dir():
        raise DataError(f"{source}: no such folder or CSV")
    if (source / "images.npy").is_file():
        raise DataError(f"{source}: is an indexed cache; name the folder that it was made from")
    if (source / TABLE).is_file():
        return _from_table(source, source / TABLE, label_map)
    return _from_folders(source, label_map)


def _from_folders(source: Path, label_map: Mapping[str, str] | None) -> Index:
    skipped: Counter[str] = Counter()
    rows: list[Row] = []
    for entry in visible(source, skipped):
        if not is_folder(entry):
            skipped["outside a class folder"] += 1
            continue
        names = _images(Path(entry.path), skipped, _refuse_level(source, entry.name))
        if not names:
            skipped["empty folder"] += 1
            continue
        label = _label(entry.path, entry.name, label_map)
        if label == SKIP:
            skipped["left out by label_map"] += len(names)
            continue
        rows += [
            Row(path=Path(entry.path, name), name=f"{entry.name}/{name}", label=label)
            for name in names
        ]
    if not rows:
        raise DataError(_nothing(source, skipped))
    return Index(source=source, rows=tuple(rows), skipped=dict(skipped))


def _label(where: object, label: str, label_map: Mapping[str, str] | None) -> str:
    try:
        return resolve(label, label_map)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _refuse_level(source: Path, folder: str) -> str:
    return (
        f"{source / folder}: has folders where images are expected. If {source} holds one folder "
        f"a lab, name one lab, like {source / folder}; if these are patients, give a CSV with the "
        "columns path, label, patient"
    )


def _images(folder: Path, skipped: Counter[str], refusal: str) -> list[str]:
    """The names of the images in a class folder, sorted; DataError(refusal) if it has folders."""
    names = []
    for entry in visible(folder, skipped):
        if is_folder(entry):
            raise DataError(refusal)
        if Path(entry.name).suffix.lower() in IMAGE_SUFFIXES:
            names.append(entry.name)
        else:
            skipped["not an image"] += 1
    return names


def visible(folder: Path, skipped: Counter[str]) -> Iterator["os.DirEntry[str]"]:
    """What is in `folder`, by name, without what macOS and hidden files leave there."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from error
    for entry in found:
        if entry.name == "__MACOSX":
            skipped["__MACOSX"] += sum(len(files) for _, _, files in os.walk(entry.path))
        elif entry.name == SOURCE_MARK:
            continue
        elif entry.name.startswith("."):
            skipped["hidden"] += 1
        else:
            _require_utf8(entry)
            yield entry


def is_folder(entry: "os.DirEntry[str]") -> bool:
    """Raises DataError: a link that leads back to itself."""
    try:
        return entry.is_dir()
    except OSError as error:
        raise DataError(
            f"{entry.path}: cannot be followed ({error.strerror}); remove it"
        ) from error


def _require_utf8(entry: "os.DirEntry[str]") -> None:
    try:
        entry.path.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{os.fsencode(entry.path)!r}: the name is not UTF-8, as one from an old archive; "
            "rename it"
        ) from None


def _nothing(source: Path, skipped: Mapping[str, int]) -> str:
    passed = ", ".join(f"{number} {reason}" for reason, number in skipped.items()) or "it is empty"
    kinds = " ".join(sorted(IMAGE_SUFFIXES))
    return (
        f"{source}: no image found ({passed}). Expected one folder a cell type with images "
        f"({kinds}) in it, or a {TABLE}"
    )


def _from_table(source: Path, table: Path, label_map: Mapping[str, str] | None) -> Index:
    rows: list[Row] = []
    faults: list[str] = []
    skipped: Counter[str] = Counter()
    seen: dict[Path, int] = {}
    for line, record in records(table):
        try:
            row = _row(table.parent, record, label_map)
            if row.path in seen:
                raise DataError(f"{row.name} is on line {seen[row.path]} already")
        except DataError as error:
            faults.append(f"  line {line}: {error}")
            continue
        seen[row.path] = line
        if row.label == SKIP:
            skipped["left out by label_map"] += 1
        else:
            rows.append(row)
    if faults:
        more = [f"  and {len(faults) - _FAULTS_SHOWN} more"] if len(faults) > _FAULTS_SHOWN else []
        shown = "\n".join(faults[:_FAULTS_SHOWN] + more)
        raise DataError(f"{table}: {len(faults)} wrong rows\n{shown}")
    if not rows:
        raise DataError(f"{table}: no image in it")
    return Index(source=source, rows=tuple(rows), skipped=dict(skipped))


def records(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and row of a CSV with a header; comma or semicolon, UTF-8 with or without BOM."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            separator = ";" if header.count(";") > header.count(",") else ","
            reader = csv.DictReader(file, delimiter=separator, restkey="", restval="")
            columns = reader.fieldnames or []
            missing = [name for name in ("path", "label") if name not in columns]
            if missing:
                raise DataError(
                    f"{table}: no column {' and no column '.join(missing)} (columns: "
                    f"{', '.join(columns) or 'none'}); expected path, label and optionally "
                    "patient, split"
                )
            for record in reader:
                yield reader.line_num, record
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: cannot be read as CSV ({error})") from error


def _row(folder: Path, record: Mapping[str, str], label_map: Mapping[str, str] | None) -> Row:
    name = record["path"].strip()
    if not name:
        raise DataError("the path is empty")
    path = folder / name
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    given = record.get("split", "").strip()
    split = SPLITS.get(given.lower())
    if split is None:
        raise DataError(f"split {given!r} is not train, validation or test")
    return Row(
        path=path,
        name=Path(name).as_posix(),
        label=resolve(record["label"], label_map),
        patient=record.get("patient", "").strip(),
        split=split,
    )
