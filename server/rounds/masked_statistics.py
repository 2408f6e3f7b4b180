"""Asks the sites for the statistics of their training cells, once, before the first round."""

from pathlib import Path

from common.config.study import Study
from common.errors import FederationError
from common.metrics import MOST_CELLS
from common.privacy.statistics_noise import COLOURS, COUNT
from common.wire.messages import STATISTICS, Task
from server.rounds.cell_statistics import CellStatistics
from server.rounds.dispatch import Dispatch
from server.rounds.masked_counts import MaskedCounts
from server.rounds.observer import Observer


class MaskedStatistics:
    """The statistics of one study, which nothing in its training depends on."""

    def __init__(self, study: Study, dispatch: Dispatch, observer: Observer) -> None:
        self._study = study
        self._counts = MaskedCounts(study, dispatch, observer)

    def collect(self, out: Path) -> None:
        """Ask for the statistics, and keep them in the run's folder `out`.

        There are none if fewer sites give a key than the noise is made for, or if one of them then
        fails. They are asked for once: before any site pays, the folder says that there are none,
        and so it stays if this process ends before the sum is whole.

        Raises:
            FederationError: too few sites that train connect within the round's deadline, or the
                folder has another study's statistics.
        """
        if self._kept(out):
            return
        task = Task(self._study, 0)
        present = self._counts.keys.present(())
        agreement = self._counts.agree(task, "statistics", present)
        CellStatistics.none(self._study).write(out)
        if agreement is None:
            return
        size = len(self._study.cell_types) + len(COLOURS)
        total = self._counts.total(STATISTICS, task, None, agreement, size, MOST_CELLS * COUNT)
        if total is not None:
            CellStatistics.of_sum(self._study, agreement.sites, total).write(out)

    def _kept(self, out: Path) -> bool:
        """Whether the folder has this study's statistics, or says that there are none."""
        kept = CellStatistics.read(out)
        if kept is not None and kept.study != self._study.digest:
            raise FederationError(
                f"{out}: has the statistics of study {kept.study[:12]}, not "
                f"{self._study.digest[:12]}; choose another folder"
            )
        return kept is not None
