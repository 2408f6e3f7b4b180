"""Runs the same apps on Flower's own simulation engine on Ray, for comparison with this engine."""

import logging
import os
import warnings
from typing import Any

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from client.site import SITES_VARIABLE
from server.app import server_app
from simulations.engine.engines import Observe, Told, context_of
from simulations.engine.seeded import make_client
from simulations.experiments import PlannedStudy


def run_on_flower(plan: PlannedStudy, workers: int, observe: Observe) -> None:
    """Run the plan on Flower's engine, in `workers` processes."""
    for name in ("flwr", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)
    resources: dict[str, Any] = {
        "init_args": {"num_cpus": workers, "include_dashboard": False, "log_to_driver": False},
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
    }
    # Ray's actors inherit the environment; their nodes have a number and no site.yaml.
    os.environ[SITES_VARIABLE] = str((plan.folder / "sites").absolute())
    client: ClientApp = make_client(plan.study.seed, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_simulation(
            _server(plan, observe),
            client,
            num_supernodes=len(plan.site_files),
            backend_config=resources,
        )


def _server(plan: PlannedStudy, observe: Observe) -> ServerApp:
    """Return the ServerApp with its run config set, which Flower's engine has no way to pass on."""
    inner = server_app(Told(plan, observe))
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        context.run_config.update(context_of(plan).run_config)
        inner(grid, context)

    return app
