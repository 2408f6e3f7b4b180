"""A simulation's progress on the terminal: rounds, sites, time left, epsilon so far."""

from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from simulations.partition import DealtSite
from simulations.plan import FEDERATED, LOCAL, Plan

if TYPE_CHECKING:
    from server.rounds import Record


class Terminal:
    """A `Watcher` that draws bars: one for the federation, one a kind of baseline."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim"),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}

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

    def planned(self, plans: list[Plan], sites: tuple[DealtSite, ...]) -> None:
        self._bars.console.print(_sites_table(sites))
        for plan in plans:
            kind = _kind(plan)
            if kind in self._tasks:
                before = self._bars.tasks[self._tasks[kind]].total or 0
                self._bars.update(self._tasks[kind], total=before + plan.study.rounds)
            else:
                self._tasks[kind] = self._bars.add_task(kind, total=plan.study.rounds, note="")

    def round_done(self, plan: Plan, record: "Record") -> None:
        task = self._tasks[_kind(plan)]
        if plan.name == FEDERATED:
            self._bars.update(task, completed=record["round"], note=_note(record))
            for site, entry in record["sites"].items():
                if entry["status"] != "ok":
                    after = "; the site is suspended" if entry.get("suspended") else ""
                    self._bars.console.print(
                        f"round {record['round']}: {site}: {entry['status']}{after}", style="yellow"
                    )
        else:
            self._bars.update(task, advance=1)

    def reporting(self) -> None:
        self._tasks["report"] = self._bars.add_task("report", total=None, note="figures and page")


def results_table(summary: dict[str, Any]) -> Table:
    """Federated against its baselines, on the same test cells."""
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
    return table


def _highest(spenders: Iterable[dict[str, Any]]) -> str:
    """The largest epsilon spent; baselines may stop earlier or later than the federation."""
    found = [one["epsilon"] for one in spenders if one["epsilon"] is not None]
    return f"{max(found):.2f}" if found else "none"


def _percent(figures: dict[str, Any]) -> list[str]:
    names = ("accuracy", "balanced_accuracy", "macro_f1")
    return ["" if figures[name] is None else f"{100 * figures[name]:.1f}" for name in names]


def _sites_table(sites: tuple[DealtSite, ...]) -> Table:
    table = Table("site", "train", "validation", "test", "cell types", title="Sites")
    for site in sites[:20]:
        counts = [str(site.count(split)) for split in ("train", "validation", "test")]
        role = ["", "", f"{len(site.labels)} (held out)"] if site.held_out else counts
        table.add_row(site.name, *role, str(len(set(site.labels.tolist()))))
    if len(sites) > 20:
        table.add_row(f"... {len(sites) - 20} more", "", "", "", "")
    return table


def _kind(plan: Plan) -> str:
    return LOCAL if plan.name.startswith(LOCAL) else plan.name


def _note(record: "Record") -> str:
    """Balanced accuracy and epsilon, when the round has them."""
    parts = [f"{sum(e['status'] == 'ok' for e in record['sites'].values())} sites"]
    score = (record["evaluation"] or {}).get("global", {}).get("balanced_accuracy")
    if score is not None:
        parts.append(f"balanced {100 * score:.1f} %")
    spent = [e["epsilon"] for e in record["sites"].values() if e.get("epsilon") is not None]
    if spent:
        parts.append(f"epsilon {max(spent):.2f}")
    return ", ".join(parts)
