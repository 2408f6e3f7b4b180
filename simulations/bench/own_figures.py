"""The time and the memory that a contestant takes, measured in its own process."""

import contextlib
import ctypes
import gc
import time
from pathlib import Path


class Stopwatch:
    """Adds up the processor time and the wall time of the code in its `with` blocks."""

    def __init__(self) -> None:
        self.processor = self.wall = 0.0

    def __enter__(self) -> None:
        self.processor -= time.process_time()
        self.wall -= time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.processor += time.process_time()
        self.wall += time.perf_counter()


def forget_peak() -> int:
    """Free unused memory, reset the peak of resident memory, and return the resident KiB."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def memory(field: str) -> int:
    """VmHWM (the peak) or VmRSS of this process, in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}; memory is measured on Linux only")
