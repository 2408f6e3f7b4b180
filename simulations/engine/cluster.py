"""Joins or starts a Ray cluster, knows its nodes, and watches whether they are still there.

Ray by itself ends this process a minute after it lost the head, and takes about 20 s to report that
a node is gone. So this module checks the head and the nodes about every other second, by opening a
connection.
"""

import logging
import os
import socket
import threading
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from itertools import zip_longest
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import GetTimeoutError

from common.errors import ConfigError
from simulations.engine.workers import WorkersGoneError

ADDRESS_VARIABLE = "RAY_ADDRESS"
NICENESS_VARIABLE = "RAY_worker_niceness"
_OWN = "local"
"""Ray's name for a cluster that this process starts and ends."""
_ASK_AGAIN = 1.5
"""The seconds between two checks of the cluster."""
_SILENCES = 3
"""The number of checks in a row without an answer after which a node counts as gone."""
_CONNECT_SECONDS = 3.0
"""The longest wait for a connection."""
_LOOK_SECONDS = 0.5
"""The seconds between two checks of the cluster while an answer is awaited."""


@dataclass(frozen=True)
class Node:
    """A node of the cluster: a machine, or one of several Ray processes on a machine."""

    name: str
    address: str
    port: int
    identifier: str = ""
    """Ray's id of the node; "" for the head, as it is not addressed by it."""
    cpus: float = 0
    gpus: float = 0

    def __str__(self) -> str:
        return f"{self.name} ({self.address}:{self.port})"

    def answers(self) -> bool:
        """Return whether the node's port accepts a connection."""
        try:
            socket.create_connection((self.address, self.port), _CONNECT_SECONDS).close()
        except OSError:
            return False
        return True


