"""A site's own figures: how well each model that it was asked to evaluate does on its cells.

They are exact, cost nothing and never leave the site: each model has a line in `figures.jsonl` of
the site's home, and one in its log. `client.training.metrics_release` decides what the server is
told of the same cells.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from client.lab_log import write_line
from common.config.study import Site
from common.log_file import add_line, aside
from common.metrics import Tally
from common.wire.messages import Task


@dataclass(frozen=True)
class Figures:
    """How the model of one round does on the site's cells of one split."""

    study: str
    digest: str
    round: int
    split: str
    at: str
    """When the figures were written down: UTC, ISO 8601."""
    cell_types: list[str]
    counts: list[list[float]]
    """The tally, as `Tally.to_json` gives it."""

    @property
    def tally(self) -> Tally:
        return Tally.from_json(self.counts, len(self.cell_types))

    @property
    def words(self) -> str:
        """The figures in one line, for a person of the lab."""
        tally = self.tally
        values, bounds = tally.metrics(), tally.intervals()
        told = [f"round {self.round}, {tally.total:,} {self.split} cells"]
        for name in ("accuracy", "balanced_accuracy"):
            value, between = values[name], bounds[name]
            if value is not None:
                span = f" ({100 * between[0]:.1f} to {100 * between[1]:.1f})" if between else ""
                told.append(f"{name.replace('_', ' ')} {100 * value:.1f} %{span}")
        return ", ".join(told)


def note_figures(site: Site, task: Task, tally: Tally) -> None:
    """Write down exactly how the model does on the site's cells.

    A full disk does not keep the answer from leaving: the answer is paid for, and these figures are
    only an addition to it.
    """
    study, now = task.study, datetime.now(UTC).isoformat(timespec="seconds")
    types, counts = list(study.cell_types), tally.to_json()
    found = Figures(study.name, study.digest, task.round, task.split, now, types, counts)
    add_line(site.figures, json.dumps(asdict(found)))
    write_line(site.log, f"study {study.name}: {found.words}; exact, it stays here")


def read_figures(path: Path) -> list[Figures]:
    """The figures written down, oldest first: those of the file, and of the one that was put aside
    when it became long. A line that a full disk cut off is left out."""
    return [one for file in (aside(path), path) if file.exists() for one in _lines(file)]


def _lines(path: Path) -> Iterator[Figures]:
    for line in path.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError, TypeError, IndexError):
            found = Figures(**json.loads(line))
            found.tally  # noqa: B018  counts that are none are no figures
            yield found
