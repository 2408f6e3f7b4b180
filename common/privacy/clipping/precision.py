"""float32 arithmetic in full precision, on every device."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """Inside the block float32 products use neither TF32 nor bfloat16, whatever the process chose.

    Their 10 or 8 bits would round a unit's norm by more than the clipping's margin. Convolutions
    are deterministic, since a gradient that is computed twice must be the same. The block's end
    restores the process's settings.
    """
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.deterministic
    torch.set_float32_matmul_precision("highest")
    cudnn.allow_tf32, cudnn.deterministic = False, True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32, cudnn.deterministic = before[1:]


def no_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Autocast is off inside the block. Where it is off already, the block does nothing: entering
    autocast takes microseconds."""
    kind = device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()
