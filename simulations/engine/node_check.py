"""Checks that each node of a cluster sees the files of a run and has the same versions."""

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
"""The longest wait for a node's answer; the node loads torch first."""
_LARGEST = 2**20
"""How many bytes of a file are compared."""
_SHARE = (
    "the run's folder (--out) and the cells' cache (HEMOFED_CACHE) belong on a disk that all nodes "
    "have under the same path"
)

Marks = Mapping[str, str]
"""Path -> its `mark`."""


def mark(path: Path) -> str:
    """Return a digest of a file's beginning or of a folder's listing; "" if there is neither."""
    if path.is_dir():
        content = "\0".join(sorted(os.listdir(path))).encode()
    elif path.is_file():
        with path.open("rb") as file:
            content = file.read(_LARGEST)
    else:
        return ""
    return hashlib.sha256(content).hexdigest()


def needed(plan: PlannedStudy) -> Marks:
    """Return the files and folders that a plan's sites read, with their marks on this machine."""
    paths = [Path(name) for name in _files(plan.study.model)]
    for file in plan.site_files:
        paths += [file, *(source.folder for source in open_site(file).cells)]
    return {str(path.absolute()): mark(path) for path in paths}


def _files(model: ModelSpec) -> list[str]:
    return [name for name in (model.weights, model.projection) if name and Path(name).is_file()]


def versions() -> dict[str, str]:
    """Return the versions of the programs that decide a run's bits."""
    return {"hemofed": version(), "torch": torch.__version__}


def fault(marks: Marks, folders: Sequence[str], expected: Mapping[str, str]) -> str:
    """Return what differs on this node from the machine that started the run, and what to do.

    Args:
        marks: of the files and folders on that machine.
        folders: folders that must be writable.
        expected: `versions` of that machine.

    Returns:
        One sentence, or "" if nothing differs.
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
    """Check on each node that it sees the plan's sites and cells as this machine does.

    Raises:
        ConfigError: a node does not. The message names the first such node and says what to do.
        WorkersGoneError: the cluster, or a node, is gone.
    """
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
