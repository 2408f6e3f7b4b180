"""Shows how many cells of each type each site has."""

import numpy as np
from numpy.typing import NDArray

from simulations.report import formatting
from simulations.report.chart import MANY_SITES, Chart, canvas, matrix, png
from simulations.report.run_folder import Run


def counts(run: Run) -> tuple[list[str], NDArray[np.int64]]:
    """Return the names of the sites, largest first, and their numbers of cells (types, sites)."""
    columns = {
        name: [site["class_counts"].get(kind, 0) for kind in run.cell_types]
        for name, site in run.sites.items()
    }
    names = sorted(columns, key=lambda name: -sum(columns[name]))
    table = np.array([columns[name] for name in names], dtype=np.int64).T
    return names, table


def chart(run: Run) -> Chart:
    """Draw the numbers of cells."""
    names, table = counts(run)
    few = len(names) <= MANY_SITES
    figure, axes = canvas(5.4 if len(names) < 8 else 7.2, 1.0 + 0.23 * len(run.cell_types))
    shares = np.log1p(table) / max(np.log1p(table.max()), 1e-9)
    texts = [[f"{n:,}" if n else "0" for n in row] for row in table] if few else []
    matrix(axes, shares, texts, 7)
    axes.set_yticks(range(len(run.cell_types)), [formatting.cell(kind) for kind in run.cell_types])
    axes.xaxis.tick_top()
    if few:
        slanted = len(names) > 5 or max(map(len, names)) > 10
        labels = [formatting.short(name) for name in names]
        axes.set_xticks(range(len(names)), labels, rotation=35 if slanted else 0)
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("left" if slanted else "center")
    else:
        axes.set_xticks([])
        axes.set_xlabel(f"{len(names)} sites, largest first")
        axes.xaxis.set_label_position("top")
    return Chart(
        name="cells",
        title="Cells of each type at each site",
        caption=caption(run, names, table),
        alt=f"Heat map of the number of cells: {len(run.cell_types)} cell types (rows) by "
        f"{len(names)} sites (columns); darker is more.",
        png=png(figure),
        wide=True,
        dense=few and len(names) > 7,
    )


def caption(run: Run, names: list[str], table: NDArray[np.int64]) -> str:
    parts = ["Darker is more cells, on a logarithmic scale.", _sizes(names, table.sum(axis=0))]
    missing = (table == 0).sum(axis=0)
    lacking = [f"{names[i]} ({missing[i]})" for i in np.argsort(-missing) if missing[i]]
    if lacking:
        parts.append(
            f"{formatting.count(len(lacking), 'site lacks', 'sites lack')} some types altogether "
            f"(number of types lacking): {formatting.listing(lacking, 5)}. Alone, such a site "
            "cannot learn those types."
        )
    else:
        parts.append("Every site has cells of every type.")
    rare = int(np.argmin(table.sum(axis=1)))
    parts.append(
        f"The rarest type is {formatting.cell(run.cell_types[rare])}, "
        f"with {formatting.count(int(table[rare].sum()), 'cell')} in all."
    )
    return " ".join(parts)


def _sizes(names: list[str], sizes: NDArray[np.int64]) -> str:
    """Return a sentence on how the cells are spread over the sites.

    sizes: the number of cells of each site, in falling order.
    """
    total = int(sizes.sum())
    if len(names) == 1:
        return f"{names[0]} holds all {formatting.count(total, 'cell')}."
    if sizes[0] == sizes[-1]:
        each = formatting.count(int(sizes[0]), "cell")
        return f"All {len(names)} sites are of one size, {each} each."
    return (
        f"The largest site, {names[0]}, holds {formatting.percent(sizes[0] / total, 0)} of "
        f"{formatting.count(total, 'cell')}; the smallest, {names[-1]}, has {sizes[-1]:,}."
    )
