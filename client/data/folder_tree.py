"""Makes a table of the images in a deep tree, which a person checks and `data index` reads."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from client.data.decoding.formats import refused, why_no_picture
from client.data.listing import SPLITS
from client.data.patient_names import is_patient
from client.data.source_files import TABLE, is_folder, visible
from common.cell_types import known_as
from common.errors import DataError
from common.text import count

_SHOWN = 5


@dataclass
class Tree:
    """The rows of a tree's table, and how the names of folders were used."""

    rows: list[tuple[str, str, str, str]] = field(default_factory=list)
    """Path below the tree's root, label, patient ("": not known), split ("": not given)."""
    used: dict[str, Counter[str]] = field(
        default_factory=lambda: {"label": Counter(), "patient": Counter(), "split": Counter()}
    )
    """Column -> name of a folder -> number of images."""
    unused: Counter[str] = field(default_factory=Counter)
    """Name of a folder that no column uses -> number of images."""
    passed_over: Counter[str] = field(default_factory=Counter)
    """Reason -> number of files that are not in the table."""


def read_tree(source: Path, label_map: Mapping[str, str] | None = None) -> Tree:
    """Read all images below `source`, with what the names of their folders say.

    The label of an image is the name of the nearest folder around it that names a cell type, or of
    the nearest folder if none does. Folders below it that may name a kind of the type are part of
    the label, as in lymphocyte/atypical; a person maps such labels. Among the other folders, the
    nearest one with a name like a patient's (Patient_07, case 12) is the patient, and the nearest
    one with a split's name (train, val, test) is the split. No image is decoded.

    Raises:
        DataError: `source` is no folder or has no image in a folder, a folder cannot be read, or a
            link leads back to a folder around it.
    """
    if not source.is_dir():
        raise DataError(f"{source}: is not a folder; a table is written of the images in one")
    tree = Tree()
    for name in _images(source, PurePosixPath(), tree.passed_over):
        if len(name.parts) == 1:
            tree.passed_over["outside a folder"] += 1
        else:
            _add(tree, name, label_map)
    if not tree.rows:
        raise DataError(f"{source}: no image in a folder below it")
    return tree


def _images(root: Path, below: PurePosixPath, skipped: Counter[str]) -> Iterator[PurePosixPath]:
    for entry in visible(root / below, skipped):
        if is_folder(entry):
            _refuse_circle(entry)
            yield from _images(root, below / entry.name, skipped)
        elif entry.name == TABLE:
            continue
        elif not refused(entry.name) and (why := why_no_picture(entry.path)):
            skipped[why] += 1
        else:
            yield below / entry.name


def _refuse_circle(folder: "os.DirEntry[str]") -> None:
    if folder.is_symlink() and Path(folder.path).resolve() in Path(folder.path).absolute().parents:
        raise DataError(f"{folder.path}: is a link to a folder that it lies in; remove it")


def _add(tree: Tree, name: PurePosixPath, label_map: Mapping[str, str] | None) -> None:
    folders = list(name.parts[-2::-1])
    kind = next((part for part in folders if known_as(part, label_map)), folders[0])
    below = _words(folders[: folders.index(kind)])
    others = [part for part in folders if part != kind]
    patient = next(filter(is_patient, others), "")
    split = next((part for part in others if part.lower() in SPLITS), "")
    label = "/".join([kind, *reversed(below)])
    tree.rows.append((name.as_posix(), label, patient, SPLITS[split.lower()]))
    for column, part in (("label", label), ("patient", patient), ("split", split)):
        if part:
            tree.used[column][part] += 1
    tree.unused.update(part for part in others if part not in (patient, split, *below))


def _words(below_a_type: list[str]) -> list[str]:
    """The folders below a cell type's that may name a kind of it, as in lymphocyte/atypical.

    A folder with a digit in its name is a slide, a date or a patient, and does not count.

    >>> _words(["atypical", "slide 3", "train"])
    ['atypical']
    """
    return [
        part
        for part in below_a_type
        if not (is_patient(part) or part.lower() in SPLITS or any(map(str.isdigit, part)))
    ]


def summary(tree: Tree, label_map: Mapping[str, str] | None = None) -> Iterator[str]:
    """Say how the table came about, a line at a time, for the person who checks it."""
    yield f"{count(len(tree.rows), 'image')}; no pixel was looked at"
    unknown = [name for name in tree.used["label"] if not known_as(name, label_map)]
    yield f"label: {_named(tree.used['label'])}"
    if unknown:
        yield f"label: no cell type is known by {_few(unknown)}; map or correct them"
    yield (
        f"patient: {_named(tree.used['patient'])}; one name counts as one patient wherever it is"
        if tree.used["patient"]
        else "patient: no folder is called as a patient's (Patient_07, case 12); fill in the "
        "column where patients are known"
    )
    yield f"split: {_named(tree.used['split']) if tree.used['split'] else 'none is given'}"
    if tree.unused:
        yield f"in no column: {_named(tree.unused)}"
    for reason, number in tree.passed_over.items():
        yield f"passed over: {number:,} {reason}"


def _named(found: Counter[str]) -> str:
    return _few([f"{name} ({number:,})" for name, number in found.most_common()])


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
