"""Reproducible randomness for simulated sites: the same seed, the same run, bit for bit.

It protects nobody, and need not: simulated cells are public or rendered. It is handed to the
ClientApp as an object, here; a deployed client has no way to be given one.
"""

import hashlib
from dataclasses import dataclass

from flwr.clientapp import ClientApp

from common.config.study import Runtime
from common.privacy.noise_source import NoiseSource
from simulations.engine.workers import WorkerPool


@dataclass(frozen=True)
class SeededEntropy:
    """Bits that follow from the simulation's seed and their purpose alone."""

    seed: int
    repeats: bool = True

    def source(self, *purpose: str | int) -> NoiseSource:
        parts = [str(part) for part in (self.seed, *purpose)]
        return NoiseSource.seeded(hashlib.sha256("\0".join(parts).encode()).digest())


def make_client(seed: int) -> ClientApp:
    """The ClientApp of a simulated site."""
    from client.app import client_app  # loads torch; see `workers_of`

    return client_app(SeededEntropy(seed))


def workers_of(runtime: Runtime, seed: int) -> WorkerPool:
    """The pool that `runtime` asks for, its clients' randomness from `seed`.

    This module leaves torch to the workers, so who starts the pool before loading torch itself
    waits for one load of it and not for two.
    """
    return WorkerPool(runtime.workers, make_client, seed, preload=("client.app",))
