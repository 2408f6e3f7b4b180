"""Deals the labs' cells to sites: by lab, evenly, with skewed classes or with skewed sizes."""

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
"""The name of the site that has all cells, for comparison; no dealt site may have it."""
_TRIES = 200
"""How often a deal is drawn before it is given up because a site has fewer than `min_cells`."""


@dataclass(frozen=True)
class Share:
    """A site's part of one cell cache, N cells."""

    folder: Path
    """The cache's folder."""
    rows: Rows
    """(N,) row numbers in the cache."""
    splits: NDArray[np.str_]
    """(N,) the split of each row."""


@dataclass(frozen=True)
class DealtSite:
    """A simulated site and its N cells."""

    name: str
    shares: tuple[Share, ...]
    """The site's parts of the labs' caches; their cells, in order, are the site's."""
    labels: Rows
    """(N,) positions in CELL_TYPES."""
    patients: NDArray[np.str_]
    """(N,) names of the patients; "" if unknown."""
    held_out: bool = False
    """Whether the site never trains and the model is evaluated on all its cells."""

    @property
    def splits(self) -> NDArray[np.str_]:
        """(N,) the split of each cell."""
        return np.concatenate([share.splits for share in self.shares])

    def count(self, split: str) -> int:
        """Return the number of cells in a split."""
        return int((self.splits == split).sum())

    @property
    def training_patients(self) -> int:
        """The number of known patients with training cells."""
        names = self.patients[self.splits == "train"]
        return len(np.unique(names[names != ""]))


def deal(labs: Mapping[str, CellCache], spec: PartitionSpec, study: Study) -> tuple[DealtSite, ...]:
    """Deal the labs' cells to sites.

    Each cell goes to one site. The cells of a patient of one lab stay together, and go into the
    split that a deployed site would put them in. A held-out lab is always one site.

    Args:
        labs: lab -> its cells.
        spec: how they are dealt.
        study: its seed decides the draws, and its settings the splits.

    Returns:
        The sites, sorted by name.

    Raises:
        DataError: the spec names an unknown lab, a site would have too few cells, or a lab's name
            cannot be the name of a site.
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
"""A cell, as its lab and its row in the lab's cache."""


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
    """Deal the cells to `how.sites` lists and keep each patient's cells together."""
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
    """Group the cells of each patient; a cell of an unknown patient is a group by itself."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for lab, row in cells:
        patient = str(labs[lab].patients[row])
        groups.setdefault((lab, patient or f"\0{row}"), []).append((lab, row))
    return list(groups.values())


def _majority(labs: Mapping[str, CellCache], group: list[Cell]) -> int:
    """Return the most frequent label of the group's cells."""
    return int(np.bincount([labs[lab].labels[row] for lab, row in group]).argmax())


def _iid(classes: Rows, sizes: Rows, how: Deal, rng: np.random.Generator) -> Rows:
    """Return the site of each group: every site gets the same share of every class."""
    return _fill(classes, sizes, np.full((classes.max() + 1, how.sites), 1 / how.sites), rng)


def _dirichlet(classes: Rows, sizes: Rows, how: Deal, rng: np.random.Generator) -> Rows:
    """Return the site of each group: the sites' shares are drawn anew for each class."""
    shares = rng.dirichlet(np.full(how.sites, how.alpha), size=classes.max() + 1)
    return _fill(classes, sizes, shares, rng)


def _quantity(classes: Rows, sizes: Rows, how: Deal, rng: np.random.Generator) -> Rows:
    """Return the site of each group: the sites' shares are drawn once, for all classes."""
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
    """Return the site of each group, so that the sites get their shares of each class's cells.

    Args:
        classes: (G,) the class of each group.
        sizes: (G,) the number of cells of each group.
        shares: (classes, sites) each site's share of the cells of a class; rows sum to 1.
        rng: decides the order within a class.

    >>> ones, shares = np.ones(8, np.int64), np.array([[0.25, 0.75]])
    >>> site_of = _fill(0 * ones, ones, shares, np.random.default_rng(0))
    >>> np.bincount(site_of).tolist()
    [2, 6]
    """
    site_of = np.zeros(len(classes), np.int64)
    for kind in np.unique(classes):
        members = rng.permutation(np.flatnonzero(classes == kind))
        middle = (np.cumsum(sizes[members]) - sizes[members] / 2) / sizes[members].sum()
        # Without a random start, rounding would favour the same sites in every small class.
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
