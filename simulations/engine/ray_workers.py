"""Workers that are processes on the nodes of a Ray cluster."""

import contextlib
import os
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
from flwr.app import Context, Message
from numpy.typing import NDArray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from common.config.study import Runtime
from common.errors import ConfigError
from simulations.engine.cluster import ClientShare, Cluster, Node, places
from simulations.engine.node_check import check_nodes
from simulations.engine.seeded import make_client
from simulations.engine.workers import (
    Answer,
    MakeClient,
    StartWorker,
    Worker,
    WorkerPool,
    WorkersGoneError,
    packed,
    unpacked,
)
from simulations.experiments import PlannedStudy

Bytes = NDArray[np.uint8]

_START_SECONDS = 300.0
"""The longest wait until a node's worker runs; it loads torch, maybe over a network."""


class _Client:
    """The ClientApp in an actor's process."""

    def __init__(self, make: MakeClient, seed: int, folder: str) -> None:
        """folder: the working folder that relative paths start from."""
        with contextlib.suppress(OSError):
            os.chdir(folder)
        # Ray shows a process only the GPUs that it was given, so that number 0 is its own.
        self._answer = make(seed, 0)

    def ready(self) -> None:
        """Return once the process runs."""

    def answer(self, parts: list[Bytes]) -> list[Bytes]:
        asked, node = unpacked(part.data for part in parts)
        return _arrays(self._answer(asked, node), node)


def actors(
    cluster: Cluster, nodes: Sequence[Node], share: ClientShare, make: MakeClient, seed: int
) -> StartWorker:
    """Return the function that starts a `WorkerPool`'s workers: number i on the i-th of `nodes`.

    Each node must have room for its clients' `share`.
    """
    cluster.use(nodes)
    kind = ray.remote(_Client)

    def start(number: int) -> Worker:
        cluster.check()
        node = nodes[number]
        actor = kind.options(
            num_cpus=share.cpus,
            num_gpus=share.gpus,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.identifier, soft=False),
        ).remote(make, seed, os.getcwd())
        worker = _RayWorker(cluster, node, actor)
        worker.wait_until_ready(share)
        return worker

    return start


class _RayWorker:
    """One Ray actor."""

    def __init__(self, cluster: Cluster, node: Node, actor: Any) -> None:
        self._cluster, self._node, self._actor = cluster, node, actor
        self._asked: deque[Any] = deque()

    def wait_until_ready(self, share: ClientShare) -> None:
        """Wait until the actor runs.

        Raises:
            WorkersGoneError: the node has no room, or the process cannot be started.
        """
        try:
            self._cluster.wait_for(self._actor.ready.remote(), _START_SECONDS)
        except GetTimeoutError as error:
            self.stop()
            raise WorkersGoneError(
                f"Ray node {self._node}: no room for a client ({share}) within "
                f"{_START_SECONDS:.0f} s; is the cluster used by another job?"
            ) from error
        except RayActorError as error:
            self._cluster.check_node(self._node)
            raise WorkersGoneError(
                f"Ray node {self._node}: no client can be started: {error}"
            ) from error

    def send(self, message: Message, context: Context) -> None:
        self._cluster.check()
        self._asked.append(self._actor.answer.remote(_arrays(message, context)))

    def receive(self) -> Answer:
        """Return the answer to the oldest unanswered message.

        Raises:
            EOFError: the process died, but its node is there.
            WorkersGoneError: the node is gone, too.
        """
        try:
            came = self._cluster.wait_for(self._asked.popleft())
            return unpacked(part.data for part in came)
        except (RayActorError, ObjectLostError) as death:
            self._cluster.check_node(self._node)
            raise EOFError from death

    def stop(self) -> str:
        if self._cluster.there:
            ray.kill(self._actor)
        return f"on Ray node {self._node.name}"


def _arrays(message: Message, context: Context) -> list[Bytes]:
    """The parts as arrays, which Ray neither copies into its own message nor out of it."""
    return [np.frombuffer(part, np.uint8) for part in packed(message, context)]


def ray_cluster(runtime: Runtime, address: str | None) -> Cluster:
    """Join the cluster for the clients of `runtime`, or start one with room for its workers.

    Raises:
        ConfigError: no cluster answers at the address, or `runtime.device` names one GPU, although
            Ray assigns the GPUs.
    """
    if runtime.device.startswith("cuda:"):
        raise ConfigError(
            f"runtime.device: {runtime.device}: Ray hands out the GPUs of its nodes; set device to "
            "cuda, and runtime.gpus_per_client to each client's share"
        )
    return Cluster(address, cpus=(runtime.workers or os.cpu_count() or 1) * runtime.threads)


def ray_workers_of(cluster: Cluster, runtime: Runtime, plan: PlannedStudy) -> WorkerPool:
    """Return the pool that `runtime` asks for, on the cluster's nodes.

    Raises:
        ConfigError: no node has room for a client, or a node does not see the plan's sites and
            cells as this machine does.
    """
    share = ClientShare(runtime.threads, _gpus(cluster.nodes, runtime))
    nodes = places(cluster.nodes, share, runtime.workers)
    check_nodes(cluster, nodes, plan)
    return WorkerPool(len(nodes), actors(cluster, nodes, share, make_client, plan.study.seed))


def _gpus(nodes: Sequence[Node], runtime: Runtime) -> float:
    """Return the GPUs per client: what `runtime` asks for, otherwise one if any node has GPUs."""
    if runtime.gpus_per_client is not None or runtime.device == "cpu":
        return runtime.gpus_per_client or 0.0
    wanted = runtime.device == "cuda" or any(node.gpus for node in nodes)
    return 1.0 if wanted else 0.0
