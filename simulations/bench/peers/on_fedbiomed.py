"""`hemofed bench masking` on Fed-BioMed: its low-overhead masking, LOM.

    python -m simulations.bench.peers.on_fedbiomed SIZE SITES {site,server}

A node, from its trained vector to the bytes of its reply: what its round calls, with the secrets
that it shares with the others made beforehand, as there. The researcher, from the bytes of SITES
replies to their mean. Its replies are lists of Python's integers, of which it holds all; here one
reply stands for all of them, so the memory is less than it takes.
"""

import argparse
import logging
import os

import numpy as np
import torch
from fedbiomed.common.secagg import SecaggLomCrypter
from fedbiomed.common.serializer import Serializer

from simulations.bench.sums.masking_figures import Work, tell, whole

_SAMPLES = 100
"""Of each node: its weight."""


def node(size: int, sites: int) -> Work:
    """Quantises, weighs, masks and packs one vector of `size` numbers."""
    names = [f"NODE_{number:03d}" for number in range(sites)]
    secrets = {name: os.urandom(32) for name in names[1:]}
    vector = np.random.default_rng(0).standard_normal(size, dtype=np.float32) * 1e-3

    def reply() -> int:
        masked = SecaggLomCrypter(nonce="0123456789abcdef").encrypt(
            current_round=1,
            node_id=names[0],
            params=vector.tolist(),
            pairwise_secrets=secrets,
            node_ids=names,
            weight=_SAMPLES,
        )
        return len(Serializer.dumps(masked))

    return whole(reply)


def researcher(size: int, sites: int) -> Work:
    """Reads and sums `sites` replies, and divides by their weight."""
    words = np.random.default_rng(0).integers(0, 2**64, size, dtype=np.uint64)
    sent = Serializer.dumps(words.tolist())
    del words

    def mean() -> int:
        for _ in range(sites):
            masked = Serializer.loads(sent)
        SecaggLomCrypter().aggregate(params=[masked] * sites, total_sample_size=_SAMPLES * sites)
        return len(sent)

    return whole(mean)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("size", "sites"):
        parser.add_argument(name, type=int)
    parser.add_argument("who", choices=("site", "server"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable()
    if given.who == "site":
        tell(node(given.size, given.sites), given.size)
    else:
        tell(researcher(given.size, given.sites), given.size, given.sites)


if __name__ == "__main__":
    main()
