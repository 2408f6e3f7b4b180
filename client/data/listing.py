"""Which images a source has, however disordered it is: class folders, or a table of cells."""

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
"""What a split is called, in lower case -> its name here; "": none is given."""

LEFT_OUT = "left out by --leave-out"
LEFT_OUT_BY_MAP = "left out by label_map"
_NAMED = 5
"""Names in one remark."""
_TABLES = frozenset({".csv", ".tsv", ".xls", ".xlsx", ".ods"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedImage:
    """One image that the source names; it need not be readable."""

    folder: Path
    """The source's folder, from which the name starts."""
    name: str
    """The path as the source has it, with forward slashes."""
    label: str
    """One of the 18 where `known`, else the source's own word."""
    known: bool = True
    patient: str = ""
    """"": not known."""
    split: str = ""
    """"", "train", "validation" or "test"; "": not given."""

    @property
    def path(self) -> Path:
        return self.folder / self.name


@dataclass
class Listing:
    """The images of a source in a fixed order, what was passed over, and what is wrong."""

    source: Path
    entries: list[ListedImage] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    """Reason -> files that are not images, or were left out on purpose."""
    unknown: dict[str, list[str]] = field(default_factory=dict)
    """Name that is no cell type -> its images."""
    nested: list[str] = field(default_factory=list)
    """Folders where images are expected."""
    misnamed: list[str] = field(default_factory=list)
    """Pictures that are called otherwise than one."""
    unlisted: list[str] = field(default_factory=list)
    """Pictures below the table's folder, or beside those of the table, that no row names."""
    refused: list[str] = field(default_factory=list)
    """Pictures that are called as a form that is never read."""
    missing: list[tuple[int, str]] = field(default_factory=list)
    """Line and path of the table's rows whose file is not there."""
    bad_rows: list[tuple[int, str, str]] = field(default_factory=list)
    """Line and path of other rows that cannot be used, and why."""
    remarks: list[str] = field(default_factory=list)
    """What of the source was not used, in words."""

    @property
    def table(self) -> Path | None:
        """The table that it was read through; None: class folders."""
        return _table(self.source)

    @property
    def folder(self) -> Path:
        """Where the images' names start."""
        return self.table.parent if self.table else self.source


def listing(
    source: Path,
    label_map: Mapping[str, str] | None = None,
    leave_out: Collection[str] = (),
) -> Listing:
    """List the images of class folders or a table. Only names are looked at; no image is opened.

    leave_out: names of images that are passed over. Raises DataError: no such source, a cache in
    its place, a folder or table that cannot be read, a label map that `check_label_map` refuses,
    no image at all.
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
    named: set[str] = field(default_factory=set)
    """The files of a table's rows, whether the rows can be used or not."""

    def say_what_is_unused(self) -> None:
        """Names of the label map and of what is to be left out, that nothing here is called."""
        for what, names in (
            ("label_map: no image is called", unused(self.label_map, self.labels)),
            ("--leave-out: no image here is", sorted(self.leave_out - self.left_out)),
        ):
            if names:
                more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
                self.into.remarks.append(f"{what} {', '.join(names[:_NAMED])}{more}")

    def folders(self) -> None:
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
        """A table that its person takes to be read would be passed over without a word."""
        if Path(name).suffix.lower() in _TABLES:
            self.into.remarks.append(
                f"{name} is not read: a table is called {TABLE}, or is named in the folder's place"
            )

    def rows(self, table: Path) -> None:
        content = read_table(table)
        if content.unused:
            self.into.remarks.append(f"columns that are not used: {', '.join(content.unused)}")
        seen: dict[str, int] = {}
        for record in content.records:
            self._row(table.parent, record, seen)
        self._remark_unlisted(table.parent)

    def _remark_unlisted(self, folder: Path) -> None:
        """Pictures that no row names may be new ones, or a type that was forgotten.

        Without their names, in which patients' may be: what is remarked may go into a report.
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
    """The path as it leads to the file: tables put blanks around it, Windows backslashes in it."""
    bare = given.strip()
    plain = bare.replace("\\", "/")
    # A disk of macOS has the letters of a name apart from their accents.
    names = (given, bare, plain, *(unicodedata.normalize(form, plain) for form in ("NFC", "NFD")))
    name = next((name for name in names if os.path.isfile(folder / name)), plain)
    return Path(name).as_posix() if bare else ""


def _fault(record: Record, before: int | None) -> str:
    """What is wrong with a row; `before`: the line that names the same file already."""
    if not record.path.strip():
        return "the path is empty"
    if before:
        return f"the same file is on line {before} already"
    if record.split.lower() not in SPLITS:
        return f"split {record.split!r} is not train, validation or test"
    return ""


def not_read(found: Listing) -> str:
    """What to do with pictures in forms that are never read; "" where there are none."""
    if not found.refused:
        return ""
    kinds = Counter(map(refused, found.refused)).most_common()
    said = ", ".join(f"{number:,} {kind}" for kind, number in kinds)
    return (
        f"{count(len(found.refused), 'picture')} in forms that are not read: {said}; the first is "
        f"{found.refused[0]}. Take them out, or {EXPORT}"
    )


def lost(found: Listing) -> str:
    """What is to be asked where most of a table's files are not there; "" where they are."""
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
    """What to do with a tree that is deeper than one folder a cell type."""
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
