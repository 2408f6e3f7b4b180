"""`hemofed bench rounds` on Apple's pfl-research: federated averaging, in two processes.

    python -m simulations.bench.peers.on_pfl FOLDER

As its documentation has it for speed: users' tensors in memory, its simulated backend in several
processes that torch.distributed joins. Nothing is evaluated, and no metrics are written.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simulations.bench.peers.work import SharedWork
from simulations.bench.round_times import RoundTimes

_PROCESSES = 2
_RANK, _ADDRESSES = "PFL_WORKER_RANK", "PFL_WORKER_ADDRESSES"


class _Learner(nn.Module):
    """The network with the two functions that pfl calls."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self.network(images), targets)

    def metrics(self, images: Tensor, targets: Tensor) -> dict[str, Any]:
        """How many cells: pfl evaluates in its first round whatever it is told, here for nothing.

        `images` is not looked at.
        """
        return {"cells": float(len(targets))}


def train(work: SharedWork, clock: RoundTimes) -> None:
    """Train on this process's share of the clients; every process ends with the same model."""
    # pfl joins the processes when it is imported.
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.aggregate.weighting import WeightByDatapoints
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
    from pfl.model.pytorch import PyTorchModel

    settings, clients = work.settings, len(work.rows)
    learner = _Learner(work.model())
    data = _users(work)
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=settings.rounds,
            evaluation_frequency=settings.rounds,
            train_cohort_size=clients,
            val_cohort_size=0,
        ),
        SimulatedBackend(data, data, postprocessors=[WeightByDatapoints()]),
        PyTorchModel(learner, torch.optim.SGD, torch.optim.SGD(learner.parameters(), lr=1.0)),
        NNTrainHyperParams(
            local_batch_size=settings.batch_size,
            local_num_epochs=1,
            local_learning_rate=settings.learning_rate,
        ),
        NNEvalHyperParams(local_batch_size=None),
        callbacks=[_ticking(clock)],
        send_metrics_to_platform=False,
    )
    clock.weights = nn.utils.parameters_to_vector(learner.parameters()).tolist()


def _users(work: SharedWork) -> Any:
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.pytorch import PyTorchTensorDataset
    from pfl.data.sampling import get_user_sampler

    users = [PyTorchTensorDataset(work.cells(client)) for client in range(len(work.rows))]
    sampler = get_user_sampler("minimize_reuse", list(range(len(users))))
    return FederatedDataset(users.__getitem__, sampler)


def _ticking(clock: RoundTimes) -> Any:
    from pfl.callback.base import TrainingProcessCallback
    from pfl.metrics import Metrics

    class Ticking(TrainingProcessCallback):  # type: ignore[misc]
        def after_central_iteration(self, *_: Any, **__: Any) -> tuple[bool, Any]:
            clock.tick()
            return False, Metrics()

    return Ticking()


def _others(folder: Path) -> list[subprocess.Popen[bytes]]:
    """Start the other processes and name all of them to pfl; nothing where this is one of them."""
    if _RANK in os.environ:
        return []
    addresses = ",".join(f"localhost:{_free_port()}" for _ in range(_PROCESSES))
    os.environ[_ADDRESSES] = addresses
    started = []
    for rank in range(1, _PROCESSES):
        command = [sys.executable, "-P", "-m", "simulations.bench.peers.on_pfl", str(folder)]
        environment = os.environ | {_RANK: str(rank)}
        started.append(subprocess.Popen(command, env=environment))  # noqa: S603
    os.environ[_RANK] = "0"
    return started


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
    return port


def main() -> None:
    folder = Path(sys.argv[1])
    others = _others(folder)
    torch.set_num_threads(1)
    np.random.seed(0)
    work = SharedWork.read(folder)
    clock = RoundTimes(work.settings.rounds)
    train(work, clock)
    # Memory is counted while all of them live.
    torch.distributed.barrier()
    if os.environ[_RANK] == "0":
        clock.say()
    if any(other.wait() for other in others):
        raise RuntimeError("a process of pfl failed")


if __name__ == "__main__":
    main()
