"""Images that are left out of an index: those that a check names, and those that cannot be read."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from common.data.decode import quiet, read_rgb
from common.data.images import Progress
from common.data.index import Index
from common.data.listing import Entry
from common.data.scale import ScaleError, refuse_implausible
from common.errors import ConfigError, DataError


def read_leave_out(path: Path) -> frozenset[str]:
    """The names of images that a check's JSON says to leave out: `leave_out` of its findings.

    Raises ConfigError: it cannot be read, or is no such JSON.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON ({error})") from error
    findings = content.get("findings") if isinstance(content, dict) else None
    lists = [_names(finding) for finding in findings] if isinstance(findings, list) else [None]
    if None in lists:
        raise ConfigError(
            f"{path}: has no findings that each say what to leave out; make it with `hemofed data "
            "check SOURCE --json FILE`"
        )
    return frozenset(name for names in lists if names for name in names)


def _names(finding: object) -> list[str] | None:
    """A finding's list; None where it has none."""
    names = finding.get("leave_out") if isinstance(finding, dict) else None
    whole = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if whole else None


def without_unreadable(
    index: Index, progress: Progress | None = None, um_per_px: float | None = None
) -> tuple[Index, tuple[str, ...]]:
    """The index without the images that cannot be read, which it counts, and why each cannot.

    Reads every image once. Raises DataError: none is left, or the scale `um_per_px` (None: not
    known) cannot be right.
    """
    faults: list[str] = []
    rows: list[Entry] = []
    with quiet(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(partial(_fault, um_per_px=um_per_px), index.rows)
        for row, fault in zip(index.rows, found, strict=True):
            if fault:
                faults.append(fault)
            else:
                rows.append(row)
            if progress:
                progress(len(rows) + len(faults), len(index.rows))
    if not rows:
        raise DataError(f"{index.source}: no image can be read; the first: {faults[0]}")
    skipped = {**index.skipped, "unreadable": len(faults)} if faults else index.skipped
    return replace(index, rows=tuple(rows), skipped=skipped), tuple(faults)


def _fault(row: Entry, um_per_px: float | None) -> str:
    try:
        read_rgb(row.path, look=partial(refuse_implausible, um_per_px=um_per_px))
    except ScaleError:
        raise
    except DataError as error:
        return str(error)
    return ""
