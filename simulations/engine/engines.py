"""Runs plans on a pool of workers."""

from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid

from common.errors import FederationError
from common.files import last_line
from common.wire.messages import Task
from server.app import server_app
from server.rounds.messaging import exchange
from server.rounds.observer import Observer
from server.rounds.record import RoundRecord
from simulations.engine.grid import LocalGrid
from simulations.engine.workers import WorkerPool, WorkersGoneError
from simulations.experiments import FEDERATED, PlannedStudy
from simulations.labs import Progress

Observe = Callable[[PlannedStudy, RoundRecord], None]
"""Called after each round of a plan, from any thread."""


def warm(plan: PlannedStudy, pool: WorkerPool, progress: Progress) -> None:
    """Make each site open its cells and compute a frozen encoder's features, before any plan runs.

    Plans that start together would otherwise each compute what one can leave on disk for all.

    Raises:
        FederationError: a site cannot open its cells.
    """
    grid, sites = LocalGrid(pool, plan.site_files, 0), [f.parent.name for f in plan.site_files]
    content = Task(plan.study, 0).content()
    nodes = dict(zip(sites, grid.get_node_ids(), strict=True))
    messages = {site: Message(content, nodes[site], "query.prepare") for site in sites}
    replies = exchange(grid, messages, plan.study.round.deadline_seconds)
    for done, (site, reply) in enumerate(replies, start=1):
        if not isinstance(reply, Message):
            log = plan.folder / "sites" / site / "site.log"
            raise FederationError(f"site {site}: {reply}\n{log}: {last_line(log) or '(no log)'}")
        progress("features" if plan.study.model.encoder == "frozen" else "sites", done, len(sites))


def run_plans(plans: list[PlannedStudy], pool: WorkerPool, observe: Observe) -> dict[str, str]:
    """Run all plans at once on the pool, so that a worker that one plan leaves idle serves another.

    A plan's numbers depend neither on the other plans nor on the number of workers.

    Returns:
        Baseline -> why it could not continue, for the baselines that were given up.

    Raises:
        The first other error of any plan, after the other plans were stopped at their last whole
        round.
    """
    with ThreadPoolExecutor(len(plans), thread_name_prefix="server") as threads:
        runs = [
            threads.submit(_attempt, plan, LocalGrid(pool, plan.site_files, number), observe)
            for number, plan in enumerate(plans, start=1)
        ]
        try:
            done, _ = wait(runs, return_when=FIRST_EXCEPTION)
            for run in done:
                run.result()
            faults = {plan.name: run.result() for plan, run in zip(plans, runs, strict=True)}
        except BaseException:
            pool.close()
            raise
    return {name: fault for name, fault in faults.items() if fault}


def _attempt(plan: PlannedStudy, grid: Grid, observe: Observe) -> str | None:
    """Run the plan; if it is a baseline that cannot continue, return why."""
    try:
        _serve(plan, grid, observe)
    except WorkersGoneError:
        raise
    except FederationError as fault:
        if plan.name == FEDERATED:
            raise
        return str(fault)
    return None


class Told(Observer):
    """Passes on each finished round, together with its plan."""

    def __init__(self, plan: PlannedStudy, observe: Observe) -> None:
        self._plan, self._observe = plan, observe

    def round_done(self, record: RoundRecord) -> None:
        self._observe(self._plan, record)


def _serve(plan: PlannedStudy, grid: Grid, observe: Observe) -> None:
    app = server_app(Told(plan, observe))
    app(grid, context_of(plan))


def context_of(plan: PlannedStudy) -> Context:
    """Return the ServerApp's context for a plan's run."""
    config: dict[str, Any] = {"study": str(plan.study_file), "out": str(plan.folder)}
    return Context(1, 1, {}, RecordDict(), config)
