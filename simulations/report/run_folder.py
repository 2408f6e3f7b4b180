"""The content of a finished run's folder, read once for the report."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import DataError
from server.rounds import record
from server.rounds.record import RoundRecord, Scores
from simulations.report.site_errors import Logs, read_logs


@dataclass(frozen=True)
class Examples:
    """K test cells and the federated model's answers."""

    images: NDArray[np.uint8]
    """(K, S, S, 3) RGB."""
    label: NDArray[np.int64]
    """(K,) the index of the true type in the run's cell types."""
    predicted: NDArray[np.int64]
    """(K,) the index of the model's answer."""
    confidence: NDArray[np.float64]
    """(K,) the probability that the model gives its answer, 0 to 1."""
    site: list[str]
    """The site of each cell."""


@dataclass(frozen=True)
class Run:
    """A run folder's content: `summary.json`, `rounds.jsonl`, `config.yaml`, `predictions.npz`."""

    summary: dict[str, Any]
    rounds: list[RoundRecord]
    config: str
    examples: Examples
    logs: Logs
    """The entries of the sites' logs that explain their refusals."""

    @property
    def cell_types(self) -> list[str]:
        """The names of the study's cell types, in order."""
        return list(self.summary["cell_types"])

    @property
    def sites(self) -> dict[str, dict[str, Any]]:
        """Site -> its part of the summary."""
        return dict(self.summary["sites"])

    @property
    def train_sites(self) -> list[str]:
        """The sites that train."""
        return [name for name, site in self.sites.items() if site["role"] == "train"]

    @property
    def held_out(self) -> list[str]:
        """The sites that only evaluate; the figures over all sites do not include them."""
        return [name for name, site in self.sites.items() if site["role"] != "train"]

    @property
    def rendered(self) -> bool:
        """Whether the cells were rendered."""
        return bool(self.summary["data"] == "rendered")

    @property
    def private(self) -> bool:
        """Whether the run had differential privacy."""
        privacy = self.summary["privacy"]
        return privacy is not None and privacy["mode"] != "none"

    @property
    def agreed(self) -> float:
        """The most epsilon that the study may cost a site, statistics included."""
        privacy = self.summary["privacy"]
        return float(privacy.get("agreed", privacy["epsilon"]))

    @property
    def confusion(self) -> NDArray[np.int64]:
        """(types, types) counts; rows are true types, columns are the model's answers."""
        return np.asarray(self.summary["confusion"], dtype=np.int64)

    @cached_property
    def evaluations(self) -> list[tuple[int, Scores]]:
        """(round, scores) for the rounds in which the model was evaluated, in order."""
        return [(one.round, one.evaluation) for one in self.rounds if one.evaluation is not None]

    @property
    def local_only(self) -> dict[str, Any] | None:
        """The summary of the models trained at one site each; None if there are none."""
        found: dict[str, Any] | None = self.summary["baselines"].get("local_only")
        return found

    @property
    def centralised(self) -> dict[str, Any] | None:
        """The summary of the model trained on all cells in one place; None if there is none."""
        found: dict[str, Any] | None = self.summary["baselines"].get("centralised")
        return found


def read(folder: Path) -> Run:
    """Read the run in `folder`.

    Raises:
        DataError: a file is missing or broken; the message names it.
    """
    path = folder / "summary.json"
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        path = folder / record.LOG
        rounds = record.read(folder)
        path = folder / "config.yaml"
        config = path.read_text(encoding="utf-8")
        path = folder / "predictions.npz"
        examples = _examples(path)
        path = folder / "sites"
        logs = read_logs(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: cannot be read for the report ({error}); "
            "finish the run with `hemofed simulate … --resume DIR`"
        ) from error
    return Run(summary=summary, rounds=rounds, config=config, examples=examples, logs=logs)


def _examples(path: Path) -> Examples:
    with np.load(path, allow_pickle=False) as arrays:
        return Examples(
            images=arrays["images"].astype(np.uint8),
            label=arrays["label"].astype(np.int64),
            predicted=arrays["predicted"].astype(np.int64),
            confidence=arrays["confidence"].astype(np.float64),
            site=[str(name) for name in arrays["site"]],
        )


def interval(part: dict[str, Any], metric: str) -> tuple[float, float] | None:
    """Return the 95 % interval of `metric` in a part of the summary, or None if it has none.

    >>> interval({"intervals": {"accuracy": [0.6, 0.8]}}, "accuracy")
    (0.6, 0.8)
    """
    found = (part.get("intervals") or {}).get(metric)
    if found is None or found[0] is None or found[1] is None:
        return None
    return float(found[0]), float(found[1])
