"""`hemofed bench rounds` on BlazeFL: its own federated averaging, two clients at a time.

    python -m simulations.bench.peers.on_blazefl FOLDER {threads,processes}

Threads are what its documentation recommends, for a Python without the GIL. Its loaders are given
whole batches to slice, and its processes, new ones in every round, are forked with the cells in
memory and torch's compiler loaded, which the first optimizer asks for: both are faster than its
examples. Its processes have ended when a round has, so the memory is without them.
"""

import copy
import sys
import tempfile
from functools import cache, lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from blazefl.contrib import (
    FedAvgBaseServerHandler,
    FedAvgProcessPoolClientTrainer,
    FedAvgThreadPoolClientTrainer,
)
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler, TensorDataset

from simulations.bench.peers.work import SharedWork
from simulations.bench.round_times import RoundTimes

_PARALLEL = 2

work_in = lru_cache(SharedWork.read)


@cache
def _cells(folder: Path, client: int) -> TensorDataset:
    return TensorDataset(*work_in(folder).cells(client))


@lru_cache
def _first_model(folder: Path) -> nn.Module:
    return work_in(folder).model()


class FirstModel:
    """BlazeFL's model selector: there is one model, and everyone gets a copy."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def select_model(self, model_name: str) -> nn.Module:
        return copy.deepcopy(_first_model(self._folder))


class CellsOfClients:
    """BlazeFL's partitioned dataset; it travels to the processes as a path alone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get_dataset(self, type_: str, cid: int) -> Dataset[Any]:
        return _cells(self._folder, cid)

    def set_dataset(self, type_: str, cid: int, dataset: Dataset[Any]) -> None:
        """Nothing: training changes no cell."""

    def get_dataloader(self, type_: str, cid: int, batch_size: int, generator: Any) -> Any:
        cells = _cells(self._folder, cid)
        order = BatchSampler(SequentialSampler(cells), batch_size, drop_last=False)
        return DataLoader(cells, batch_size=None, sampler=order)


def train(folder: Path, mode: str) -> RoundTimes:
    """Run all rounds; `mode` is threads or processes."""
    settings, clients = work_in(folder).settings, len(work_in(folder).rows)
    for client in range(clients):
        _cells(folder, client)
    parts = {
        "model_selector": FirstModel(folder),
        "model_name": "cnn",
        "dataset": CellsOfClients(folder),
        "num_clients": clients,
        "device": "cpu",
        "batch_size": settings.batch_size,
        "seed": 0,
    }
    handler = FedAvgBaseServerHandler(global_round=settings.rounds, sample_ratio=1.0, **parts)
    steps = {"epochs": 1, "lr": settings.learning_rate, "num_parallels": _PARALLEL}
    clock = RoundTimes(settings.rounds)
    with tempfile.TemporaryDirectory() as states:
        if mode == "threads":
            trainer = FedAvgThreadPoolClientTrainer(**parts, **steps)
        else:
            trainer = FedAvgProcessPoolClientTrainer(state_dir=Path(states), **parts, **steps)
        while not handler.is_stopped():
            trainer.local_process(handler.downlink_package(), handler.sample_clients())
            for package in trainer.uplink_package():
                handler.load(package)
            clock.tick()
    clock.weights = nn.utils.parameters_to_vector(handler.model.parameters()).tolist()
    return clock


def main() -> None:
    folder, mode = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    if mode == "processes":
        torch.multiprocessing.set_start_method("fork")
        import_module("torch._dynamo")
    train(folder, mode).say()


if __name__ == "__main__":
    main()
