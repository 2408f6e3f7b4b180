"""Reproducible randomness for simulated sites: the same seed gives the same run, bit for bit.

It protects nobody and need not, because simulated cells are public or rendered. It is passed to the
ClientApp as an object in this module; a deployed client cannot be given one.
"""

import hashlib
import os
from dataclasses import dataclass

from flwr.clientapp import ClientApp

from common.config.study import Runtime
from common.errors import ConfigError
from common.privacy.noise_source import NoiseSource
from simulations.engine.processes import processes
from simulations.engine.workers import WorkerPool


@dataclass(frozen=True)
class SeededEntropy:
    """Randomness that depends only on the simulation's seed and on its purpose."""

    seed: int
    repeats: bool = True
    """Whether the same purpose gives the same randomness again."""

    def source(self, *purpose: str | int) -> NoiseSource:
        """Return the source of randomness for this purpose."""
        parts = [str(part) for part in (self.seed, *purpose)]
        return NoiseSource.seeded(hashlib.sha256("\0".join(parts).encode()).digest())


def make_client(seed: int, number: int) -> ClientApp:
    """Return the ClientApp of simulated sites, for worker `number` of its machine."""
    from client.app import client_app  # loads torch; see `workers_of`

    return client_app(SeededEntropy(seed), turn=number)


def workers_of(runtime: Runtime, seed: int) -> WorkerPool:
    """Return the pool of workers that `runtime` asks for, with clients seeded by `seed`.

    This module does not import torch itself: a caller that starts the pool before it loads torch
    waits for one load and not for two.

    Raises:
        ConfigError: the workers need more GPUs than this machine has.
    """
    start = processes(make_client, seed, preload=("client.app",))
    return WorkerPool(_local_size(runtime), start)


def _local_size(runtime: Runtime) -> int:
    cores = os.cpu_count() or 1
    if not runtime.gpus_per_client:
        return runtime.workers or cores
    from common.device import clients_on_gpus

    room = clients_on_gpus(runtime.gpus_per_client)
    if runtime.workers and runtime.workers > room:
        raise ConfigError(
            f"runtime.gpus_per_client: {runtime.gpus_per_client:g} for each of {runtime.workers} "
            f"workers is more than this machine's GPUs, which have room for {room}; set "
            f"runtime.workers to {room}, or give each worker less"
        )
    return runtime.workers or min(cores, room)
