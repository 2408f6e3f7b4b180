"""Images to leave out of an index: those that a check names, and those that cannot be read."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from client.data.decoding.array import Progress
from client.data.decoding.image import quiet, read_rgb
from client.data.index import Index
from client.data.listing import ListedImage
from client.data.scale import ScaleError, refuse_implausible
from common.errors import ConfigError, DataError

_ALL_WRONG = 100
"""Reading stops when the scale is impossible for this many pictures and fits none before them."""


@dataclass(frozen=True, kw_only=True)
class LeaveOut:
    """The images that a check's JSON says to leave out."""

    names: frozenset[str] = frozenset()
    """Paths of the images, relative to the source's folder."""
    source: str = ""
    """The resolved path of the source that was checked; "" if the JSON does not name it."""


def read_leave_out(path: Path) -> LeaveOut:
    """The `leave_out` lists of all findings in a check's JSON.

    Raises ConfigError when the file cannot be read, or is not such JSON.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON ({error})") from error
    findings = content.get("findings") if isinstance(content, dict) else None
    lists = [_names(finding) for finding in findings] if isinstance(findings, list) else [None]
    if None in lists:
        raise ConfigError(
            f"{path}: has no findings that each say what to leave out; make it with `hemofed data "
            "check SOURCE --json FILE`"
        )
    return LeaveOut(
        names=frozenset(name for names in lists if names for name in names),
        source=str(content.get("source") or ""),
    )


def of_another(left_out: LeaveOut, source: Path) -> str:
    """A warning where the list was made from another source than `source`; else ""."""
    try:
        same = not left_out.source or _folder(Path(left_out.source)) == _folder(source)
    except (OSError, ValueError):  # no path at all
        same = False
    if same:
        return ""
    return (
        f"--leave-out: was made of {left_out.source}, and this is {source.resolve()}: names that "
        "are alike in both need not be the same image"
    )


def _folder(source: Path) -> Path:
    """The folder that a source's names are relative to."""
    return (source if source.is_dir() else source.parent).resolve()


def _names(finding: object) -> list[str] | None:
    """A finding's list; None where it has none."""
    names = finding.get("leave_out") if isinstance(finding, dict) else None
    whole = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if whole else None


def without_unreadable(
    index: Index, progress: Progress | None = None, um_per_px: float | None = None
) -> tuple[Index, tuple[str, ...]]:
    """The index without the images that cannot be read, and the reason for each of those.

    The new index counts them. Reads every image once. Raises DataError when no image is left, or
    when the scale `um_per_px` (None: not known) is impossible for more images than it is possible
    for: then the scale is wrong, not a picture.
    """
    faults: list[str] = []
    rows: list[ListedImage] = []
    off_scale: list[ScaleError] = []
    with quiet(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(partial(_fault, um_per_px=um_per_px), index.rows)
        for row, fault in zip(index.rows, found, strict=True):
            if fault is None:
                rows.append(row)
            else:
                faults.append(str(fault))
                off_scale += [fault] if isinstance(fault, ScaleError) else []
                if len(off_scale) == _ALL_WRONG and not rows:
                    break
            if progress:
                progress(len(rows) + len(faults), len(index.rows))
    if len(off_scale) > len(rows):
        raise off_scale[0]
    if not rows:
        raise DataError(f"{index.source}: no image can be read; the first: {faults[0]}")
    skipped = {**index.skipped, "unreadable": len(faults)} if faults else index.skipped
    return replace(index, rows=tuple(rows), skipped=skipped), tuple(faults)


def _fault(row: ListedImage, um_per_px: float | None) -> DataError | None:
    try:
        read_rgb(row.path, look=partial(refuse_implausible, um_per_px=um_per_px))
    except DataError as error:
        return error
    return None
