"""Shows a simulation's progress on the terminal: rounds, sites, time left and epsilon so far."""

from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

from simulations.experiments import FEDERATED, LOCAL, PlannedStudy
from simulations.labs import Labs
from simulations.partition import DealtSite
from simulations.report.majority import always

if TYPE_CHECKING:
    from server.rounds.record import RoundRecord


_LINES = 40
"""The most lines that tell which of the labs' cells are left out."""
_WIDE = 100
"""The number of columns from which a terminal gets long bars."""


class Terminal:
    """A `SimulationObserver` that draws a bar for the federation and for each kind of baseline."""

    def __init__(self, console: Console) -> None:
        whole = Column(no_wrap=True)
        # In a narrow terminal what may be cut is the text, never the counts and times.
        self._bars = Progress(
            _Cut("{task.description}"),
            BarColumn(24 if console.width >= _WIDE else 10, table_column=whole),
            MofNCompleteColumn(table_column=whole),
            TimeElapsedColumn(table_column=whole),
            TimeRemainingColumn(table_column=whole),
            _Cut("{task.fields[note]}", style="dim"),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._done: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def preparing(self, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total, note="")
        self._bars.update(self._tasks[what], completed=done, total=total)

    def gathered(self, labs: Labs) -> None:
        lines = [f"{lab}: {said}" for lab, lines in labs.said.items() for said in lines]
        for line in lines[:_LINES]:
            self._bars.console.print(line, style="yellow", markup=False, soft_wrap=True)
        if len(lines) > _LINES:
            more = f"... {len(lines) - _LINES:,} lines more, in the report"
            self._bars.console.print(more, style="yellow")

    def planned(self, plans: list[PlannedStudy], sites: tuple[DealtSite, ...]) -> None:
        for task in self._tasks.values():
            self._bars.update(task, visible=False)
        self._bars.console.print(_sites_table(sites))
        self._done = {plan.name: _rounds_done(plan) for plan in plans}
        for kind in dict.fromkeys(map(_kind, plans)):
            total = sum(plan.study.rounds for plan in plans if _kind(plan) == kind)
            self._tasks[kind] = self._bars.add_task(
                kind, total=total, completed=self._done_of(kind), note=""
            )

    def round_done(self, plan: PlannedStudy, record: "RoundRecord") -> None:
        kind = _kind(plan)
        self._done[plan.name] = record.round
        self._bars.update(self._tasks[kind], completed=self._done_of(kind))
        if plan.name == FEDERATED:
            self._bars.update(self._tasks[kind], note=_note(record))
            for site, one in record.sites.items():
                if not one.status.ok:
                    after = "; the site is suspended" if one.suspended else ""
                    self._bars.console.print(
                        f"round {record.round}: {site}: {one.status}{after}", style="yellow"
                    )

    def _done_of(self, kind: str) -> int:
        """Return the rounds done of all plans of a kind, with those of an earlier, resumed run."""
        return sum(done for name, done in self._done.items() if _kind_of(name) == kind)

    def reporting(self) -> None:
        self._tasks["report"] = self._bars.add_task("report", total=None, note="figures and page")


def results_table(summary: dict[str, Any]) -> Table:
    """Return a table of the federation and its baselines, on the same test cells."""
    table = Table(
        "trained", "accuracy %", "balanced %", "macro-F1 %", "epsilon", title="Test cells"
    )
    spent = _highest(summary["sites"].values())
    table.add_row("federated", *_percent(summary), spent, style="bold")
    baselines = summary["baselines"]
    if local := baselines.get(LOCAL):
        alone = _highest(local["sites"].values())
        table.add_row("each site alone (mean)", *_percent(local["mean"]), alone)
    if central := baselines.get("centralised"):
        table.add_row("all cells in one place", *_percent(central), _highest([central]))
    for name, site in summary["sites"].items():
        if site["role"] == "held_out":
            table.add_row(f"federated, on {name} (held out)", *_percent(site), spent)
    commonest, figures = always(summary)
    table.add_row(f"no model: {commonest} always", *_percent(figures), "none", style="dim")
    return table


def _highest(spenders: Iterable[dict[str, Any]]) -> str:
    """Return the largest epsilon spent; baselines may stop earlier or later than the federation."""
    found = [one["epsilon"] for one in spenders if one["epsilon"] is not None]
    return f"{max(found):.2f}" if found else "none"


def _percent(figures: dict[str, Any]) -> list[str]:
    names = ("accuracy", "balanced_accuracy", "macro_f1")
    return ["" if figures[name] is None else f"{100 * figures[name]:.1f}" for name in names]


def _sites_table(sites: tuple[DealtSite, ...]) -> Table:
    table = Table("site", "train", "of patients", "validation", "test", "cell types", title="Sites")
    for site in sites[:20]:
        train, *others = [str(site.count(split)) for split in ("train", "validation", "test")]
        counts = [train, str(site.training_patients or "unknown"), *others]
        role = ["", "", "", f"{len(site.labels)} (held out)"] if site.held_out else counts
        table.add_row(site.name, *role, str(len(set(site.labels.tolist()))))
    if len(sites) > 20:
        table.add_row(f"... {len(sites) - 20} more")
    return table


class _Cut(TextColumn):
    """A text on one line that is cut off if there is no room for it."""

    def get_table_column(self) -> Column:
        return Column(overflow="ellipsis")

    def render(self, task: Task) -> Text:
        text = super().render(task)
        text.no_wrap, text.overflow = True, "ellipsis"
        return text


def _rounds_done(plan: PlannedStudy) -> int:
    from server.rounds.record import count

    return count(plan.folder)


def _kind(plan: PlannedStudy) -> str:
    return _kind_of(plan.name)


def _kind_of(name: str) -> str:
    return LOCAL if name.startswith(LOCAL) else name


def _note(record: "RoundRecord") -> str:
    """Return the balanced accuracy and epsilon of the round, if it has them.

    What may be cut off comes last.
    """
    parts = []
    score = (record.evaluation or {}).get("global", {}).get("balanced_accuracy")
    if score is not None:
        parts.append(f"balanced {100 * score:.1f} %")
    spent = [one.epsilon for one in record.sites.values() if one.epsilon is not None]
    if spent:
        parts.append(f"epsilon {max(spent):.2f}")
    parts.append(f"{record.good} sites")
    return ", ".join(parts)
