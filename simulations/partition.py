"""Labs' cells dealt to sites: by lab, evenly, by skewed classes, by skewed sizes."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.data.site_cells import split_as_studied
from client.data.store import CellCache
from common.config.study import SERVER, SITE_NAME, Study
from common.errors import DataError
from simulations.config import Deal, PartitionSpec

Rows = NDArray[np.int64]

POOLED = "all-sites"
"""Name of the one site that has all cells, for comparison; no site's own."""
_TRIES = 200
"""Draws of a Dirichlet deal before giving up on `min_cells` for every site."""


@dataclass(frozen=True)
class Share:
    """A site's part of one cache: row numbers, and the split of each row."""

    folder: Path
    rows: Rows
    splits: NDArray[np.str_]


@dataclass(frozen=True)
class DealtSite:
    """A simulated site and its cells."""

    name: str
    shares: tuple[Share, ...]
    labels: Rows
    """(N,) positions in CELL_TYPES, over all shares."""
    patients: NDArray[np.str_]
    """(N,) over all shares; "" where unknown."""
    held_out: bool = False

    @property
    def splits(self) -> NDArray[np.str_]:
        return np.concatenate([share.splits for share in self.shares])

    def count(self, split: str) -> int:
        return int((self.splits == split).sum())

    @property
    def training_patients(self) -> int:
        """Known ones."""
        names = self.patients[self.splits == "train"]
        return len(np.unique(names[names != ""]))


def deal(labs: Mapping[str, CellCache], spec: PartitionSpec, study: Study) -> tuple[DealtSite, ...]:
    """Sites with their cells, by name. Raises DataError: an unknown lab, too few cells a site.

    Each cell goes to one site; a patient's cells (of one lab) go together, into the split that a
    deployed site would have them in. A lab that is held out is one site, split or not.
    """
    seed = study.seed
    _known(spec, labs)
    if spec.pool:
        pool = [(lab, row) for lab, cache in labs.items() for row in range(len(cache))]
        parts = _dealt(labs, pool, spec.pool, spec.min_cells, seed)
        width = len(str(len(parts)))
        named = {f"site_{n:0{width}d}": part for n, part in enumerate(parts, start=1)}
    else:
        named = _by_lab(labs, spec, seed)
    for name in named:
        if not re.fullmatch(SITE_NAME, name) or name.lower() in (POOLED, SERVER):
            raise DataError(
                f"{name!r} cannot be a site's name, which is of letters, digits, '.', '_' and '-', "
                f"64 at most, and not {POOLED}; rename the lab's folder"
            )
    sites = [_site(name, labs, cells, spec, study) for name, cells in sorted(named.items())]
    return tuple(sites)


Cell = tuple[str, int]
"""A cell: its lab, and its row in the lab's cache."""


def _by_lab(labs: Mapping[str, CellCache], spec: PartitionSpec, seed: int) -> dict[str, list[Cell]]:
    named: dict[str, list[Cell]] = {}
    for lab, cache in labs.items():
        cells = [(lab, row) for row in range(len(cache))]
        if lab not in spec.split or lab in spec.held_out:
            named[lab] = cells
            continue
        for n, part in enumerate(_dealt(labs, cells, spec.split[lab], spec.min_cells, seed), 1):
            if f"{lab}_{n}" in labs:
                raise DataError(
                    f"partition.split: part {n} of lab {lab} would go by the name of the lab "
                    f"{lab}_{n}; rename one of the two folders"
                )
            named[f"{lab}_{n}"] = part
    return named


