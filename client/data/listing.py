"""The images of a source, even a disordered one: class folders, or a table of cells."""

import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from client.data.decoding.formats import EXPORT, IMAGE_SUFFIXES, MISNAMED, refused, why_no_picture
from client.data.patient_names import is_patient
from client.data.source_files import TABLE, is_folder, visible
from client.data.table import Record, read_table
from common.cell_types import SKIP, check_label_map, known_as, unused
from common.errors import DataError
from common.text import count

SPLITS = {
    "": "",
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
"""A source's word for a split, in lower case -> the split's name here; "": no split is given."""

LEFT_OUT = "left out by --leave-out"
LEFT_OUT_BY_MAP = "left out by label_map"
_NAMED = 5
"""Most names in one remark."""
_TABLES = frozenset({".csv", ".tsv", ".xls", ".xlsx", ".ods"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedImage:
    """One image that the source names, readable or not."""

    folder: Path
    """The source's folder, from which the name starts."""
    name: str
    """The path as the source has it, with forward slashes."""
    label: str
    """A cell type of `CELL_TYPES` if `known`, else the source's own word."""
    known: bool = True
    """Whether the source's word means a cell type."""
    patient: str = ""
    """The patient's name; "": not known."""
    split: str = ""
    """"train", "validation" or "test"; "": not given."""

    @property
    def path(self) -> Path:
        """The image's file."""
        return self.folder / self.name


@dataclass
class Listing:
    """The images of a source in a fixed order, what it passes over, and what is wrong with it."""

    source: Path
    entries: list[ListedImage] = field(default_factory=list)
    """The images, also those of unknown labels."""
    passed_over: Counter[str] = field(default_factory=Counter)
    """Reason -> number of files that are not images, or are left out on purpose."""
    unknown: dict[str, list[str]] = field(default_factory=dict)
    """Word that means no cell type -> names of its images."""
    nested: list[str] = field(default_factory=list)
    """Names of folders in places where images are expected."""
    misnamed: list[str] = field(default_factory=list)
    """Names of pictures that have no picture's suffix."""
    unlisted: list[str] = field(default_factory=list)
    """Pictures below the table's folder, or beside those of the table, that no row names."""
    refused: list[str] = field(default_factory=list)
    """Names of pictures whose suffix stands for a form that is never read."""
    missing: list[tuple[int, str]] = field(default_factory=list)
    """Line and path of each row of the table whose file does not exist."""
    bad_rows: list[tuple[int, str, str]] = field(default_factory=list)
    """Line, path and fault of each other row that cannot be used."""
    remarks: list[str] = field(default_factory=list)
    """What the listing did not use, and similar remarks, a sentence each."""

    @property
    def table(self) -> Path | None:
        """The table that names the images; None: the source is class folders.

        Raises DataError when the source is a file but no .csv, or its table is no file.
        """
        return _table(self.source)

    @property
    def folder(self) -> Path:
        """The folder where the images' names start."""
        return self.table.parent if self.table else self.source


def listing(
    source: Path,
    label_map: Mapping[str, str] | None = None,
    leave_out: Collection[str] = (),
) -> Listing:
    """List the images of class folders or a table.

    The function decodes no image. It reads only names, and the first bytes of files that lack a
    picture's suffix.

    Args:
        source: a folder of class folders, a folder with a table `cells.csv`, or a .csv file.
        label_map: the lab's word -> cell type.
        leave_out: names of images to pass over.

    Raises:
        DataError: the source is missing, is an indexed cache, cannot be read or has no image; or
            `check_label_map` refuses the label map.
    """
    check_label_map(label_map or {})
    result = Listing(source)
    reader = _Reader(result, label_map or {}, frozenset(leave_out))
    if result.table:
        reader.rows(result.table)
    elif not source.is_dir():
        raise DataError(f"{source}: no such folder or CSV")
    elif (source / "images.npy").is_file():
        raise DataError(f"{source}: is an indexed cache; name the folder that it was made from")
    else:
        reader.folders()
    reader.say_what_is_unused()
    if not result.entries:
        refusal = not_read(result)
        raise DataError(f"{source}: {refusal}" if refusal else _nothing(result))
    return result


def _table(source: Path) -> Path | None:
    if source.is_file():
        if source.suffix.lower() != ".csv":
            raise DataError(f"{source}: expected a folder of class folders, or a .csv file")
        return source
    table = source / TABLE
    if table.exists() and not table.is_file():
        raise DataError(f"{table}: is no file; make the table one, or take it out")
    return table if table.exists() else None


@dataclass(frozen=True)
class _Reader:
    """Fills a listing."""

    into: Listing
    label_map: Mapping[str, str]
    leave_out: frozenset[str]
    labels: set[str] = field(default_factory=set)
    """The labels as the source spells them."""
    left_out: set[str] = field(default_factory=set)
    """The names in `leave_out` that the source has."""
    named: set[str] = field(default_factory=set)
    """The files of all rows of a table, usable or not."""

    def say_what_is_unused(self) -> None:
        """Remark on names in the label map and in `leave_out` that the source does not have."""
        for what, names in (
            ("label_map: no image is called", unused(self.label_map, self.labels)),
            ("--leave-out: no image here is", sorted(self.leave_out - self.left_out)),
        ):
            if names:
                more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
                self.into.remarks.append(f"{what} {', '.join(names[:_NAMED])}{more}")

    def folders(self) -> None:
        """List the images of class folders."""
        source, passed_over = self.into.source, self.into.passed_over
        for folder in visible(source, passed_over):
            if not is_folder(folder):
                passed_over["outside a class folder"] += 1
                self._remark_table(folder.name)
                continue
            inside = list(visible(Path(folder.path), passed_over))
            for entry in inside:
                name = f"{folder.name}/{entry.name}"
                if is_folder(entry):
                    self.into.nested.append(name)
                elif not refused(name) and (why := why_no_picture(entry.path)):
                    passed_over[why] += 1
                    if why == MISNAMED:
                        self.into.misnamed.append(name)
                else:
                    self._add(source, name, folder.name)
            if not inside:
                passed_over["empty folder"] += 1

    def _remark_table(self, name: str) -> None:
        """Remark on a table that is not read, as its owner may believe that it is."""
        if Path(name).suffix.lower() in _TABLES:
            self.into.remarks.append(
                f"{name} is not read: a table is called {TABLE}, or is named in the folder's place"
            )

    def rows(self, table: Path) -> None:
        """List the images of a table."""
        content = read_table(table)
        if content.unused:
            self.into.remarks.append(f"columns that are not used: {', '.join(content.unused)}")
        seen: dict[str, int] = {}
        for record in content.records:
            self._row(table.parent, record, seen)
        self._remark_unlisted(table.parent)

    def _remark_unlisted(self, folder: Path) -> None:
        """Remark on pictures that no row names: new ones, perhaps, or a forgotten cell type.

        The remark leaves out their names, which may hold patients' names: it may go into a report.
        """
        beside = {os.path.dirname(file) or "." for file in self.named}
        below = os.walk(folder) if self.into.source.is_dir() else ()
        folders = sorted(beside.union(os.path.normpath(inner) for inner, _, _ in below))
        self.into.unlisted = [
            os.path.relpath(file, folder)
            for inner in folders
            if os.path.isdir(inner)
            for file in _pictures(inner)
            if file not in self.named
        ]
        if self.into.unlisted:
            said = count(len(self.into.unlisted), "picture is", "pictures are")
            self.into.remarks.append(
                f"{said} named by no row of the table: `hemofed data check "
                f"{quote(str(self.into.source))}` lists them"
            )

    def _row(self, folder: Path, record: Record, seen: dict[str, int]) -> None:
        name = _found(folder, record.path)
        file = os.path.normpath(folder / name)
        self.named.add(file)
        if fault := record.fault or _fault(record, seen.get(file)):
            self.into.bad_rows.append((record.line, name, fault))
        elif os.path.exists(file) and not os.path.isfile(file):
            self.into.bad_rows.append((record.line, name, "is no file"))
        elif not os.path.isfile(file):
            self.into.missing.append((record.line, name))
        else:
            seen[file] = record.line
            split = SPLITS[record.split.lower()]
            self._add(folder, name, record.label, record.patient, split)

    def _add(self, folder: Path, name: str, given: str, patient: str = "", split: str = "") -> None:
        label = known_as(given, self.label_map)
        self.labels.add(given)
        if name in self.leave_out:
            self.left_out.add(name)
            self.into.passed_over[LEFT_OUT] += 1
            return
        if label == SKIP:
            self.into.passed_over[LEFT_OUT_BY_MAP] += 1
            return
        if refused(name):
            self.into.refused.append(name)
            return
        if label is None:
            self.into.unknown.setdefault(given, []).append(name)
        self.into.entries.append(
            ListedImage(
                folder=folder,
                name=name,
                label=label or given,
                known=label is not None,
                patient=patient,
                split=split,
            )
        )


def _pictures(folder: str) -> Iterator[str]:
    for entry in visible(Path(folder), Counter()):
        if Path(entry.name).suffix.lower() in IMAGE_SUFFIXES and entry.is_file():
            yield os.path.normpath(entry.path)


def _found(folder: Path, given: str) -> str:
    """The path that leads to the file: tables put blanks around it, and Windows backslashes in."""
    bare = given.strip()
    plain = bare.replace("\\", "/")
    # A disk of macOS may store the letters of a name apart from their accents.
    names = (given, bare, plain, *(unicodedata.normalize(form, plain) for form in ("NFC", "NFD")))
    name = next((name for name in names if os.path.isfile(folder / name)), plain)
    return Path(name).as_posix() if bare else ""


def _fault(record: Record, before: int | None) -> str:
    """What is wrong with a row; "" if nothing is. before: an earlier line with the same file."""
    if not record.path.strip():
        return "the path is empty"
    if before:
        return f"the same file is on line {before} already"
    if record.split.lower() not in SPLITS:
        return f"split {record.split!r} is not train, validation or test"
    return ""


def not_read(found: Listing) -> str:
    """Say what to do with pictures in forms that are never read; "" if there are none."""
    if not found.refused:
        return ""
    kinds = Counter(map(refused, found.refused)).most_common()
    said = ", ".join(f"{number:,} {kind}" for kind, number in kinds)
    return (
        f"{count(len(found.refused), 'picture')} in forms that are not read: {said}; the first is "
        f"{found.refused[0]}. Take them out, or {EXPORT}"
    )


def lost(found: Listing) -> str:
    """Say that most of a table's files are missing, and ask for the folder; "" otherwise."""
    rows = len(found.entries) + len(found.bad_rows) + found.passed_over.total()
    missing = len(found.missing)
    if missing <= rows or found.table is None:
        return ""
    line, name = found.missing[0]
    return (
        f"{missing:,} of {missing + rows:,} files are not there, the first {name} on line {line}; "
        f"paths are relative to {found.folder}: is the folder right?"
    )


def nested_tree(found: Listing) -> str:
    """Say what to do with a tree that is deeper than one folder for each cell type.

    `found.nested` must not be empty.
    """
    source, inner = found.source, found.nested[0]
    top = list(dict.fromkeys(name.partition("/")[0] for name in found.nested))
    said = (
        f"{source / inner}: is a folder where images are expected. For a deeper tree write a table "
        f"of its images with `hemofed data index {quote(str(source))} --print-csv >"
        f" {quote(str(source / TABLE))}`, look it over, and index {source} again"
    )
    if splits := [name for name in top if name.lower() in SPLITS]:
        return f"{said}. {', '.join(splits)}: the table takes them as splits"
    if any(is_patient(name) for name in top):
        return f"{said}. {top[0]}: the table takes such folders as patients"
    return f"{said}. If {source} holds one folder a lab, name one lab, like {source / top[0]}"


def _nothing(found: Listing) -> str:
    source = found.source
    if found.nested:
        return nested_tree(found)
    if said := lost(found):
        return f"{found.table}: {said}"
    if found.bad_rows:
        line, name, fault = found.bad_rows[0]
        said = f"{name}: {fault}" if name else fault
        return f"{found.table}: no row of it can be used; line {line}: {said}"
    if left_out := sum(found.passed_over[reason] for reason in (LEFT_OUT, LEFT_OUT_BY_MAP)):
        return f"{source}: {count(left_out, 'image is', 'images are')} left out, and no other there"
    passed = ", ".join(f"{number} {reason}" for reason, number in found.passed_over.items())
    if found.table:
        return f"{found.table}: no image in it"
    kinds = " ".join(sorted(IMAGE_SUFFIXES))
    return (
        f"{source}: no image found ({passed or 'it is empty'}). Expected one folder a cell type "
        f"with images ({kinds}) in it, or a {TABLE}"
    )
