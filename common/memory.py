"""What the C library does with memory that is freed."""

from functools import cache

import torch

_LARGEST = 2**25 - 2**16
"""Bytes: a little below the most that glibc adapts to on a 64-bit machine."""


@cache
def keep_freed_memory() -> None:
    """Let this process keep up to 64 MiB of freed memory for the next step.

    glibc hands larger blocks back to the system at once and faults each page in again at the next
    use, until it has seen such a block freed (mallopt(3), M_MMAP_THRESHOLD). This one is never
    touched, so it costs nothing. Elsewhere it does nothing.
    """
    torch.empty(_LARGEST, dtype=torch.uint8)
