"""Whether each node of a cluster sees what a run needs, and computes with the same program."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import ray
import torch
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from client.site import open_site
from common.config.study import ModelSpec
from common.errors import ConfigError
from common.version import version
from simulations.engine.cluster import Cluster, Node
from simulations.experiments import PlannedStudy

_SECONDS = 180.0
"""A node loads torch in it."""
_LARGEST = 2**20
"""Bytes of a file that are compared."""
_SHARE = (
    "the run's folder (--out) and the cells' cache (HEMOFED_CACHE) belong on a disk that all nodes "
    "have under the same path"
)

Marks = Mapping[str, str]
"""Path -> what is there (`mark`)."""


def mark(path: Path) -> str:
    """What tells a file or a folder from another one at that path; "" where there is none."""
    if path.is_dir():
        content = "\0".join(sorted(os.listdir(path))).encode()
    elif path.is_file():
        with path.open("rb") as file:
            content = file.read(_LARGEST)
    else:
        return ""
    return hashlib.sha256(content).hexdigest()


def needed(plan: PlannedStudy) -> Marks:
    """What a plan's sites read, and what is there on this machine."""
    paths = [Path(name) for name in _files(plan.study.model)]
    for file in plan.site_files:
        paths += [file, *(source.folder for source in open_site(file).cells)]
    return {str(path.absolute()): mark(path) for path in paths}


def _files(model: ModelSpec) -> list[str]:
    return [name for name in (model.weights, model.projection) if name and Path(name).is_file()]


def versions() -> dict[str, str]:
    """Of what decides a run's bits."""
    return {"hemofed": version(), "torch": torch.__version__}


def fault(marks: Marks, folders: Sequence[str], expected: Mapping[str, str]) -> str:
    """What is not on this node as it is where the run was started, and what to do; "" for nothing.

    folders: to be written in. expected: `versions` there.
    """
    for name, found in versions().items():
        if found != expected[name]:
            return f"has {name} {found}, this machine {expected[name]}; install the same"
    for path, there in marks.items():
        if mark(Path(path)) != there:
            return f"{path} is not there, or is another one than on this machine; {_SHARE}"
    for path in folders:
        if not os.access(path, os.W_OK):
            return f"{path} cannot be written there; {_SHARE}"
    return ""


def check_nodes(cluster: Cluster, nodes: Sequence[Node], plan: PlannedStudy) -> None:
    """Ask each node. Raises ConfigError with the name of the first that does not see the plan's
    sites and cells as this machine does, and what to do."""
    marks, folders = needed(plan), [str(file.parent.absolute()) for file in plan.site_files]
    task = ray.remote(num_cpus=0)(fault)
    asked = {
        node: task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.identifier, soft=False)
        ).remote(marks, folders, versions())
        for node in dict.fromkeys(nodes)
    }
    for node, answer in asked.items():
        try:
            found = cluster.wait_for(answer, _SECONDS)
        except GetTimeoutError as error:
            raise ConfigError(f"Ray node {node}: gave no answer in {_SECONDS:.0f} s") from error
        except RayTaskError as error:
            last = str(error).strip().splitlines()[-1]
            raise ConfigError(
                f"Ray node {node}: hemofed does not run there ({last}); install the same version, "
                "in the Python that Ray was started with"
            ) from error
        except RayError as error:
            cluster.check_node(node)
            raise ConfigError(f"Ray node {node}: takes no task ({error})") from error
        if found:
            raise ConfigError(f"Ray node {node}: {found}")
