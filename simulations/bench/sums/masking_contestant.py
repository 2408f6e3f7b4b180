"""One contestant of `hemofed bench masking`, in a process of its own; prints JSON.

    python -m simulations.bench.sums.masking_contestant WHAT SIZE SITES PEERS

A site, from its clipped sum of SIZE numbers to the bytes that it sends: `local` adds the whole
noise and sends float32; `masked` makes a key, rounds, adds its share, masks with PEERS others and
packs; `masks` is the masks alone. The server, from the bytes of SITES updates to their mean: `mean`
is the running mean of float32, `sum` the masked sum. `seconds` is processor time, in one thread.
Memory is the peak above what the process held before.
"""

import argparse
import os
from collections.abc import Callable

import numpy as np
import torch

from common.privacy.masking.integer_sum import IntegerSum, integer_sum
from common.privacy.masking.masks import add_mask
from common.privacy.masking.pairwise_keys import EphemeralKey, pair_key
from common.privacy.noise import NoiseSource, add_noise, privatise
from common.wire.packed_integers import pack
from common.wire.vector_codec import Vector, decode, encode
from server.aggregation.masked_sum import MaskedSum
from server.aggregation.running_mean import RunningMean
from simulations.bench.sums.masking_figures import tell, whole

CLIP = NOISE = 1.0
UNITS = 512.0
"""That all sites together expect in a round."""


def constants(size: int, sites: int) -> IntegerSum:
    """Of a sum in which one site may collude."""
    return integer_sum(size, CLIP, NOISE, sites - 1, [UNITS / sites] * sites, [1] * sites)


def site(kind: str, size: int, sites: int, peers: int) -> Callable[[], int]:
    """What the site does in a round; it returns the bytes that go up."""
    total, source, public = (
        torch.randn(size) / size**0.5,
        NoiseSource.secure(),
        constants(size, sites),
    )
    others = [EphemeralKey(os.urandom(32)).public for _ in range(peers)]
    shared = [os.urandom(32) for _ in range(peers)]

    def pairs(shared: list[bytes]) -> list[tuple[bytes, int]]:
        return [(pair_key(secret, b"context"), 1 - 2 * (n % 2)) for n, secret in enumerate(shared)]

    def local() -> int:
        private = privatise(total, max_grad_norm=CLIP, noise_multiplier=NOISE, source=source)
        return len(encode(private.numpy()).data)

    def masked() -> int:
        own = EphemeralKey(os.urandom(32))
        agreed = [own.shared(public) for public in others]
        values = public.encode(total, 1, UNITS / sites)
        add_noise(values, public.sigma, source)
        words = public.wrap(values)
        del values
        add_mask(words, pairs(agreed))
        return len(pack(words, public.bits))

    words = np.ones(size, public.dtype)

    def masks() -> int:
        add_mask(words, pairs(shared))
        return 0

    return {"local": local, "masked": masked, "masks": masks}[kind]


def server(kind: str, size: int, sites: int) -> Callable[[], int]:
    """What the server does in a round, to as many copies of one update."""
    names, public = [str(number) for number in range(sites)], constants(size, sites)
    vector: Vector = np.random.default_rng(0).standard_normal(size, dtype=np.float32) * 1e-3
    words = np.random.default_rng(0).integers(0, 2**public.bits, size, dtype=np.uint64)
    floats, packed = encode(vector), pack(words, public.bits)
    del vector, words

    def mean() -> int:
        running = RunningMean(size, dict.fromkeys(names, 1 / sites), max_norm=1e4)
        for name in names:
            running.add(name, decode(floats, size))
        running.result()
        return len(floats.data)

    def masked_sum() -> int:
        masked = MaskedSum(size, public.bits)
        for _ in names:
            masked.add(packed)
        public.decode(masked.total())
        return len(packed)

    return {"mean": mean, "sum": masked_sum}[kind]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("local", "masked", "masks", "mean", "sum"))
    for name in ("size", "sites", "peers"):
        parser.add_argument(name, type=int)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.kind in ("mean", "sum"):
        tell(whole(server(given.kind, given.size, given.sites)), given.size, given.sites)
    else:
        tell(whole(site(given.kind, given.size, given.sites, given.peers)), given.size)


if __name__ == "__main__":
    main()
