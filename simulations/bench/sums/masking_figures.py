"""What a contestant of `hemofed bench masking` tells of its work, in its own process.

Nothing here may import what hemofed depends on: frameworks with environments of their own use it.
"""

import json
from collections.abc import Callable

from simulations.bench.own_figures import Stopwatch, forget_peak, memory

Work = Callable[[Stopwatch], int]
"""Does what is measured once, within the stopwatch's `with`, and returns the bytes that go up."""

_LEAST_VALUES = 2_000_000
"""Small vectors are done again until they come to so many values, and the time divided."""


def whole(work: Callable[[], int]) -> Work:
    """All of `work` is measured."""

    def timed(clock: Stopwatch) -> int:
        with clock:
            return work()

    return timed


def tell(work: Work, size: int, vectors: int = 1, at_most: int | None = None) -> None:
    """Do the work on `vectors` vectors of `size` numbers, and print its figures as JSON.

    Small work is done once before, unmeasured, and then again and again: `at_most` so many times.
    """
    times = max(1, _LEAST_VALUES // (size * vectors))
    if times > 1:
        work(Stopwatch())  # Tables and lazily loaded code; a long one does not notice them.
    times = min(times, at_most or times)
    held, clock = forget_peak(), Stopwatch()
    sent = 0
    for _ in range(times):
        sent = work(clock)
    figures = {"seconds": clock.processor / times, "wall, s": clock.wall / times}
    if sent:
        figures["bytes / float32"] = sent / (4 * size)
    print(json.dumps(figures | {"memory, MiB": (memory("VmHWM") - held) / 1024}))
