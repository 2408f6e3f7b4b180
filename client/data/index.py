"""Where a lab's images are and what they show: class folders or a CSV -> an index."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from client.data.decoding.formats import refused
from client.data.listing import LEFT_OUT, ListedImage, Listing, listing, lost, nested_tree, not_read
from client.data.patient_names import ALIKE, alike
from common.cell_types import CODES, SKIP, may_mean
from common.errors import DataError
from common.text import count

_FAULTS_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Index:
    """The images of one source, in a fixed order, and what was passed over."""

    source: Path
    rows: tuple[ListedImage, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)
    """Reason -> number of files that were passed over."""
    remarks: tuple[str, ...] = ()
    """Sentences on what a person should know of the source."""

    def counts(self) -> dict[str, int]:
        """Cell type -> number of images, in the order of `CELL_TYPES`, none left out with 0."""
        found = Counter(row.label for row in self.rows)
        return {name: found[name] for name in CODES if found[name]}


def scan(
    source: Path,
    label_map: Mapping[str, str] | None = None,
    leave_out: Collection[str] = (),
    skip_unread: bool = False,
) -> Index:
    """Index a folder of class folders (MLL23's layout), or a CSV (`client.data.table`).

    The CSV has the columns path and label, and optionally patient and split; paths are relative to
    it. leave_out: names of images to pass over. skip_unread: pass over, and count, pictures whose
    names tell that their form is never read. This looks at names alone and opens no image.
    Raises DataError that names everything wrong: a missing source, no image, unknown labels with
    the number of their images, a deeper tree, wrong rows, and forms that are never read.
    """
    found = listing(source, label_map, leave_out)
    if leave_out and not found.passed_over[LEFT_OUT]:
        raise DataError(
            f"{source}: has none of the {count(len(leave_out), 'image')} to leave out, like "
            f"{min(leave_out)}; was another source checked? If they are gone, leave the list out"
        )
    if found.nested:
        raise DataError(nested_tree(found))
    faults = [*_wrong_rows(found), *_unknown(found)]
    if not skip_unread and found.refused:
        faults.append(f"{found.source}: {not_read(found)}")
    if faults:
        raise DataError("\n".join(faults))
    found.passed_over.update(f"{refused(name)}, which is not read" for name in found.refused)
    return Index(
        source=source,
        rows=tuple(found.entries),
        skipped=dict(found.passed_over),
        remarks=(*found.remarks, *_alike(found), *_in_two_splits(found)),
    )


def _wrong_rows(found: Listing) -> Iterator[str]:
    if said := lost(found):
        yield f"{found.table}: {said}"
        return
    missing = [(line, f"{found.folder / name}: no such file") for line, name in found.missing]
    others = [(line, f"{name}: {fault}" if name else fault) for line, name, fault in found.bad_rows]
    lines = [f"  line {line}: {fault}" for line, fault in sorted(missing + others)]
    if lines:
        yield f"{found.table}: {count(len(lines), 'wrong row')}"
        yield from _few(lines)


def _unknown(found: Listing) -> Iterator[str]:
    names = sorted(found.unknown.items(), key=lambda item: -len(item[1]))
    if names:
        yield f"{found.source}: {count(len(names), 'name')} that no cell type is known by"
        yield from _few([_unknown_name(name, len(images)) for name, images in names])
        if len(names) > _FAULTS_SHOWN:
            yield f"`hemofed data check {quote(str(found.source))}` lists all of them"
        yield (
            f"Map a site's own names in label_map, to {SKIP!r} to leave their images out, or to "
            f"one of: {', '.join(CODES)}"
        )


def _unknown_name(name: str, images: int) -> str:
    near = may_mean(name)
    said = f": perhaps {' or '.join(near)}" if near else ""
    return f"  {name!r} ({count(images, 'image')}){said}"


def _few(lines: list[str]) -> Iterator[str]:
    yield from lines[:_FAULTS_SHOWN]
    if len(lines) > _FAULTS_SHOWN:
        yield f"  and {len(lines) - _FAULTS_SHOWN:,} more"


def _in_two_splits(found: Listing) -> Iterator[str]:
    """Say how many lie in two splits, without their names."""
    pairs = {(entry.patient, entry.split) for entry in found.entries if entry.patient}
    patients = Counter(patient for patient, _ in pairs)
    if number := sum(splits > 1 for splits in patients.values()):
        yield (
            f"{count(number, 'patient has', 'patients have')} images in more than one split: "
            f"`hemofed data check {quote(str(found.source))}` lists them"
        )


def _alike(found: Listing) -> Iterator[str]:
    """Say how many look alike, without their names: an index's words may go into a report."""
    if groups := alike(entry.patient for entry in found.entries):
        yield (
            f"{count(len(groups), 'patient')} under two names perhaps, which differ "
            f"{ALIKE} alone: `hemofed data check {quote(str(found.source))}` lists them"
        )
