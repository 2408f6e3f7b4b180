"""Prepares a run for Flower's own `flwr run .`, which runs a bundle of this project's code."""

import shlex
import sys
from pathlib import Path

from common.files import file_digest
from common.models.projection import RENDERED, projection_file
from simulations.config import Simulation
from simulations.experiments import PlannedStudy


def for_flower(simulation: Simulation) -> Simulation:
    """Return the simulation with the shipped projection named by the path of its file.

    Flower leaves weights out of the bundle.
    """
    study = simulation.study
    if study.model.projection != RENDERED:
        return simulation
    file = projection_file(RENDERED)
    named = {"projection": str(file), "projection_sha256": file_digest(file)}
    model = study.model.model_copy(update=named)
    return simulation.model_copy(update={"study": study.model_copy(update={"model": model})})


def flower_command(plan: PlannedStudy) -> str:
    """Return the command to type.

    Without the environment variable, Flower would install everything that is installed here again,
    even torch. Without the number of supernodes, it would always simulate two sites.
    """
    study, out = plan.study_file.absolute(), plan.folder.absolute()
    words = {
        "--federation-config": f"num-supernodes={len(plan.site_files)}",
        "--run-config": f'study="{study}" out="{out}"',
    }
    options = " ".join(f"{option} {shlex.quote(given)}" for option, given in words.items())
    program = shlex.quote(str(Path(sys.executable).with_name("flwr")))
    return f"FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1 {program} run . {options}"
