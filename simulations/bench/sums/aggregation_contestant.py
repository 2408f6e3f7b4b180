"""One contestant of `hemofed bench aggregation`, in a process of its own; prints JSON.

    python -m simulations.bench.sums.aggregation_contestant {layers,flat,mean} SITES

layers: Flower's FedAvg on a ResNet-18's tensors. flat: the same on one tensor. mean: hemofed.
The time runs from the replies' bytes to the aggregate; making the replies is not included.
`seconds` is processor time, which other work on the machine disturbs the least. Memory is the
process's peak (VmHWM) above what it held before the first reply.
"""

import argparse
import json

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from common.cell_types import CELL_TYPES
from common.config.study import ModelSpec
from common.models import build
from common.models.parameter_vector import Layout
from common.wire.vector_codec import Vector, decode, encode
from server.aggregation.running_mean import RunningMean
from simulations.bench.own_figures import Stopwatch, forget_peak, memory

_MAX_NORM = 1e4


def fedavg(shapes: list[tuple[int, ...]], base: Vector, sites: int, clock: Stopwatch) -> None:
    """Aggregate all replies with Flower's FedAvg, which holds them in memory."""
    replies = [
        RecordDict(
            {
                "arrays": ArrayRecord({str(n): Array(part) for n, part in enumerate(parts)}),
                "metrics": MetricRecord({"num-examples": 100 + site}),
            }
        )
        for site in range(sites)
        for parts in [_parts(shapes, base * np.float32(1 + site))]
    ]
    with clock:
        aggregate_arrayrecords(replies, "num-examples")


def running_mean(base: Vector, sites: int, clock: Stopwatch) -> None:
    """Aggregate all replies with the running mean, one at a time."""
    names = [str(site) for site in range(sites)]
    with clock:
        mean = RunningMean(len(base), dict.fromkeys(names, 1 / sites), _MAX_NORM)
    for site, name in enumerate(names):
        reply = encode(base * np.float32(1 + site))
        with clock:
            mean.add(name, decode(reply, len(base)))
    with clock:
        mean.result()


def _parts(shapes: list[tuple[int, ...]], values: Vector) -> list[Vector]:
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    pieces = np.split(values, ends[:-1])
    return [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("contestant", choices=("layers", "flat", "mean"))
    parser.add_argument("sites", type=int)
    arguments = parser.parse_args()
    model = build(ModelSpec(name="resnet18"), len(CELL_TYPES), 64, 0)
    layout = Layout.of(model)
    base = np.random.default_rng(0).standard_normal(layout.size, dtype=np.float32) * 1e-3
    del model
    held, clock = forget_peak(), Stopwatch()
    match arguments.contestant:
        case "layers":
            fedavg([shape for _, shape in layout.shapes], base, arguments.sites, clock)
        case "flat":
            fedavg([(layout.size,)], base, arguments.sites, clock)
        case _:
            running_mean(base, arguments.sites, clock)
    figures = {"seconds": clock.processor, "wall, s": clock.wall}
    print(json.dumps(figures | {"memory, MiB": (memory("VmHWM") - held) / 1024}))


if __name__ == "__main__":
    main()
