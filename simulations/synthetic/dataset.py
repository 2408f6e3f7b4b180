"""Renders sites into a folder: JPEGs in a folder per cell type, `cells.csv`, and a record.

    <out>/RENDERED.json                              says that it is rendered, and from what
    <out>/<site>/RENDERED.json                       the same for the site
    <out>/<site>/cells.csv                           path,label,patient
    <out>/<site>/<cell_type>/<cell_type>_0001.jpg

Cell i of a site depends only on the seed, the site and i, not on the number of workers or of cells.
"""

import csv
import io
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import asdict
from pathlib import Path

from common.cell_types import CELL_TYPES
from common.errors import ConfigError, DataError
from common.files import write_text
from common.process_pool import process_pool
from simulations.synthetic.plan import (
    PlannedCell,
    SiteSpec,
    class_mix,
    draw_patient,
    generator,
    plan,
)
from simulations.synthetic.render import encode, render_cell
from simulations.synthetic.rendered_marker import RECORD, VERSION, is_rendered
from simulations.synthetic.site_style import SiteStyle

Progress = Callable[[int, int], None]
"""Called with the number of rendered cells and the number of all cells."""

_CHUNK = 40
"""Cells that a worker renders per task."""


def render_planned(site: str, style: SiteStyle, cell: PlannedCell, seed: int, side: int) -> bytes:
    """Return a planned cell of a site as the bytes of a JPEG, `side` pixels along an edge."""
    patient = draw_patient(site, cell.patient, seed)
    rng = generator(seed, site, "cell", cell.number)
    return encode(render_cell(cell.cell_type, style, patient, rng, side), style)


def synthesize(
    out: Path,
    *,
    sites: Mapping[str, SiteSpec],
    seed: int,
    side: int = 96,
    workers: int = 2,
    progress: Progress | None = None,
) -> None:
    """Render `sites` into the folder `out`, which appears whole or not at all.

    If the RENDERED.json of `out` says that it already holds the same, nothing is done.

    Args:
        out: the folder.
        sites: name -> what to render.
        seed: the same seed gives the same bytes.
        side: pixels along an image's edge.
        workers: the number of processes; 1 renders in this process.
        progress: called after each group of cells.

    Raises:
        ConfigError: a value is out of range, a cell type is unknown, or a site's name is not a
            plain folder name.
        DataError: `out` holds something else, or cannot be written.
    """
    _check(sites, side, workers)
    record = _record(sites, seed, side)
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        if _holds(out, record):
            return
        raise DataError(f"{out}: exists and holds something else; name another folder or delete it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    except OSError as error:
        raise DataError(f"{out}: cannot be made there ({error.strerror})") from error
    try:
        _render_all(temporary, sites, seed, side, workers, progress)
        write_text(temporary / RECORD, record)
        for name, spec in sites.items():  # so that a site's folder, copied elsewhere, says it too
            write_text(temporary / name / RECORD, _record({name: spec}, seed, side))
        temporary.chmod(0o755)
        temporary.replace(out)
    except OSError as error:
        if _holds(out, record):  # another process was faster
            return
        raise DataError(f"{out}: could not be written ({error.strerror}); free space?") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _holds(out: Path, record: str) -> bool:
    return is_rendered(out) and (out / RECORD).read_text(encoding="utf-8") == record


def _record(sites: Mapping[str, SiteSpec], seed: int, side: int) -> str:
    """Return the content of RENDERED.json, which suffices to render the same again."""
    record = {
        "rendered": True,
        "note": "Drawn by hemofed from descriptions of morphology; no picture of a real cell.",
        "version": VERSION,
        "seed": seed,
        "side": side,
        "sites": {
            name: {
                "cells": spec.cells,
                "mix": class_mix(name, spec, seed),
                "style": asdict(spec.style),
            }
            for name, spec in sites.items()
        },
    }
    return json.dumps(record, indent=2) + "\n"


def _check(sites: Mapping[str, SiteSpec], side: int, workers: int) -> None:
    if not sites:
        raise ConfigError("sites: expected at least one site to render")
    if not 16 <= side <= 512:
        raise ConfigError(f"side: {side} is not between 16 and 512 px")
    if workers < 1:
        raise ConfigError(f"workers: {workers} is not at least 1")
    known = {cell.name for cell in CELL_TYPES}
    for name, spec in sites.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) or name == RECORD:
            raise ConfigError(f"sites: {name!r} is not a plain name (letters, digits, . _ -)")
        if spec.cells < 1:
            raise ConfigError(f"sites.{name}.cells: {spec.cells} is not at least 1")
        if not spec.alpha > 0:
            raise ConfigError(f"sites.{name}.alpha: {spec.alpha} is not above 0")
        if spec.mix is not None:
            _check_mix(name, spec.mix, known)


def _check_mix(site: str, mix: Mapping[str, float], known: set[str]) -> None:
    for cell_type, weight in mix.items():
        if cell_type not in known:
            raise ConfigError(
                f"sites.{site}.mix: {cell_type!r} is not a cell type; known: {sorted(known)}"
            )
        if not 0 <= weight < float("inf"):
            raise ConfigError(f"sites.{site}.mix.{cell_type}: {weight} is not 0 or more and finite")
    if not sum(mix.values()) > 0:
        raise ConfigError(f"sites.{site}.mix: all weights are 0; give one cell type a weight")


def _render_all(
    folder: Path,
    sites: Mapping[str, SiteSpec],
    seed: int,
    side: int,
    workers: int,
    progress: Progress | None,
) -> None:
    tasks: list[tuple[Path, str, SiteStyle, list[PlannedCell], int, int]] = []
    for site, spec in sites.items():
        cells = plan(site, spec, seed)
        _write_index(folder / site, site, cells)
        for start in range(0, len(cells), _CHUNK):
            chunk = cells[start : start + _CHUNK]
            tasks.append((folder / site, site, spec.style, chunk, seed, side))
    total, done = sum(spec.cells for spec in sites.values()), 0
    for finished in _each(tasks, workers):
        done += finished
        if progress:
            progress(done, total)


def _each(
    tasks: list[tuple[Path, str, SiteStyle, list[PlannedCell], int, int]], workers: int
) -> Iterator[int]:
    """Run `_render_chunk` on every task, and yield each task's number of cells when it ends."""
    if workers == 1 or len(tasks) == 1:
        for task in tasks:
            yield _render_chunk(*task)
        return
    with process_pool(min(workers, len(tasks))) as pool:
        waiting = {pool.submit(_render_chunk, *task) for task in tasks}
        while waiting:
            ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in ended:
                yield future.result()


def _render_chunk(
    folder: Path, site: str, style: SiteStyle, cells: list[PlannedCell], seed: int, side: int
) -> int:
    for cell in cells:
        (folder / cell.path).write_bytes(render_planned(site, style, cell, seed, side))
    return len(cells)


def _write_index(folder: Path, site: str, cells: list[PlannedCell]) -> None:
    """Make a site's folders of cell types, and write its `cells.csv`."""
    for cell_type in sorted({cell.cell_type for cell in cells}):
        (folder / cell_type).mkdir(parents=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "label", "patient"))
    for cell in cells:
        writer.writerow((cell.path, cell.cell_type, f"{site}-{cell.patient:04d}"))
    write_text(folder / "cells.csv", text.getvalue())
