"""Which images a source has, however disordered it is: what `scan` refuses is a finding here."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.cells import SKIP, resolve
from common.data.index import IMAGE_SUFFIXES, SPLITS, TABLE, is_folder, records, visible
from common.data.quality.findings import Case, Finding, Severity
from common.errors import DataError
from common.words import count


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One image that the source names; it need not be readable."""

    path: Path
    name: str
    label: str
    """One of the 18 where `known`, else the source's own word."""
    known: bool
    patient: str = ""
    split: str = ""


@dataclass
class Listing:
    """The images of a source, and what was wrong with their names, labels and rows."""

    entries: list[Entry] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    unknown: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    """Unknown label -> why, and the names of its images."""
    misplaced: list[str] = field(default_factory=list)
    bad_rows: list[tuple[str, str]] = field(default_factory=list)

    def findings(self) -> list[Finding]:
        found = []
        if self.unknown:
            cases = [
                Case(files=tuple(names), note=reason) for reason, names in self.unknown.values()
            ]
            found.append(
                Finding(
                    severity=Severity.FAILURE,
                    code="unknown-label",
                    what=f"{count(len(cases), 'unknown label')}: {', '.join(self.unknown)}",
                    advice="Correct the names, or map them with --label-map.",
                    cases=tuple(cases),
                )
            )
        if self.misplaced:
            found.append(
                Finding(
                    severity=Severity.FAILURE,
                    code="nested-folder",
                    what=f"{count(len(self.misplaced), 'folder')} where images are expected",
                    advice="One folder a cell type, images in it. For patients give a CSV with "
                    "the columns path, label, patient.",
                    cases=tuple(Case(files=(name,)) for name in self.misplaced),
                )
            )
        if self.bad_rows:
            found.append(
                Finding(
                    severity=Severity.FAILURE,
                    code="bad-row",
                    what=f"{count(len(self.bad_rows), 'row')} of the CSV cannot be used",
                    advice="Correct the rows; paths are relative to the CSV.",
                    cases=tuple(Case(files=(n,), note=reason) for n, reason in self.bad_rows),
                )
            )
        return found


def listing(source: Path, label_map: Mapping[str, str] | None = None) -> Listing:
    """List the images of class folders or a CSV. Raises DataError: no source, or no image in it."""
    table = source if source.is_file() else source / TABLE
    result = Listing()
    if table.is_file():
        _from_table(result, table, label_map)
    elif source.is_dir():
        _from_folders(result, source, label_map)
    else:
        raise DataError(f"{source}: no such folder or CSV")
    if not result.entries:
        raise DataError(
            f"{source}: no image found; expected one folder a cell type with images in it, or a "
            f"{TABLE}{_hint(source, result.misplaced)}"
        )
    return result


def _hint(source: Path, misplaced: list[str]) -> str:
    if not misplaced:
        return ""
    folder = source / misplaced[0].partition("/")[0]
    return f". If {source} holds one folder a lab, name one lab, like {folder}"


def _from_folders(result: Listing, source: Path, label_map: Mapping[str, str] | None) -> None:
    for folder in visible(source, result.passed_over):
        if not is_folder(folder):
            result.passed_over["outside a class folder"] += 1
            continue
        for entry in visible(Path(folder.path), result.passed_over):
            name = f"{folder.name}/{entry.name}"
            if is_folder(entry):
                result.misplaced.append(name)
            elif Path(entry.name).suffix.lower() in IMAGE_SUFFIXES:
                _add(result, Path(entry.path), name, folder.name, label_map)
            else:
                result.passed_over["not an image"] += 1


def _from_table(result: Listing, table: Path, label_map: Mapping[str, str] | None) -> None:
    seen: dict[str, int] = {}
    for line, record in records(table):
        name = Path(record["path"].strip()).as_posix()
        where = f"line {line}: {name}"
        split = SPLITS.get(record.get("split", "").strip().lower())
        if not record["path"].strip() or not (table.parent / name).is_file():
            result.bad_rows.append((where, "no such file"))
        elif name in seen:
            result.bad_rows.append((where, f"the same file is on line {seen[name]}"))
        elif split is None:
            given = record["split"].strip()
            result.bad_rows.append((where, f"split {given!r} is not train, validation or test"))
        else:
            seen[name] = line
            patient = record.get("patient", "").strip()
            _add(result, table.parent / name, name, record["label"], label_map, patient, split)


def _add(
    result: Listing,
    path: Path,
    name: str,
    given: str,
    label_map: Mapping[str, str] | None,
    patient: str = "",
    split: str = "",
) -> None:
    try:
        label, known = resolve(given, label_map), True
    except DataError as error:
        label, known = given, False
        result.unknown.setdefault(given, (str(error), []))[1].append(name)
    if label == SKIP:
        result.passed_over["left out by label_map"] += 1
        return
    result.entries.append(
        Entry(path=path, name=name, label=label, known=known, patient=patient, split=split)
    )