@dataclass(frozen=True)
class ClientShare:
    """The part of a node that one client takes."""

    cpus: int
    gpus: float

    def __str__(self) -> str:
        return f"{self.cpus} CPU and {self.gpus:g} GPU"

    def fits(self, node: Node) -> int:
        """Return how many clients the node has room for.

        >>> ClientShare(cpus=2, gpus=0.5).fits(Node("a", "host", 1, cpus=16, gpus=2))
        4
        """
        by_cpus = int(node.cpus // self.cpus)
        if not self.gpus:
            return by_cpus
        return min(by_cpus, int(node.gpus) * int(1 / self.gpus))


def places(nodes: Sequence[Node], share: ClientShare, most: int | None) -> list[Node]:
    """Return the node of each client, at most `most` of them; None sets no limit.

    The nodes take turns as long as they have room.

    >>> a, b = Node("a", "host", 1, cpus=3), Node("b", "host", 2, cpus=1)
    >>> [node.name for node in places([a, b], ClientShare(cpus=1, gpus=0), None)]
    ['a', 'b', 'a', 'a']

    Raises:
        ConfigError: no node has room for a client.
    """
    rows = [[node] * share.fits(node) for node in nodes]
    found = [node for column in zip_longest(*rows) for node in column if node is not None]
    if not found:
        said = ", ".join(f"{node.name}: {node.cpus:g} CPU, {node.gpus:g} GPU" for node in nodes)
        raise ConfigError(
            f"no Ray node has room for a client, which takes {share} (runtime.threads and "
            f"runtime.gpus_per_client): {said}"
        )
    return found[:most]


class Cluster:
    """The Ray cluster of this process. `close` leaves it, and ends it if it was started here."""

    def __init__(self, address: str | None = None, cpus: int | None = None) -> None:
        """Join the cluster at `address`, or start one.

        Args:
            address: HOST:PORT of the head, or "auto" for a cluster that runs on this machine. None
                takes RAY_ADDRESS, and starts a cluster if that is not set.
            cpus: the CPUs of a cluster that is started; None for this machine's.

        Raises:
            ConfigError: nothing answers at the address, or it has another form.
        """
        address = address or os.environ.get(ADDRESS_VARIABLE) or _OWN
        self.joined = address != _OWN
        _connect(address, cpus)
        host, port = ray.get_runtime_context().gcs_address.rsplit(":", 1)
        self.head = Node("its head", host.strip("[]"), int(port))
        # Ray still lists a node as alive for some time after it is gone.
        said = [_node(found) for found in ray.nodes() if found["Alive"]]
        self.nodes = tuple(sorted((node for node in said if node.answers()), key=str))
        self._watched: tuple[Node, ...] = (self.head,)
        self._fault: WorkersGoneError | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._watch, name="cluster", daemon=True).start()

    def use(self, nodes: Sequence[Node]) -> None:
        """Watch `nodes` from now on, besides the head: the run ends if one of them is gone."""
        self._watched = (self.head, *dict.fromkeys(nodes))

    def check(self) -> None:
        """Check that the cluster is usable.

        Raises:
            WorkersGoneError: the head, or a node that is used, is gone.
            CancelledError: the cluster was closed here.
        """
        if self._fault is not None:
            # The same object, raised in several threads, would collect all their frames.
            raise WorkersGoneError(str(self._fault))
        if self._ended.is_set():
            raise CancelledError("the cluster is closed")

    def wait_for(self, reference: Any, seconds: float | None = None) -> Any:
        """Return what a task or an actor answers, and raise what it raised.

        Raises:
            WorkersGoneError: the cluster is gone.
            GetTimeoutError: there is no answer after `seconds`; None sets no limit.
        """
        waited = 0.0
        while True:
            self.check()
            try:
                return ray.get(reference, timeout=_LOOK_SECONDS)
            except GetTimeoutError:
                waited += _LOOK_SECONDS
                if seconds is not None and waited >= seconds:
                    raise

    def check_node(self, node: Node) -> None:
        """Raise WorkersGoneError if a node, one of whose processes died, is gone or about to go.

        The node is checked several times, because its Ray processes end in any order.
        """
        for _ in range(_SILENCES):
            if not node.answers():
                self._lose(node)
            self.check()
            self._ended.wait(_ASK_AGAIN)
        self.check()

    @property
    def there(self) -> bool:
        """Whether Ray may still be called; a call may never return once the cluster is gone."""
        return self._fault is None and not self._ended.is_set()

    def close(self) -> None:
        """Leave the cluster, and end it if it was started here."""
        self._ended.set()
        ray.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _watch(self) -> None:
        silent = Counter[Node]()
        while not self._ended.wait(_ASK_AGAIN):
            for node in self._watched:
                silent[node] = 0 if node.answers() else silent[node] + 1
                if silent[node] >= _SILENCES:
                    self._lose(node)
                    return

    def _lose(self, node: Node) -> None:
        what = "Ray has ended" if node == self.head else f"Ray node {node.name} has left"
        self._fault = self._fault or WorkersGoneError(
            f"{what}: {node} no longer answers. What was done is kept up to the last whole round; "
            "start Ray again, and go on with `hemofed simulate --resume`"
        )


def _connect(address: str, cpus: int | None) -> None:
    """Connect this process to Ray. Raises ConfigError if nothing answers at the address."""
    options: dict[str, Any] = {}
    if address == _OWN:
        options = {"num_cpus": cpus, "include_dashboard": False}
        # By default Ray gives its workers a lower priority than all other processes.
        os.environ.setdefault(NICENESS_VARIABLE, "0")
    else:
        _check_reachable(address)
    for name in ("flwr", "ray"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, **options)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise ConfigError(
            f"Ray at {address} cannot be joined: {error}"
            if address != _OWN
            else f"Ray cannot be started on this machine: {error}"
        ) from error


def _check_reachable(address: str) -> None:
    """Raise ConfigError at once if nothing answers at the address; Ray would try for a minute."""
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if not colon or "/" in host or not port.isdigit():
        raise ConfigError(
            f"Ray's address {address!r} is neither HOST:PORT, as `ray start --head` prints it, nor "
            "auto"
        )
    if not Node("head", host.strip("[]"), int(port)).answers():
        raise ConfigError(
            f"Ray at {address}: nothing answers there; start it (`ray start --head`), or leave out "
            f"--ray-address and {ADDRESS_VARIABLE} to have a cluster started here"
        )


def _node(found: dict[str, Any]) -> Node:
    resources = found["Resources"]
    return Node(
        name=found["NodeName"],
        address=found["NodeManagerAddress"],
        port=found["NodeManagerPort"],
        identifier=found["NodeID"],
        cpus=resources.get("CPU", 0.0),
        gpus=resources.get("GPU", 0.0),
    )
