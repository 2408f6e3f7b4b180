"""Runs a simulation, from its config to its report.

Modules that load torch are imported where they are used, because the workers load it, too, and are
started first.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from common.config.loading import dump, load
from common.errors import ConfigError
from common.files import write_text
from simulations.config import Simulation
from simulations.engine.seeded import workers_of
from simulations.engine.workers import WorkerPool
from simulations.experiments import PlannedStudy, make_plans
from simulations.labs import Labs, gather, studied
from simulations.partition import DealtSite, deal

if TYPE_CHECKING:
    from server.rounds.record import RoundRecord

Backend = Literal["local", "ray"]


class SimulationObserver(Protocol):
    """Is told of a simulation's progress."""

    def preparing(self, what: str, done: int, total: int) -> None:
        """Called while cells or sites are prepared: `done` of `total` are finished."""
        ...

    def gathered(self, labs: Labs) -> None:
        """Called when the labs' cells are indexed."""
        ...

    def planned(self, plans: list[PlannedStudy], sites: tuple[DealtSite, ...]) -> None:
        """Called when the cells are dealt to sites and the studies are written."""
        ...

    def round_done(self, plan: PlannedStudy, record: "RoundRecord") -> None:
        """Called when a round of a plan is over, from any thread."""
        ...

    def reporting(self) -> None:
        """Called when all plans are finished and the report begins."""
        ...


@dataclass(frozen=True)
class Prepared:
    """A simulation whose sites and studies are on disk."""

    simulation: Simulation
    labs: Labs
    sites: tuple[DealtSite, ...]
    plans: list[PlannedStudy]
    given_up: Mapping[str, str] = field(default_factory=dict)
    """Baseline -> why it could not continue."""


def prepare(simulation: Simulation, out: Path, observer: SimulationObserver) -> Prepared:
    """Gather the cells, deal them to sites, and write the studies below `out`.

    The same config gives the same files.

    Raises:
        ConfigError: `out` holds a run of another config, or the config names no usable data.
        DataError: the cells cannot be read, or cannot be dealt as the config says.
    """
    _same_run(simulation, out)
    write_text(out / "config.yaml", dump(simulation))
    study = simulation.study
    labs = gather(simulation.data, study.image_side, study.seed, observer.preparing, study.field_um)
    labs = studied(labs, study)
    observer.gathered(labs)
    sites = deal(labs.caches, simulation.partition, study)
    plans = make_plans(simulation, sites, out)
    observer.planned(plans, sites)
    return Prepared(simulation, labs, sites, plans)


def run(
    simulation: Simulation,
    out: Path,
    observer: SimulationObserver,
    backend: Backend = "local",
    address: str | None = None,
) -> dict[str, Any]:
    """Run the federation and its baselines, write the run folder, and return the summary.

    A run of the same config in the folder is continued: finished rounds are not run again, and the
    numbers are those of an unbroken run.

    Args:
        simulation: the config.
        out: the run folder.
        observer: is told of the progress.
        backend: where the clients run: processes of this machine, or Ray.
        address: the Ray cluster to join, as `Cluster` takes it.

    Raises:
        ConfigError: the folder holds a run of another config, or the config cannot be run here.
        DataError: the cells cannot be used.
        FederationError: the federation cannot continue.
    """
    prepared = federate(simulation, out, observer, backend, address)
    observer.reporting()
    return _conclude(prepared, out)


def federate(
    simulation: Simulation,
    out: Path,
    observer: SimulationObserver,
    backend: Backend = "local",
    address: str | None = None,
) -> Prepared:
    """Do what `run` does up to the trained and tested models, without summary and report."""
    if backend == "ray":
        return _on_ray(simulation, out, observer, address)
    with workers_of(simulation.runtime, simulation.study.seed) as pool:
        from common.device import resolve

        resolve(simulation.runtime.device)
        return _on(pool, prepare(simulation, out, observer), observer)


def _on_ray(
    simulation: Simulation, out: Path, observer: SimulationObserver, address: str | None
) -> Prepared:
    from simulations.engine.ray_workers import ray_cluster, ray_workers_of

    runtime = simulation.runtime
    with ray_cluster(runtime, address) as cluster:
        prepared = prepare(simulation, out, observer)
        with ray_workers_of(cluster, runtime, prepared.plans[0]) as pool:
            return _on(pool, prepared, observer)


def _on(pool: WorkerPool, prepared: Prepared, observer: SimulationObserver) -> Prepared:
    """Run the plans on the pool, and return `prepared` with the baselines that were given up."""
    from simulations.engine.engines import run_plans, warm

    warm(prepared.plans[0], pool, observer.preparing)
    given_up = run_plans(prepared.plans, pool, observer.round_done)
    return replace(prepared, given_up=given_up)


def resumed(out: Path) -> Simulation:
    """Read the config of the run in the folder `out`.

    Raises:
        ConfigError: it is not a run folder, or its config is not valid.
    """
    if not (out / "config.yaml").is_file():
        raise ConfigError(f"{out}: is not a run folder (it has no config.yaml)")
    return load(Simulation, out / "config.yaml")


def _conclude(prepared: Prepared, out: Path) -> dict[str, Any]:
    from simulations.report import write
    from simulations.report.summary import summarise, write_examples, write_summary

    summary = summarise(
        prepared.simulation, prepared.sites, prepared.plans, prepared.labs, prepared.given_up
    )
    write_summary(out, summary)
    write_examples(prepared.plans[0], out / "predictions.npz")
    write(out)
    return summary


def _same_run(simulation: Simulation, out: Path) -> None:
    config = out / "config.yaml"
    if config.is_file() and json.dumps(_what(resumed(out))) != json.dumps(_what(simulation)):
        raise ConfigError(
            f"{out}: holds a run of another config; choose another --out, or go on with it by "
            f"--resume {out}"
        )


def _what(simulation: Simulation) -> dict[str, Any]:
    """Return the config without the settings that only affect speed."""
    return simulation.model_dump(mode="json", exclude={"runtime": {"workers", "gpus_per_client"}})
