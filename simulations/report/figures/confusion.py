"""Shows which cell types the federated model takes for which."""

import numpy as np
from numpy.typing import NDArray

from simulations.report import formatting
from simulations.report.chart import Chart, canvas, matrix, png
from simulations.report.run_folder import Run


def chart(run: Run) -> Chart | None:
    """Draw the confusion matrix; None if there are no test cells."""
    counts = run.confusion
    if not counts.sum():
        return None
    kinds = [formatting.cell(kind) for kind in run.cell_types]
    size = max(5.0, 0.34 * len(kinds) + 1.8)
    figure, axes = canvas(size, size * 0.94)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    texts = [[f"{100 * s:.0f}" if s >= 0.005 else "" for s in row] for row in shares]
    matrix(axes, shares, texts, 7)
    axes.set_yticks(range(len(kinds)), kinds)
    axes.set_xticks(range(len(kinds)), kinds, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_ylabel("true type")
    axes.set_xlabel("the model's answer")
    return Chart(
        name="confusion",
        title="What is taken for what",
        caption=caption(run.cell_types, counts),
        alt=f"Confusion matrix of {len(kinds)} cell types, per cent of each true type (row).",
        png=png(figure),
        wide=len(kinds) > 12,
        dense=len(kinds) > 12,
    )


def caption(kinds: list[str], counts: NDArray[np.int64]) -> str:
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals[:, None], 1)
    wrong = shares.copy()
    np.fill_diagonal(wrong, 0)
    parts = [
        "Each row shows where the cells of one type go, in per cent; a perfect model fills the "
        "diagonal alone."
    ]
    worst = [divmod(int(place), len(kinds)) for place in np.argsort(-wrong, axis=None)[:3]]
    mistakes = [
        f"{formatting.cell(kinds[true])} taken for {formatting.cell(kinds[said])} "
        f"({counts[true, said]} of {totals[true]})"
        for true, said in worst
        if wrong[true, said] > 0
    ]
    if mistakes:
        parts.append(f"The most frequent mistakes here: {formatting.listing(mistakes)}.")
    else:
        parts.append("Here it made no mistake.")
    parts += _favourite(kinds, counts)
    untested = [
        formatting.cell(kind) for kind, total in zip(kinds, totals, strict=True) if not total
    ]
    if untested:
        parts.append(f"No test cell of {formatting.listing(untested)}: those rows are empty.")
    return " ".join(parts)


def _favourite(kinds: list[str], counts: NDArray[np.int64]) -> list[str]:
    """Return a sentence if the model predicts a type far more often than it occurs, else []."""
    said = counts.sum(axis=0) / counts.sum()
    there = counts.sum(axis=1) / counts.sum()
    most = int(said.argmax())
    if said[most] < 0.3 or said[most] < 2 * there[most]:
        return []
    return [
        f"It answers {formatting.cell(kinds[most])} for {formatting.percent(float(said[most]), 0)} "
        f"of the cells, of which only {formatting.percent(float(there[most]), 0)} are."
    ]
