"""`hemofed bench masking` on Flower: its SecAgg+, `secaggplus_mod` and `SecAggPlusWorkflow`.

    python -m simulations.bench.sums.secagg_plus SIZE SITES {site,server,server-away}

A site, from its fit result to the masked vector that goes up: the mod's third stage. The server,
from the masked vectors of SITES sites to their mean: its last two stages, without what the strategy
does then; `server-away` with one site that is lost after all have dealt out their shares. Its own
quantisation, all sites mask with all, and two thirds of the shares open a secret. One masked vector
stands for all that the server has, so its memory is less than it takes.
"""

import argparse
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import (
    Code,
    FitRes,
    NDArrays,
    Parameters,
    Status,
    ndarray_to_bytes,
    ndarrays_to_parameters,
)
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.compat.common.recorddict_compat import fitres_to_recorddict, parameters_to_arrayrecord
from flwr.server import SimpleClientManager
from flwr.server.compat.grid_client_proxy import GridClientProxy
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.strategy import FedAvg
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.server.workflow.secure_aggregation.secaggplus_workflow import WorkflowState

from common.wire.flower_internals import TaskIdentity
from simulations.bench.own_figures import Stopwatch
from simulations.bench.sums.masking_figures import Work, tell

_EXAMPLES = 100
_OPENED_BY = 2 / 3
_FIRST = 1


@dataclass
class Clients:
    """Stands for Flower's grid: each client answers in this process, from a context of its own."""

    results: Sequence[NDArrays]
    """Of each client's fit; client i has the node id i + 1."""
    away: frozenset[int] = frozenset()
    """Node ids that do not answer when masked vectors are collected, and after."""
    upload: Sequence[bytes] = ()
    """Where given, what stands for every client's masked arrays."""
    others: Stopwatch = field(default_factory=Stopwatch)
    """Of all that clients do, which is not the server's."""
    first: Stopwatch = field(default_factory=Stopwatch)
    """Of what the first client does to its fit result."""
    sent: int = 0
    """Bytes of the first client's masked arrays."""

    def __post_init__(self) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 1
        self._contexts = {
            node: Context(1, node, {}, RecordDict(), {}) for node in range(1, self.count + 1)
        }

    @property
    def count(self) -> int:
        return len(self.results)

    def send_and_receive(
        self, messages: Iterable[Message], timeout: float | None = None
    ) -> list[Message]:
        """Flower's `Grid.send_and_receive`; each message gets its own copy of its settings."""
        with self.others:
            return [self._reply(message) for message in messages]

    def _reply(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        settings = dict(message.content.config_records[RECORD_KEY_CONFIGS])
        collects = settings[Key.STAGE] == Stage.COLLECT_MASKED_VECTORS
        if node in self.away and (collects or settings[Key.STAGE] == Stage.UNMASK):
            return Message(Error(code=0, reason="away"), reply_to=message)
        message.content = RecordDict({RECORD_KEY_CONFIGS: ConfigRecord(settings)})
        fitted = Message(self._fitted(node), reply_to=message)
        clock = self.first if collects and node == _FIRST else Stopwatch()
        with clock:
            reply = secaggplus_mod(message, self._contexts[node], lambda *_: fitted)
        if collects:
            self._told(node, reply.content.config_records[RECORD_KEY_CONFIGS])
        return reply

    def _fitted(self, node: int) -> RecordDict:
        result = FitRes(
            Status(Code.OK, ""), ndarrays_to_parameters(self.results[node - 1]), _EXAMPLES, {}
        )
        return fitres_to_recorddict(result, keep_input=False)

    def _told(self, node: int, answer: ConfigRecord) -> None:
        if node == _FIRST:
            self.sent = sum(map(len, answer[Key.MASKED_PARAMETERS]))  # type: ignore[arg-type]
        if self.upload:
            answer[Key.MASKED_PARAMETERS] = list(self.upload)


class TakesTheMean(FedAvg):
    """The mean is what the workflow made; FedAvg would average as many copies of it."""

    def aggregate_fit(
        self, server_round: int, results: list[Any], failures: list[Any]
    ) -> tuple[Parameters | None, dict[str, Any]]:
        return results[0][1].parameters, {}


class SecureRound:
    """One round of SecAgg+ over `clients`."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        manager = SimpleClientManager()
        for node in range(1, clients.count + 1):
            manager.register(GridClientProxy(node, clients, run_id=1))  # type: ignore[arg-type]
        self.context = LegacyContext(
            Context(1, 0, {}, RecordDict(), {}),
            strategy=TakesTheMean(min_fit_clients=2, min_available_clients=2),
            client_manager=manager,
        )
        state, empty = self.context.state, ndarrays_to_parameters([np.zeros(1)])
        state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({WorkflowKey.CURRENT_ROUND: 1})
        state.array_records[MAIN_PARAMS_RECORD] = parameters_to_arrayrecord(empty, keep_input=True)
        self._workflow = SecAggPlusWorkflow(num_shares=1.0, reconstruction_threshold=_OPENED_BY)

    def run(self, clock: Stopwatch, to_the_end: bool = True) -> None:
        """Run it, and add to `clock` the server's own part of the last two stages.

        Unless `to_the_end`, nothing is unmasked. Raises RuntimeError: Flower halted it.
        """
        grid: Any = self._clients
        flow, given = self._workflow, (grid, self.context, WorkflowState())
        done = flow.setup_stage(*given) and flow.share_keys_stage(*given)
        others = self._clients.others = Stopwatch()
        with clock:
            done = done and flow.collect_masked_vectors_stage(*given)
            done = done and (not to_the_end or flow.unmask_stage(*given))
        clock.processor -= others.processor
        clock.wall -= others.wall
        if not done:
            raise RuntimeError("Flower halted the secure aggregation")


def site(size: int, sites: int) -> Work:
    """The first client's part, in a round whose other clients have one number each."""
    vector = np.random.default_rng(0).standard_normal(size, dtype=np.float32) * 1e-3
    results = [[vector], *([np.zeros(1, np.float32)] for _ in range(sites - 1))]

    def masked(clock: Stopwatch) -> int:
        clients = Clients(
            results, upload=[ndarray_to_bytes(np.zeros(1, np.int64))] * 2, first=clock
        )
        SecureRound(clients).run(Stopwatch(), to_the_end=False)
        return clients.sent

    return masked


def server(size: int, sites: int, away: int) -> Work:
    """The server's part, without what clients do meanwhile."""
    words = np.random.default_rng(0).integers(0, 2**32, size, dtype=np.int64)
    upload = [ndarray_to_bytes(one) for one in (np.ones(1, np.int64), words)]
    del words
    results, lost = (
        [[np.zeros(1, np.float32)]] * sites,
        frozenset(range(sites - away + 1, sites + 1)),
    )

    def unmasked(clock: Stopwatch) -> int:
        SecureRound(Clients(results, lost, upload)).run(clock)
        return sum(map(len, upload))

    return unmasked


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("size", "sites"):
        parser.add_argument(name, type=int)
    parser.add_argument("kind", choices=("site", "server", "server-away"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable()
    if given.kind == "site":
        tell(site(given.size, given.sites), given.size, at_most=1)
    else:
        work = server(given.size, given.sites, away=int(given.kind == "server-away"))
        tell(work, given.size, given.sites, at_most=1)


if __name__ == "__main__":
    main()
