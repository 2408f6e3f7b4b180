"""What a finished run left in its folder, read once for the report."""

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
    """Test cells and what the federated model said of them, K in all."""

    images: NDArray[np.uint8]
    """(K, S, S, 3) RGB."""
    label: NDArray[np.int64]
    """(K,) index into the run's cell types."""
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float64]
    """(K,) probability that the model gave its own answer, 0 to 1."""
    site: list[str]


@dataclass(frozen=True)
class Run:
    """A run folder's content: `summary.json`, `rounds.jsonl`, `config.yaml`, `predictions.npz`."""

    summary: dict[str, Any]
    rounds: list[RoundRecord]
    config: str
    examples: Examples
    logs: Logs
    """What the sites wrote of their refusals."""

    @property
    def cell_types(self) -> list[str]:
        return list(self.summary["cell_types"])

    @property
    def sites(self) -> dict[str, dict[str, Any]]:
        """Site name -> its part of the summary."""
        return dict(self.summary["sites"])

    @property
    def train_sites(self) -> list[str]:
        return [name for name, site in self.sites.items() if site["role"] == "train"]

    @property
    def held_out(self) -> list[str]:
        """The sites that only evaluate; they are not in the figures over all sites."""
        return [name for name, site in self.sites.items() if site["role"] != "train"]

    @property
    def rendered(self) -> bool:
        return bool(self.summary["data"] == "rendered")

    @property
    def private(self) -> bool:
        privacy = self.summary["privacy"]
        return privacy is not None and privacy["mode"] != "none"

    @property
    def confusion(self) -> NDArray[np.int64]:
        """(types, types) counts; rows are the true type."""
        return np.asarray(self.summary["confusion"], dtype=np.int64)

    @cached_property
    def evaluations(self) -> list[tuple[int, Scores]]:
        """Rounds at which the model was evaluated, in order, and what came out."""
        return [(one.round, one.evaluation) for one in self.rounds if one.evaluation is not None]

    @property
    def local_only(self) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self.summary["baselines"].get("local_only")
        return found

    @property
    def centralised(self) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self.summary["baselines"].get("centralised")
        return found


def read(folder: Path) -> Run:
    """Read the run in `folder`. Raises DataError naming the file that is missing or broken."""
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
    """The 95 % interval of `metric` in a part of the summary, or None when there is none."""
    found = (part.get("intervals") or {}).get(metric)
    if found is None or found[0] is None or found[1] is None:
        return None
    return float(found[0]), float(found[1])
