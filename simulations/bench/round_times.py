"""What a contestant of `hemofed bench rounds` notes of its rounds, and says as JSON at its end."""

import json
import time

import psutil


class RoundTimes:
    """Notes when each round ends, and how much memory is in use at the last one.

    Attributes: `ends` (seconds since the epoch), `memory` (proportional set size of the process and
    all its children, bytes), `weights` (the model after the last round as one vector; empty where
    an engine draws batches of its own, so that nothing can be compared).
    """

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self.ends: list[float] = []
        self.memory = 0
        self.weights: list[float] = []

    def tick(self) -> None:
        """Note that a round has ended."""
        self.ends.append(time.time())
        if len(self.ends) == self._rounds:
            self.memory = _memory()

    def say(self) -> None:
        """Print what was noted, in one line."""
        said = {"ends": self.ends, "memory": self.memory, "weights": self.weights}
        print(json.dumps(said), flush=True)


def _memory() -> int:
    me = psutil.Process()
    total = 0
    for process in (me, *me.children(recursive=True)):
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total
