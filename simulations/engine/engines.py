"""Running plans: on the worker pool of this process, or on Flower's Ray engine."""

import logging
import os
import warnings
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from client.data.cache import default_root
from client.site import SITES_VARIABLE
from common.config.study import Runtime
from common.errors import FederationError
from common.files import last_line
from common.wire.messages import Task
from server.app import server_app
from server.rounds.messaging import exchange
from server.rounds.observer import Observer
from server.rounds.record import RoundRecord
from simulations.engine.grid import LocalGrid
from simulations.engine.seeded import make_client
from simulations.engine.workers import WorkerPool
from simulations.experiments import FEDERATED, PlannedStudy
from simulations.labs import Progress

Observe = Callable[[PlannedStudy, RoundRecord], None]
"""Called after each round of a plan, from any thread."""


def warm(plan: PlannedStudy, pool: WorkerPool, progress: Progress) -> None:
    """Let each site open its cells and compute a frozen encoder's features, before any run does.

    Runs that start together would each compute what one can leave on disk for all. Raises
    FederationError when a site cannot.
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


def run_local(plans: list[PlannedStudy], pool: WorkerPool, observe: Observe) -> dict[str, str]:
    """Run all plans at once on the pool: what one run leaves idle, another uses.

    A plan's numbers do not depend on the others, nor on the number of workers. A baseline that
    cannot go on is given up: its name and why. Raises any other error, the first of any plan, after
    the others have been stopped at their last whole round.
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
    """Run the plan; why it could not go on, if it is a baseline."""
    try:
        _serve(plan, grid, observe)
    except FederationError as fault:
        if plan.name == FEDERATED:
            raise
        return str(fault)
    return None


class _Told(Observer):
    """Tells which study's round is over."""

    def __init__(self, plan: PlannedStudy, observe: Observe) -> None:
        self._plan, self._observe = plan, observe

    def round_done(self, record: RoundRecord) -> None:
        self._observe(self._plan, record)


def _serve(plan: PlannedStudy, grid: Grid, observe: Observe) -> None:
    app = server_app(_Told(plan, observe))
    app(grid, _context(plan))


def run_ray(plans: list[PlannedStudy], runtime: Runtime, seed: int, observe: Observe) -> None:
    """Run the plans one after the other on Flower's simulation engine, with the same apps."""
    # Flower keeps files of its own below HOME, which a container may lack.
    os.environ.setdefault("FLWR_HOME", str(default_root() / "flwr"))
    from flwr.simulation import run_simulation

    for name in ("flwr", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)
    workers = runtime.workers or os.cpu_count() or 1
    resources: dict[str, Any] = {
        "init_args": {"num_cpus": workers, "include_dashboard": False, "log_to_driver": False},
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
    }
    for plan in plans:
        # Ray's actors inherit the environment; their nodes have a number and no site.yaml.
        os.environ[SITES_VARIABLE] = str((plan.folder / "sites").absolute())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run_simulation(
                _ray_server(plan, observe),
                make_client(seed),
                num_supernodes=len(plan.site_files),
                backend_config=resources,
            )


def _ray_server(plan: PlannedStudy, observe: Observe) -> ServerApp:
    """The ServerApp, told by us what Flower's engine has no way to tell it: its run config."""
    inner = server_app(_Told(plan, observe))
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        context.run_config.update(_context(plan).run_config)
        inner(grid, context)

    return app


def _context(plan: PlannedStudy) -> Context:
    config: dict[str, Any] = {"study": str(plan.study_file), "out": str(plan.folder)}
    return Context(1, 1, {}, RecordDict(), config)