def _dealt(
    labs: Mapping[str, CellCache], cells: list[Cell], how: Deal, min_cells: int, seed: int
) -> list[list[Cell]]:
    """The cells in `how.sites` lists, patients whole."""
    groups = _groups(labs, cells)
    classes = np.array([_majority(labs, group) for group in groups])
    sizes = np.array([len(group) for group in groups])
    rng = np.random.default_rng(seed)
    for _ in range(_TRIES):
        site_of = _SCHEMES[how.scheme](classes, sizes, how, rng)
        filled = np.bincount(site_of, weights=sizes, minlength=how.sites)
        if filled.min() >= min_cells:
            return [
                [cell for index in np.flatnonzero(site_of == site) for cell in groups[index]]
                for site in range(how.sites)
            ]
    raise DataError(
        f"{len(cells)} cells of {len(groups)} patients cannot be dealt to {how.sites} sites by "
        f"{how.scheme} with at least {min_cells} each; fewer sites, a larger alpha, or a smaller "
        "partition.min_cells"
    )


def _groups(labs: Mapping[str, CellCache], cells: list[Cell]) -> list[list[Cell]]:
    """Cells that stay together: a patient's; a cell of an unknown patient alone."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for lab, row in cells:
        patient = str(labs[lab].patients[row])
        groups.setdefault((lab, patient or f"\0{row}"), []).append((lab, row))
    return list(groups.values())


def _majority(labs: Mapping[str, CellCache], group: list[Cell]) -> int:
    return int(np.bincount([labs[lab].labels[row] for lab, row in group]).argmax())


def _iid(classes: Rows, sizes: Rows, how: Deal, rng: np.random.Generator) -> Rows:
    """Each class's patients in turn to the site that has fewest cells of it."""
    return _fill(classes, sizes, np.full((classes.max() + 1, how.sites), 1 / how.sites), rng)


def _dirichlet(classes: Rows, sizes: Rows, how: Deal, rng: np.random.Generator) -> Rows:
    shares = rng.dirichlet(np.full(how.sites, how.alpha), size=classes.max() + 1)
    return _fill(classes, sizes, shares, rng)


def _quantity(classes: Rows, sizes: Rows, how: Deal, rng: np.random.Generator) -> Rows:
    shares = rng.dirichlet(np.full(how.sites, how.alpha))
    return _fill(classes, sizes, np.tile(shares, (classes.max() + 1, 1)), rng)


_SCHEMES: dict[str, Callable[[Rows, Rows, Deal, np.random.Generator], Rows]] = {
    "iid": _iid,
    "dirichlet": _dirichlet,
    "quantity": _quantity,
}


def _fill(
    classes: Rows, sizes: Rows, shares: NDArray[np.float64], rng: np.random.Generator
) -> Rows:
    """The site of each group: class k's cells over the sites as shares[k] (sites,) says."""
    site_of = np.zeros(len(classes), np.int64)
    for kind in np.unique(classes):
        members = rng.permutation(np.flatnonzero(classes == kind))
        middle = (np.cumsum(sizes[members]) - sizes[members] / 2) / sizes[members].sum()
        # A random start, or rounding would favour the same sites in every small class.
        place = (middle + rng.random()) % 1
        site_of[members] = np.searchsorted(np.cumsum(shares[kind])[:-1], place)
    return site_of


def _site(
    name: str, labs: Mapping[str, CellCache], cells: list[Cell], spec: PartitionSpec, study: Study
) -> DealtSite:
    parts = []
    for lab in dict.fromkeys(lab for lab, _ in cells):
        rows = np.array(sorted(row for of, row in cells if of == lab), dtype=np.int64)
        parts.append(labs[lab].select(rows))
    splits = split_as_studied(parts, [part.splits for part in parts], study).astype("U10")
    ends = np.cumsum([len(part) for part in parts])[:-1]
    return DealtSite(
        name,
        tuple(
            Share(part.folder, part.rows, mine)
            for part, mine in zip(parts, np.split(splits, ends), strict=True)
        ),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.patients for part in parts]),
        name in spec.held_out,
    )


def _known(spec: PartitionSpec, labs: Mapping[str, CellCache]) -> None:
    for lab in (*spec.split, *spec.held_out):
        if lab not in labs:
            raise DataError(f"partition: no lab {lab!r}; the data has: {', '.join(sorted(labs))}")
