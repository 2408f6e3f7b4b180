"""A site's cells as a study sees them: of the study's types, in splits, numbered by patient."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.data.cache import CellCache
from client.data.splits import SPLITS, assign, assign_alone
from common.cell_types import CELL_TYPES
from common.config.study import CellSource, Site, Study
from common.errors import DataError
from common.text import typed
from common.wire.reasons import Reason

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SiteCells:
    """A site's cells of the study's types, N of them, over all its caches."""

    parts: tuple[CellCache, ...]
    """The cells of each cache, in the order of the positions."""
    labels: Rows
    """int64 (N,): indices into the study's cell_types."""
    splits: NDArray[np.str_]
    """(N,): train, validation or test."""
    units: Rows
    """int64 (N,): numbers of patients; a cell of an unknown patient has a number for itself."""
    held_out: bool
    """Whether the site only tests the model, with all its cells."""

    def rows(self, split: str) -> Rows:
        """Positions (M,) of the split's cells in order; for a held-out site, of all cells."""
        return self._rows[split]

    @cached_property
    def _rows(self) -> dict[str, Rows]:
        """Every step of every round asks for them, and comparing names takes longer than a step."""
        return {name: np.flatnonzero((self.splits == name) | self.held_out) for name in SPLITS}

    def take(self, positions: Rows) -> NDArray[np.uint8]:
        """The images at `positions`, uint8 (B, S, S, 3)."""
        side = self.parts[0].side
        images = np.empty((len(positions), side, side, 3), np.uint8)
        start = 0
        for part in self.parts:
            mine = (positions >= start) & (positions < start + len(part))
            if mine.any():
                images[mine] = part.take(positions[mine] - start)
            start += len(part)
        return images


@lru_cache(maxsize=256)
def open_cells(site: Site, study: Study) -> SiteCells:
    """Open the site's cells as the study uses them; the images stay on disk.

    A process opens the cells of a site and study once. A study that protects patients leaves out
    the cells of unknown patients, as it could not tell how many of them are one patient's.

    Raises:
        DataError: a cache or selection cannot be read, or a cache has another side or field of
            view than the study. Without privacy also: no cell is of the study's types. Under
            privacy the server must not learn that, and the site sends noise alone.
    """
    classes = _classes(study)
    parts, given = [], []
    for source in site.cells:
        part, stated = selected(source, _cache(source.folder, study.image_side, study.field_um))
        known = used(part, study)
        parts.append(part.select(known))
        given.append(stated[known])
    if study.privacy.mode == "none" and not any(len(part) for part in parts):
        raise DataError(f"site {site.name}: none of its cells is of a type of the study")
    return SiteCells(
        tuple(parts),
        np.concatenate([classes[part.labels] for part in parts]),
        split_as_studied(parts, given, study),
        _units(np.concatenate([part.patients for part in parts])),
        site.name in study.cohort and study.cohort[site.name].role == "held_out",
    )


@lru_cache(maxsize=64)
def _cache(folder: Path, side: int, field_um: float) -> CellCache:
    cache = CellCache.open(folder)
    scale, field = cache.meta["um_per_px"], cache.meta["field_um"]
    again = _again(cache, side, field_um)
    if cache.side != side:
        raise DataError(
            f"{folder}: its images have side {cache.side}, the study asks for {side}; {again}",
            Reason.OTHER_SIDE,
        )
    if scale is not None and field != field_um:
        raise DataError(
            f"{folder}: its images show {field:g} um, the study asks for {field_um:g}; {again}",
            Reason.OTHER_FIELD,
        )
    return cache


def _again(cache: CellCache, side: int, field_um: float) -> str:
    """The command that makes a cache with the side and field of view that the study asks for."""
    options = ["--side", f"{side}"]
    if cache.meta["um_per_px"] is not None:
        options += ["--um-per-px", f"{cache.meta['um_per_px']:g}", "--field-um", f"{field_um:g}"]
    command = typed("hemofed", "data", "index", cache.meta["source"], *options)
    return f"index them again with `{command}`, and name the folder that it prints in site.yaml"


def selected(source: CellSource, cache: CellCache) -> tuple[CellCache, NDArray[np.str_]]:
    """Return the cells that the source selects from `cache`, and the given split of each.

    The splits are (N,), "" for a cell without one. A source without a selection takes all cells.
    Raises DataError when the selection cannot be read or does not fit the cache.
    """
    if source.selection is None:
        return cache, cache.splits
    try:
        records = np.load(source.selection, allow_pickle=False)
        return cache.select(records["row"]), records["split"]
    except (OSError, ValueError, IndexError) as error:
        said = f"{source.selection}: is not a selection of cells ({error})"
        raise DataError(said, Reason.NO_CELLS) from error


def used(cache: CellCache, study: Study) -> Rows:
    """Positions (M,) of the cells of the study's types that the study's privacy can protect."""
    of_type = _classes(study)[cache.labels] >= 0
    if not study.privacy.of_patients:
        return np.flatnonzero(of_type)
    return np.flatnonzero(of_type & (cache.patients != ""))


def _classes(study: Study) -> Rows:
    """For each of `CELL_TYPES` its index in the study, or -1."""
    code = {name: number for number, name in enumerate(study.cell_types)}
    return np.array([code.get(cell.name, -1) for cell in CELL_TYPES])


def split_as_studied(
    parts: Sequence[CellCache], given: Sequence[NDArray[np.str_]], study: Study
) -> NDArray[np.str_]:
    """Return the split (N,) of each cell of `parts`: "train", "validation" or "test".

    given: for each part, the given split of each cell; "": none is given.

    Under privacy, no cell's split may depend on other units (see `assign_alone`). A patient with
    cells in several caches is one unit, so the function then splits all caches together.
    """
    if study.privacy.mode == "none":
        return np.concatenate(
            [
                assign(part.labels, part.patients, stated, seed=study.seed, sources=part.sources)
                for part, stated in zip(parts, given, strict=True)
            ]
        )
    return assign_alone(
        np.concatenate([part.patients for part in parts]),
        np.concatenate(given),
        np.concatenate([part.sources for part in parts]),
        unit=study.privacy.unit,
        seed=study.seed,
    )


def _units(patients: NDArray[np.str_]) -> Rows:
    """Number the patients; cells of unknown patients ("") each get a number of their own."""
    alone = patients == ""
    known = np.unique(patients[~alone])
    units = np.searchsorted(known, patients)
    units[alone] = len(known) + np.arange(int(alone.sum()))
    return units.astype(np.int64)
