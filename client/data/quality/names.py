"""Findings on a source's names, labels and rows; no image is decoded for them."""

from collections.abc import Iterator

from client.data.decoding.formats import refused
from client.data.listing import Listing, lost, nested_tree, not_read
from client.data.quality.findings import Finding, Instance, Severity
from common.cell_types import may_mean
from common.text import count


def findings(found: Listing) -> list[Finding]:
    """Find unknown labels, unsupported forms, folders in place of images, unusable rows of a table,
    and pictures that the listing passes over."""
    return [
        *_unknown(found),
        *_refused(found),
        *_nested(found),
        *_rows(found),
        *_passed_over(found),
    ]


def _unknown(found: Listing) -> list[Finding]:
    if not found.unknown:
        return []
    names = sorted(found.unknown.items(), key=lambda item: -len(item[1]))
    said = ", ".join(f"{name!r} ({count(len(of), 'image')})" for name, of in names)
    return [
        Finding(
            severity=Severity.FAILURE,
            code="unknown-label",
            what=f"{count(len(names), 'name')} that no cell type is known by: {said}",
            advice="Correct the names, or map them with --label-map.",
            cases=tuple(Instance(files=tuple(of), note=_note(name)) for name, of in names),
        )
    ]


def _note(name: str) -> str:
    near = may_mean(name)
    return f"{name!r}: perhaps {' or '.join(near)}" if near else repr(name)


def _refused(found: Listing) -> list[Finding]:
    if not found.refused:
        return []
    return [
        Finding(
            severity=Severity.FAILURE,
            code="form",
            what=not_read(found),
            advice="docs/pictures.md says which forms are read.",
            cases=tuple(Instance(files=(name,), note=str(refused(name))) for name in found.refused),
            leave_out=tuple(found.refused),
        )
    ]


def _nested(found: Listing) -> list[Finding]:
    if not found.nested:
        return []
    return [
        Finding(
            severity=Severity.FAILURE,
            code="nested-folder",
            what=f"{count(len(found.nested), 'folder')} where images are expected",
            advice=f"One folder a cell type, images in it. {nested_tree(found)}.",
            cases=tuple(Instance(files=(name,)) for name in found.nested),
        )
    ]


def _passed_over(found: Listing) -> Iterator[Finding]:
    for code, names, what, advice in (
        (
            "misnamed",
            found.misnamed,
            "by their first bytes and not by their names, which are passed over",
            "Rename those that are cells, and take out backups and thumbnails.",
        ),
        (
            "unlisted",
            found.unlisted,
            "that no row of the table names",
            "Add them to the table, or move them elsewhere.",
        ),
    ):
        if names:
            yield Finding(
                severity=Severity.WARNING,
                code=code,
                what=f"{count(len(names), 'picture')} {what}",
                advice=advice,
                cases=tuple(Instance(files=(name,)) for name in names),
            )


def _rows(found: Listing) -> list[Finding]:
    missing = [(line, name, "no such file") for line, name in found.missing]
    rows = sorted(missing + found.bad_rows)
    if not rows:
        return []
    said = lost(found)
    return [
        Finding(
            severity=Severity.FAILURE,
            code="bad-row",
            what=f"{count(len(rows), 'row')} of the CSV cannot be used"
            + (f": {said}" if said else ""),
            advice="Correct the rows; paths are relative to the CSV.",
            cases=tuple(
                Instance(files=(f"line {line}: {name}",), note=reason)
                for line, name, reason in rows
            ),
        )
    ]
